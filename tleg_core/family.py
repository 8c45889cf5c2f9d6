"""The family: all descendants that a learngene can make, with their costs, and the source of any member's every tensor.

The budget solver, the file writer and the service know families only. How a tensor comes about (combined, copied, resampled,
zero, drawn) is a `TensorSource`, so a new kind of learngene needs new sources and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from tleg_core.budget import Accuracy, Candidate
from tleg_core.cost import cost
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.expansion import combine
from tleg_core.fresh import draw
from tleg_core.learngene import Array, Learngene
from tleg_core.position import MAX_GRID, resample
from tleg_core.recipe import Head, Member, Recipe
from tleg_core.vit import TensorSpec, VitConfig, inventory

_POSITIONS = 8  # resampled embeddings kept for a family, at most 13 MB each for a ViT-B


class TensorSource(Protocol):
    """Where the elements of one tensor come from."""

    def read(self, start: int, stop: int) -> Array:
        """Return elements `start`..`stop` of the flattened tensor, shape (stop - start,), float32."""
        ...


@dataclass(frozen=True, slots=True)
class Combined:
    """A block tensor: the learngene's components, combined with one row of the schedule."""

    coefficients: Sequence[float]
    components: Sequence[Array]  # K flat arrays

    def read(self, start: int, stop: int) -> Array:
        """Return a slice of the combination; only the slice is computed."""
        return combine(self.coefficients, [component[start:stop] for component in self.components])


@dataclass(frozen=True, slots=True)
class Copied:
    """A tensor that is stored once."""

    values: Array  # flat

    def read(self, start: int, stop: int) -> Array:
        """Return a view of the stored values."""
        return self.values[start:stop]


@dataclass(frozen=True, slots=True)
class Resampled:
    """A position embedding at another image size; it is asked for when it is read, so that a plan holds no weights."""

    position: Callable[[int], Array]
    grid_size: int

    def read(self, start: int, stop: int) -> Array:
        """Return a slice of the resampled embedding."""
        return self.position(self.grid_size)[start:stop]


