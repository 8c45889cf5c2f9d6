"""The family: all descendants that a learngene can make, with their costs, and the source of any member's every tensor.

The budget solver, the file writer and the service know families only. How a tensor comes about (combined, copied, resampled,
zero, drawn) is a `TensorSource`; which one it is, the learngene's design says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from tleg_core.budget import Accuracy, Candidate
from tleg_core.cost import Cost, stack_cost
from tleg_core.designs.design import Design
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.learngene import Learngene
from tleg_core.position import MAX_GRID, resample
from tleg_core.recipe import Head, Member, Recipe
from tleg_core.stack import Stack
from tleg_core.tensor_source import Array, Copied, Filled, Resampled, TensorSource, initial
from tleg_core.vit import TensorSpec, VitConfig

_CANDIDATES = 8_192  # kept for a family, half a kilobyte and more each: of as many variations as that makes
_VARIATIONS = 256
_POSITIONS = 8  # resampled embeddings kept for a family, at most 13 MB each for a ViT-B


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
            measured = self._accuracy.setdefault(entry.member, {})
            measured[entry.data_set] = Accuracy(top1=entry.top1, images=entry.images)
        variations = min(_VARIATIONS, _CANDIDATES // len(self.members) + 1)  # a pool may have thousands of members
        self.candidates = lru_cache(maxsize=variations)(self._candidates)
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
        """Every member, in the design's order."""
        return self._design.members

    @property
    def _design(self) -> Design:
        return self.learngene.description.design

    def config(self, *, num_classes: int | None = None, img_size: int | None = None) -> VitConfig:
        """Return the network's configuration with another head or image size; where widths change, the widest one's.

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

    def stack(self, member: Member, *, num_classes: int | None = None, img_size: int | None = None) -> Stack:
        """Return a member's network, with another head or image size.

        Raises:
            ConfigError: There is no such member, or the head or the image size cannot be had.
        """
        self._design.check(member)
        self.config(num_classes=num_classes, img_size=img_size)  # names what cannot be had in the request's words
        return self._design.stack(member).with_changes(num_classes=num_classes, img_size=img_size)

    def _candidates(self, variation: Variation) -> tuple[Candidate, ...]:
        """Return every member with its costs under `variation`, and with its measured accuracy.

        The accuracy is that of the network as it was trained; with another image size or head it is the best guess there is.
        """

        def costs(member: Member) -> Cost:
            stack = self.stack(member, num_classes=variation.num_classes, img_size=variation.img_size)
            return stack_cost(stack, dtype=variation.dtype, batch_size=variation.batch_size)

        return tuple(
            Candidate(learngene=self.name, member=member, cost=costs(member), accuracy=self.accuracy(member))
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

        Without `head`, the learngene's own is inherited where there is one and the number of classes is its own, and is zero
        otherwise: a zero head predicts all classes alike and lets fine-tuning start from the features.

        Raises:
            ConfigError: The member, the head or the image size cannot be had.
        """
        description = self.learngene.description
        own_classes = description.config.num_classes
        num_classes = variation.with_head(head).num_classes
        if num_classes is None:
            num_classes = own_classes
        has_head = self._has_head
        if head is None:
            own = has_head and num_classes == own_classes
            head = Head.NONE if num_classes == 0 else Head.INHERIT if own else Head.ZERO
        if head is Head.INHERIT and not has_head:
            raise ConfigError("head", f"'inherit' needs a trained head; {self.name} is {description.method.value}")
        if head is Head.INHERIT and num_classes != own_classes:
            raise ConfigError("head", f"'inherit' needs the learngene's own {own_classes} classes, not {num_classes}")
        stack = self.stack(member, num_classes=num_classes, img_size=variation.img_size)
        return Recipe(
            learngene=self.digest,
            member=member,
            num_classes=num_classes,
            head=head,
            seed=seed if head is Head.RANDOM or self._design.draws(member) else None,
            img_size=stack.config.img_size,
            dtype=variation.dtype,
        )

    def sources(self, recipe: Recipe) -> tuple[tuple[TensorSpec, TensorSource], ...]:
        """Return every tensor of the recipe's network, in timm's order, with its source.

        Raises:
            ConfigError: The recipe is of another learngene.
        """
        if recipe.learngene != self.digest:
            raise ConfigError("learngene", f"the recipe is of {recipe.learngene[:16]}…, this learngene is {self.digest[:16]}…")
        stack = self.stack(recipe.member, num_classes=recipe.num_classes, img_size=recipe.img_size)
        return tuple((spec, self._source(spec, recipe, stack.first.grid_size)) for spec in stack.inventory())

    def _source(self, spec: TensorSpec, recipe: Recipe, grid_size: int) -> TensorSource:
        if spec.name.startswith("head.") and recipe.head is not Head.INHERIT:
            return initial(recipe.seed or 0, spec.name) if recipe.head is Head.RANDOM else Filled(0.0)
        source = self._design.source(spec, recipe.member, self.learngene.tensors, recipe.seed or 0)
        if spec.name == "pos_embed" and isinstance(source, Copied):
            return Resampled(self._position, source.name, grid_size)
        return source

    @property
    def _has_head(self) -> bool:
        """Whether a head was trained: with the members' own number of classes."""
        return self.learngene.description.config.num_classes > 0 and bool(self.learngene.tensors)

    def _resampled_position(self, name: str, grid_size: int) -> Array:
        """Return the flat position embedding `name` for another grid."""
        old_grid = self.learngene.description.config.grid_size
        return resample(self.learngene.tensors[name], old_grid=old_grid, new_grid=grid_size).reshape(-1)
