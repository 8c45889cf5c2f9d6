"""Light augmentation of a whole batch at once, on whatever device the batch lies.

Random horizontal flip, random shift (a crop of the edge-padded image) and, through timm, mixup. Every random number comes from
the generator that is passed in, so that a resumed run draws what the undisturbed one would have.

Shape legend: B images, H height, W width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor

from tleg_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to a training batch.

    Args:
        flip: Probability of a horizontal flip.
        shift: Largest shift along each axis, in pixels; what comes in is a copy of the edge.
        mixup_alpha: timm's mixup: parameter of the Beta distribution; 0 is off.
        label_smoothing: Share of the label spread over all classes, with mixup only.
    """

    flip: float = 0.5
    shift: int = 2
    mixup_alpha: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.flip <= 1.0:
            raise ConfigError("flip", f"must be from 0 to 1, not {self.flip}")
        if not 0 <= self.shift <= 64:
            raise ConfigError("shift", f"must be from 0 to 64 pixels, not {self.shift}")
        if not 0.0 <= self.mixup_alpha <= 10.0:
            raise ConfigError("mixup_alpha", f"must be from 0 to 10, not {self.mixup_alpha}")


def flip_and_shift(pixels: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return the batch (B, H, W, 3), each image flipped and shifted at random; `generator` is the CPU's."""
    batch, height, width, _ = pixels.shape
    reach = augmentation.shift
    offsets = torch.randint(-reach, reach + 1, (2, batch, 1), generator=generator)  # (2, B, 1)
    flipped = torch.rand((batch, 1), generator=generator) < augmentation.flip  # (B, 1)
    rows = (torch.arange(height) + offsets[0]).clamp(0, height - 1)  # (B, H)
    columns = torch.arange(width).expand(batch, width)
    columns = torch.where(flipped, columns.flip(1), columns)
    columns = (columns + offsets[1]).clamp(0, width - 1)  # (B, W)
    image = torch.arange(batch).view(batch, 1, 1)
    device = pixels.device
    return pixels[image.to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]


def mix(
    images: Tensor, labels: Tensor, augmentation: Augmentation, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return mixed images (B, 3, H, W) and their targets: probabilities (B, C), or the labels where mixup is off.

    timm's mixup draws from numpy's global generator; it is seeded here from `generator` for each batch, which keeps a resumed
    run exact without storing that hidden state.
    """
    if augmentation.mixup_alpha == 0.0:
        return images, labels
    seed = int(torch.randint(2**31, (1,), generator=generator))
    np.random.seed(seed)
    mixup = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=augmentation.mixup_alpha, label_smoothing=augmentation.label_smoothing, num_classes=num_classes
    )
    mixed: tuple[Tensor, Tensor] = mixup(images.clone(), labels)
    return mixed