@dataclass(frozen=True, slots=True)
class Zeros:
    """A tensor of zeros."""

    def read(self, start: int, stop: int) -> Array:
        """Return zeros."""
        return np.zeros(stop - start, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A tensor drawn by seed and name."""

    seed: int
    name: str

    def read(self, start: int, stop: int) -> Array:
        """Return a slice of the draw; only the slice is drawn."""
        return draw(self.seed, self.name, start, stop)


@dataclass(frozen=True, slots=True)
class Variation:
    """What a request changes of a learngene's own network, None for no change, and the shape that costs are counted for."""

    num_classes: int | None = None
    img_size: int | None = None
    dtype: DType = DType.FLOAT32
    batch_size: int = 1

    def with_head(self, head: Head | None) -> Variation:
        """Return this variation with the number of classes that `head` implies: none of them has no head."""
        return replace(self, num_classes=0) if head is Head.NONE and self.num_classes is None else self


class Family:
    """All descendants of one learngene."""

    def __init__(self, learngene: Learngene) -> None:
        self.learngene = learngene
        self._accuracy: dict[Member, dict[str, Accuracy]] = {}
        for entry in learngene.description.accuracy:
            measured = self._accuracy.setdefault(Member(depth=entry.depth), {})
            measured[entry.data_set] = Accuracy(top1=entry.top1, images=entry.images)
        self.candidates = lru_cache(maxsize=256)(self._candidates)
        self._position = lru_cache(maxsize=_POSITIONS)(self._resampled_position)

    @property
    def name(self) -> str:
        """The learngene's id."""
        return self.learngene.name

    @property
    def digest(self) -> str:
        """The learngene's digest, 64 hex digits."""
        return self.learngene.digest

    @property
    def members(self) -> tuple[Member, ...]:
        """Every member, smallest first."""
        description = self.learngene.description
        return tuple(Member(depth=depth) for depth in range(description.min_depth, description.max_depth + 1))

    def config(self, *, num_classes: int | None = None, img_size: int | None = None) -> VitConfig:
        """Return the network's configuration with another head or image size.

        Raises:
            ConfigError: The head or the image size cannot be had.
        """
        config = self.learngene.description.config
        if img_size is not None and img_size != config.img_size:
            if img_size % config.patch_size:
                raise ConfigError("image_size", f"{img_size} is not a multiple of the patch size {config.patch_size}")
            if not 1 <= img_size // config.patch_size <= MAX_GRID:
                raise ConfigError("image_size", f"must be from {config.patch_size} to {MAX_GRID * config.patch_size}")
        return config.with_changes(num_classes=num_classes, img_size=img_size)

    def _candidates(self, variation: Variation) -> tuple[Candidate, ...]:
        """Return every member with its costs under `variation`, and with its measured accuracy.

        The accuracy is that of the network as it was trained; with another image size or head it is the best guess there is.
        """
        config = self.config(num_classes=variation.num_classes, img_size=variation.img_size)
        return tuple(
            Candidate(
                learngene=self.name,
                member=member,
                cost=cost(config, member.depth, dtype=variation.dtype, batch_size=variation.batch_size),
                accuracy=self.accuracy(member),
            )
            for member in self.members
        )

    def accuracy(self, member: Member) -> dict[str, Accuracy]:
        """Return the measured accuracy of a member by data set, with the learngene's own head and image size."""
        return dict(self._accuracy.get(member, {}))

    def accuracy_of(self, recipe: Recipe) -> dict[str, Accuracy]:
        """Return the measured accuracy of a descendant by data set: none where its head or image size is another."""
        own = recipe.head is Head.INHERIT and recipe.img_size == self.learngene.description.config.img_size
        return self.accuracy(recipe.member) if own else {}

    def recipe(self, member: Member, variation: Variation, *, head: Head | None = None, seed: int = 0) -> Recipe:
        """Return the recipe of one member.

        Without `head`, the learngene's own is inherited where the number of classes is its own, and is zero otherwise: a zero
        head predicts all classes alike and lets fine-tuning start from the features.

        Raises:
            ConfigError: The member, the head or the image size cannot be had.
        """
        description = self.learngene.description
        own_classes = description.config.num_classes
        num_classes = variation.with_head(head).num_classes
        if num_classes is None:
            num_classes = own_classes
        if head is None:
            head = Head.NONE if num_classes == 0 else Head.INHERIT if num_classes == own_classes else Head.ZERO
        if head is Head.INHERIT and num_classes != own_classes:
            raise ConfigError("head", f"'inherit' needs the learngene's own {own_classes} classes, not {num_classes}")
        if not description.min_depth <= member.depth <= description.max_depth:
            raise ConfigError("depth", f"must be from {description.min_depth} to {description.max_depth}, not {member.depth}")
        config = self.config(num_classes=num_classes, img_size=variation.img_size)
        return Recipe(
            learngene=self.digest,
            member=member,
            num_classes=num_classes,
            head=head,
            seed=seed if head is Head.RANDOM else None,
            img_size=config.img_size,
            dtype=variation.dtype,
        )

    def sources(self, recipe: Recipe) -> tuple[tuple[TensorSpec, TensorSource], ...]:
        """Return every tensor of the recipe's network, in timm's order, with its source.

        Raises:
            ConfigError: The recipe is of another learngene.
        """
        if recipe.learngene != self.digest:
            raise ConfigError("learngene", f"the recipe is of {recipe.learngene[:16]}…, this learngene is {self.digest[:16]}…")
        config = self.config(num_classes=recipe.num_classes, img_size=recipe.img_size)
        rows = self.learngene.description.schedule.coefficients(recipe.member.depth)
        flat = {part: [component.reshape(-1) for component in self.learngene.basis(part)] for part in self._parts}

        def source(spec: TensorSpec) -> TensorSource:
            if spec.layer is not None:
                return Combined(rows[spec.layer], flat[spec.part])
            if spec.name == "pos_embed":
                return Resampled(self._position, config.grid_size)
            if spec.name.startswith("head.") and recipe.head is not Head.INHERIT:
                if recipe.seed is None or spec.name == "head.bias":
                    return Zeros()
                return Fresh(recipe.seed, spec.name)
            return Copied(self.learngene.tensors[spec.name].reshape(-1))

        return tuple((spec, source(spec)) for spec in inventory(config, recipe.member.depth))

    @property
    def _parts(self) -> list[str]:
        """The names of a block's tensors."""
        return [name.removeprefix("basis.") for name in self.learngene.tensors if name.startswith("basis.")]

    def _resampled_position(self, grid_size: int) -> Array:
        """Return the flat position embedding for another grid."""
        old_grid = self.learngene.description.config.grid_size
        return resample(self.learngene.tensors["pos_embed"], old_grid=old_grid, new_grid=grid_size).reshape(-1)
