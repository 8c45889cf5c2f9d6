"""Scratch: nothing is stored, and every tensor of a member is drawn. The baseline that can be asked for like any other.

The draws are those of timm's ViT as far as their moments go: linear weights, tokens and positions have a standard deviation of
0.02, the patch embedding that of torch's uniform one, 1 / sqrt(3 C P^2); biases are zero.

Shape legend: C in_chans, P patch_size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tleg_core.errors import ConfigError
from tleg_core.fresh import INIT_STD
from tleg_core.recipe import Member
from tleg_core.stack import Stack
from tleg_core.tensor_source import Array, TensorSource, initial
from tleg_core.vit import MAX_DEPTH, Shape, TensorSpec, VitConfig

_CLASS_TOKEN_STD = 1e-6  # timm's


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Networks of a range of depths, all of them fresh.

    Args:
        config: The network without its depth.
        min_depth: The smallest depth offered.
        max_depth: The largest depth offered.
    """

    config: VitConfig
    min_depth: int = 1
    max_depth: int = 12

    def __post_init__(self) -> None:
        depths = (self.min_depth, self.max_depth)
        whole = all(isinstance(depth, int) and not isinstance(depth, bool) for depth in depths)
        if not (whole and 1 <= self.min_depth <= self.max_depth <= MAX_DEPTH):
            raise ConfigError(
                "depths", f"{self.min_depth!r}..{self.max_depth!r} must lie within 1..{MAX_DEPTH}, the smaller first"
            )

    def __str__(self) -> str:
        """Return the design in words."""
        return "nothing stored, everything drawn"

    @property
    def members(self) -> tuple[Member, ...]:
        """One of each depth, smallest first."""
        return tuple(Member(depth=depth) for depth in range(self.min_depth, self.max_depth + 1))

    def tensor_shapes(self) -> dict[str, Shape]:
        """Return nothing: nothing is stored."""
        return {}

    def check(self, member: Member) -> None:
        """Raise `ConfigError` unless there is that member."""
        if member.path is not None:
            raise ConfigError("path", "is for a pool of anchors; networks from scratch have a depth alone")
        if not self.min_depth <= member.depth <= self.max_depth:
            raise ConfigError("depth", f"must be from {self.min_depth} to {self.max_depth}, not {member.depth}")

    def draws(self, _member: Member) -> bool:
        """Everything is drawn."""
        return True

    def stack(self, member: Member) -> Stack:
        """Return the plain ViT of that depth."""
        return Stack.plain(self.config, member.depth)

    def source(self, spec: TensorSpec, _member: Member, _tensors: Mapping[str, Array], seed: int) -> TensorSource:
        """Return the draw that the tensor is."""
        return initial(seed, spec.name, std=self._std(spec))

    def _std(self, spec: TensorSpec) -> float:
        if spec.name == "patch_embed.proj.weight":
            return 1.0 / math.sqrt(3 * self.config.in_chans * self.config.patch_size**2)
        return _CLASS_TOKEN_STD if spec.name == "cls_token" else INIT_STD

    def core_json(self) -> dict[str, Any]:
        """Return the network."""
        return {"config": self.config.to_json()}

    def rest_json(self) -> dict[str, Any]:
        """Return the depths."""
        return {"depths": {"min": self.min_depth, "max": self.max_depth}}
