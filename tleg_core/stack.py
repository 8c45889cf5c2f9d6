"""The stack: a vision Transformer whose blocks come in stages of one width each, and the inventory of its tensors.

One stage is a plain ViT, which timm builds. Between two stages stands a stitch, a linear layer that maps every token from the
width before to the width after; that network is `tleg_core.training.stitched_vit`'s. Image, patches, pooling and classes are
the same in all stages: the first one embeds the image, the last one has the final norm and the head.

Shape legend: D_s width of stage s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

from tleg_core.errors import ConfigError
from tleg_core.path import MAX_SEGMENTS
from tleg_core.vit import (
    TensorSpec,
    VitConfig,
    block_shapes,
    check_depth,
    inventory,
    stem_shapes,
    tail_shapes,
    timm_architecture,
    timm_model_args,
)

STITCHED_VIT = "tleg_stitched_vit"
"""The architecture's name where there are several stages; timm has it as soon as `tleg_core.training` was imported."""

_SHARED = ("img_size", "patch_size", "in_chans", "num_classes", "class_token", "global_pool")
_OF_STAGE = ("embed_dim", "num_heads", "mlp_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks of one width: the network that they are of, and how many."""

    config: VitConfig
    depth: int

    def __post_init__(self) -> None:
        check_depth(self.depth)


@dataclass(frozen=True, slots=True)
class Stack:
    """Stages, the first one nearest to the image.

    Raises:
        ConfigError: There is none, or too many, or they differ in what they must share.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_SEGMENTS:
            raise ConfigError("stages", f"must be 1 to {MAX_SEGMENTS}, not {len(self.stages)}")
        for before, after in pairwise(self.stages):
            for name in _SHARED:
                if getattr(before.config, name) != getattr(after.config, name):
                    raise ConfigError("stages", f"differ in {name}, which they must share")
        check_depth(self.depth)

    @classmethod
    def plain(cls, config: VitConfig, depth: int) -> Self:
        """Return the plain ViT of that depth."""
        return cls((Stage(config=config, depth=depth),))

    @classmethod
    def of(cls, architecture: str, model_args: Mapping[str, Any], num_classes: int) -> Self:
        """Return the stack that `architecture` and `model_args` describe, as a stack gives them.

        Raises:
            KeyError, TypeError, ConfigError: They are no stack's.
        """
        args = dict(model_args)
        if architecture != STITCHED_VIT:
            depth = args.pop("depth")
            args.pop("fc_norm")
            return cls.plain(VitConfig(num_classes=num_classes, **args), depth)
        shared = {name: args[name] for name in _SHARED if name != "num_classes"}
        return cls(
            tuple(
                Stage(
                    config=VitConfig(num_classes=num_classes, **shared, **{name: stage[name] for name in _OF_STAGE}),
                    depth=stage["depth"],
                )
                for stage in args["stages"]
            )
        )

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain ViT."""
        return len(self.stages) == 1

    @property
    def depth(self) -> int:
        """Number of blocks, of all stages."""
        return sum(stage.depth for stage in self.stages)

    @property
    def first(self) -> VitConfig:
        """The configuration of the stage that embeds the image."""
        return self.stages[0].config

    @property
    def config(self) -> VitConfig:
        """The configuration of the last stage, which has the head."""
        return self.stages[-1].config

    def with_changes(self, *, num_classes: int | None = None, img_size: int | None = None) -> Self:
        """Return this stack with another head or image size (None keeps it)."""
        if num_classes is None and img_size is None:
            return self
        changed = (Stage(config=_changed(stage.config, num_classes, img_size), depth=stage.depth) for stage in self.stages)
        return type(self)(tuple(changed))

    @property
    def architecture(self) -> str:
        """The name under which timm builds it."""
        return timm_architecture(self.config) if self.is_plain else STITCHED_VIT

    @property
    def model_args(self) -> dict[str, Any]:
        """The keyword arguments with which timm builds it, the number of classes aside."""
        if self.is_plain:
            return timm_model_args(self.config, self.depth)
        shared = {name: getattr(self.config, name) for name in _SHARED if name != "num_classes"}
        stages = [{name: getattr(stage.config, name) for name in _OF_STAGE} | {"depth": stage.depth} for stage in self.stages]
        return shared | {"stages": stages}

    def inventory(self) -> tuple[TensorSpec, ...]:
        """Return every tensor in the order of the network's `state_dict()`: `stitches.{s}` is (D_{s+1}, D_s) and its bias."""
        return _inventory(self)


def stitch_shapes(before: VitConfig, after: VitConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a stitch from one width to another."""
    return {"weight": (after.embed_dim, before.embed_dim), "bias": (after.embed_dim,)}


@lru_cache(maxsize=256)
def _changed(config: VitConfig, num_classes: int | None, img_size: int | None) -> VitConfig:
    """Return a configuration with another head or image size; a pool's thousands of members have few of them."""
    return config.with_changes(num_classes=num_classes, img_size=img_size)


@lru_cache(maxsize=32)
def _inventory(stack: Stack) -> tuple[TensorSpec, ...]:
    if stack.is_plain:
        return inventory(stack.config, stack.depth)
    specs = [TensorSpec(name=name, shape=shape, layer=None, part=name) for name, shape in stem_shapes(stack.first).items()]
    layer = 0
    for stage in stack.stages:
        for _ in range(stage.depth):
            specs += [
                TensorSpec(name=f"blocks.{layer}.{part}", shape=shape, layer=layer, part=part)
                for part, shape in block_shapes(stage.config).items()
            ]
            layer += 1
    for index, (before, after) in enumerate(pairwise(stack.stages)):
        for part, shape in stitch_shapes(before.config, after.config).items():
            specs.append(TensorSpec(name=f"stitches.{index}.{part}", shape=shape, layer=None, part=f"stitches.{index}.{part}"))
    specs += [TensorSpec(name=name, shape=shape, layer=None, part=name) for name, shape in tail_shapes(stack.config).items()]
    return tuple(specs)
