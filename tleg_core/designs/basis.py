"""The basis: K components of each block tensor, and the schedule that combines them into layers, at any depth of a range.

Shape legend: K components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tleg_core.errors import ConfigError
from tleg_core.recipe import Member
from tleg_core.schedule import Coefficients, Inherited, Schedule
from tleg_core.stack import Stack
from tleg_core.tensor_source import Array, Combined, Copied, TensorSource, initial
from tleg_core.vit import MAX_DEPTH, Shape, TensorSpec, VitConfig, block_shapes, stem_shapes, tail_shapes


def basis_shapes(config: VitConfig, num_components: int) -> dict[str, Shape]:
    """Return every tensor of a basis: `basis.<part>` (K, ...), and those outside the blocks under timm's names."""
    basis = {f"basis.{part}": (num_components, *shape) for part, shape in block_shapes(config).items()}
    return stem_shapes(config) | basis | tail_shapes(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The design of TLEG, and of all that gives each layer a row of coefficients.

    Args:
        schedule: The rule that gives each layer its coefficients.
        config: The network without its depth.
        min_depth: The smallest depth offered.
        max_depth: The largest depth offered.
        trained_depth: The depth of the auxiliary model, or None where nothing was trained.
    """

    schedule: Schedule
    config: VitConfig
    min_depth: int = 1
    max_depth: int = 12
    trained_depth: int | None

    def __post_init__(self) -> None:
        low = self.schedule.min_depth
        whole = _is_whole(self.min_depth) and _is_whole(self.max_depth)
        if not (whole and low <= self.min_depth <= self.max_depth <= MAX_DEPTH):
            raise ConfigError(
                "depths", f"{self.min_depth!r}..{self.max_depth!r} must lie within {low}..{MAX_DEPTH}, the smaller first"
            )
        if self.trained_depth is not None and not (_is_whole(self.trained_depth) and 1 <= self.trained_depth <= MAX_DEPTH):
            raise ConfigError("trained_depth", f"must be from 1 to {MAX_DEPTH}, not {self.trained_depth!r}")

    def __str__(self) -> str:
        """Return the design in words."""
        return str(self.schedule)

    @property
    def members(self) -> tuple[Member, ...]:
        """One of each depth, smallest first."""
        return tuple(Member(depth=depth) for depth in range(self.min_depth, self.max_depth + 1))

    def tensor_shapes(self) -> dict[str, Shape]:
        """Return every tensor of the file with its shape."""
        return basis_shapes(self.config, self.schedule.num_components)

    def check(self, member: Member) -> None:
        """Raise `ConfigError` unless there is that member."""
        if member.path is not None:
            raise ConfigError("path", "is for a pool of anchors; this learngene's members have a depth alone")
        if not self.min_depth <= member.depth <= self.max_depth:
            raise ConfigError("depth", f"must be from {self.min_depth} to {self.max_depth}, not {member.depth}")

    def draws(self, member: Member) -> bool:
        """Whether a layer is fresh: where only some are inherited."""
        return isinstance(self.schedule, Inherited) and member.depth > self.schedule.num_components

    def stack(self, member: Member) -> Stack:
        """Return the plain ViT of that depth."""
        return Stack.plain(self.config, member.depth)

    def source(self, spec: TensorSpec, member: Member, tensors: Mapping[str, Array], seed: int) -> TensorSource:
        """Return a block tensor's combination; what is outside the blocks is copied, a layer without a row drawn."""
        if spec.layer is None:
            return Copied(spec.name, tensors[spec.name].reshape(-1))
        row = _rows(self.schedule, member.depth)[spec.layer]
        if not any(row):
            return initial(seed, spec.name)
        name = f"basis.{spec.part}"
        return Combined(name, row, tensors[name].reshape(len(row), -1))

    def core_json(self) -> dict[str, Any]:
        """Return schedule and network."""
        return {"schedule": self.schedule.to_json(), "config": self.config.to_json()}

    def rest_json(self) -> dict[str, Any]:
        """Return the depths."""
        return {"depths": {"min": self.min_depth, "max": self.max_depth}, "trained_depth": self.trained_depth}


@lru_cache(maxsize=256)
def _rows(schedule: Schedule, depth: int) -> Coefficients:
    return schedule.coefficients(depth)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
