"""A timm model by name: what its own configuration says of its input, and how it is built.

timm keeps for each model how its published weights expect an image (`pretrained_cfg`): side, mean, std, interpolation, crop.
That is the default here; whoever has other weights overrides it. Nothing is downloaded: weights come from files.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError

INTERPOLATIONS = ("bilinear", "bicubic")
"""Those that PyTorch has for tensors, with antialiasing."""

_IMAGENET_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A timm model, all but its classes.

    Args:
        name: timm's, with or without a tag.
        model_args: Further arguments of `timm.create_model`, beside the number of classes.
        img_size: Side of its input, in pixels.
        preprocessing: How an image in 0..1 becomes its input.

    Raises:
        ConfigError: An image could not be brought to its input.
    """

    name: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    img_size: int
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if not 1 <= self.img_size <= 4096:
            raise ConfigError("img_size", f"must be from 1 to 4096 pixels, not {self.img_size}")
        if self.preprocessing.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                "interpolation", f"must be one of {', '.join(INTERPOLATIONS)}, not {self.preprocessing.interpolation!r}"
            )
        if self.preprocessing.crop_pct > 1.0:
            raise ConfigError("crop_pct", f"must be at most 1, not {self.preprocessing.crop_pct}")
        if not len(self.preprocessing.mean) == len(self.preprocessing.std) == 3:
            raise ConfigError("mean", "and std need 3 numbers each, one for each channel")
        if "num_classes" in self.model_args:
            raise ConfigError("model_args.num_classes", "cannot be given: the data set's classes decide")

    @classmethod
    def named(
        cls,
        name: str,
        *,
        model_args: Mapping[str, Any] | None = None,
        img_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        interpolation: str | None = None,
        crop_pct: float | None = None,
    ) -> Architecture:
        """Return timm's model of that name; what is None is as timm's configuration of it says.

        A model that is built for one size of image is built for `img_size`, unless `model_args` says otherwise.

        Raises:
            ConfigError: timm has no such model, or its input could not be made.
        """
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ConfigError("architecture", f"timm has no model {name!r}" + (f"; there is {', '.join(near)}" if near else ""))
        config = get_pretrained_cfg(name)
        arguments = dict(model_args or {})
        own_side = _IMAGENET_SIDE if config is None else config.input_size[-1]
        if img_size is None:
            img_size = _side_of(arguments.get("img_size", own_side))
        elif config is not None and config.fixed_input_size and img_size != own_side:
            arguments.setdefault("img_size", img_size)
        own = Preprocessing()
        if config is not None:
            own = Preprocessing(
                mean=tuple(config.mean),
                std=tuple(config.std),
                interpolation=config.interpolation,
                crop_pct=config.crop_pct,
            )
        asked: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct}
        preprocessing = replace(own, **{key: value for key, value in asked.items() if value is not None})
        return cls(name=name, model_args=arguments, img_size=img_size, preprocessing=preprocessing)

    def build(self, num_classes: int) -> nn.Module:
        """Return the network, its weights drawn from PyTorch's global generator.

        Raises:
            ConfigError: timm cannot build it so, or it does not make logits of an image of `img_size`.
        """
        try:
            network: nn.Module = timm.create_model(self.name, num_classes=num_classes, **self.model_args)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError("architecture", f"timm cannot build {self.name!r}: {error}") from error
        try:
            with torch.no_grad():
                shape = tuple(network.eval()(torch.zeros(1, 3, self.img_size, self.img_size)).shape)
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            raise ConfigError("img_size", f"{self.name} does not take images of {self.img_size} px: {error}") from error
        if shape != (1, num_classes):
            raise ConfigError("architecture", f"{self.name} gives {shape} for one image, not logits (1, {num_classes})")
        return network.train()


def _side_of(size: object) -> int:
    """Return the side of timm's `img_size` argument, an int or a pair of equal ones."""
    match size:
        case int(side) | (int(side), int()) | [int(side), int()] if size in (side, (side, side), [side, side]):
            return side
    raise ConfigError("model_args.img_size", f"must be one whole number, not {size!r}")
