"""Random views of single images: timm's random resized crop with RandAugment or colour jitter, each a function of its seed.

Source: the augmentation of TLEG's stage 1 (arXiv 2312.05614), which is DeiT's. There the command line names RandAugment and
colour jitter both, and timm leaves out the jitter where there is RandAugment; so does this. The flip is not drawn here, but for
a whole batch on the device (`augmentation`).

Shape legend: S side, C channels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps
from timm.data import auto_augment
from timm.data.transforms_factory import create_transform

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.training.decoded import MODES, InputShape
from tleg_core.training.draws import global_draws
from tleg_core.training_config import Augmentation

RAND_AUGMENT: Final = "rand-m9-mstd0.5-inc1"
"""timm's usual policy (its training scripts' `--aa`), and the paper's."""


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """What is drawn of an image.

    Args:
        shape: The network's input.
        mean: Colour, 0..1 for each channel, that RandAugment fills in.
        rand_augment: timm's RandAugment policy; None for none.
        color_jitter: Brightness, contrast and saturation change by at most this share; used where RandAugment is not.

    Raises:
        ConfigError: timm does not know the policy.
    """

    shape: InputShape
    mean: tuple[float, ...]
    rand_augment: str | None = RAND_AUGMENT
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.rand_augment is not None and not self.rand_augment.startswith("rand"):
            raise ConfigError("rand_augment", f"must be a policy of timm's such as {RAND_AUGMENT}, not {self.rand_augment!r}")
        try:
            _ = self._transform
        except (AssertionError, ValueError, KeyError) as error:
            raise ConfigError("rand_augment", f"timm does not know {self.rand_augment!r}") from error

    @classmethod
    def of(cls, augmentation: Augmentation, shape: InputShape, preprocessing: Preprocessing) -> RandomView:
        """Return the views that a training run's augmentation asks for."""
        return cls(
            shape=shape,
            mean=preprocessing.mean,
            rand_augment=augmentation.rand_augment,
            color_jitter=augmentation.color_jitter,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_transform"}

    def __call__(self, image: Image.Image, seed: int) -> npt.NDArray[np.uint8]:
        """Return the view (S, S, C) of an RGB image that `seed` draws."""
        picture = image.convert(MODES[self.shape.channels])
        cropped, augmented, tensor = self._transform
        with global_draws(seed):
            picture = augmented(cropped(picture))
            if self.rand_augment is None and self.color_jitter:
                picture = _jittered(picture, self.color_jitter)
        pixels: npt.NDArray[np.uint8] = np.asarray(tensor(picture))  # (C, S, S); timm gives an array or a tensor
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    @cached_property
    def _transform(self) -> Any:
        """timm's transform, in its three parts."""
        cropped, augmented, tensor = create_transform(
            self.shape.side,
            is_training=True,
            hflip=0.0,
            color_jitter=None,  # type: ignore[arg-type]  # 0.0 would draw all the same, from PyTorch's global generator
            auto_augment=self.rand_augment,
            interpolation=self.shape.interpolation,
            mean=self.mean,
            use_prefetcher=True,  # gives uint8 (C, S, S)
            separate=True,
        )
        mend_posterize(augmented)
        return cropped, augmented, tensor


def mend_posterize(transform: Any) -> None:
    """Let a composed transform of timm's draw what it did before Pillow 13, which refuses to keep none of the bits.

    RandAugment's usual policy draws that for one image in 650.
    """
    for op in (op for part in transform.transforms for op in getattr(part, "ops", ())):
        if op.aug_fn is auto_augment.posterize:
            op.aug_fn = _posterized


def _posterized(image: Image.Image, bits: int, **_ignored: Any) -> Image.Image:
    """Return the image with `bits` of each channel kept, 0 to 8."""
    if bits >= 8:
        return image
    if bits == 0:
        return image.point(lambda _: 0)
    return ImageOps.posterize(image, bits)


def _jittered(image: Image.Image, reach: float) -> Image.Image:
    """Return the image with brightness, contrast and saturation changed, in a random order: torchvision's `ColorJitter`.

    torchvision's own draws from PyTorch's global generator, which is the training's.
    """
    changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    random.shuffle(changes)
    for change in changes:
        image = change(image).enhance(random.uniform(max(0.0, 1.0 - reach), 1.0 + reach))  # noqa: S311 (no secret)
    return image
