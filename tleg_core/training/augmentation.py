"""Augmentation of a whole batch at once, on whatever device the batch lies.

Random horizontal flip, random shift (a crop of the edge-padded image) and, through timm, random erasing, mixup and cutmix.
Every random number follows from the generator or the seed that is passed in, so that a resumed run draws what the undisturbed
one would have.

Shape legend: B images, H height, W width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.training.draws import global_draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to a training batch.

    Args:
        flip: Probability of a horizontal flip.
        shift: Largest shift along each axis, in pixels; what comes in is a copy of the edge.
        mixup_alpha: timm's mixup: parameter of the Beta distribution; 0 is off.
        cutmix_alpha: timm's cutmix, likewise; a batch gets the one or the other.
        random_erasing: Probability of timm's random erasing, with noise.
        label_smoothing: Share of a mixed label that is spread over all classes; of one not mixed, the loss's business.
    """

    flip: float = 0.5
    shift: int = 2
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    random_erasing: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.flip <= 1.0:
            raise ConfigError("flip", f"must be from 0 to 1, not {self.flip}")
        if not 0 <= self.shift <= 64:
            raise ConfigError("shift", f"must be from 0 to 64 pixels, not {self.shift}")
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0.0 <= getattr(self, name) <= 10.0:
                raise ConfigError(name, f"must be from 0 to 10, not {getattr(self, name)}")
        if not 0.0 <= self.random_erasing <= 1.0:
            raise ConfigError("random_erasing", f"must be from 0 to 1, not {self.random_erasing}")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup_alpha > 0.0 or self.cutmix_alpha > 0.0


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


def erase(images: Tensor, augmentation: Augmentation, seed: int) -> Tensor:
    """Return normalised images (B, C, H, W), some with a rectangle of noise; they are changed in place."""
    if augmentation.random_erasing == 0.0:
        return images
    erasing = RandomErasing(augmentation.random_erasing, mode="pixel", device=images.device)  # type: ignore[no-untyped-call]
    with global_draws(seed):
        torch.manual_seed(seed)  # timm draws the noise from torch's generator, which each forward pass seeds anew
        erased: Tensor = erasing(images)
    return erased


def mix(images: Tensor, labels: Tensor, augmentation: Augmentation, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return mixed images (B, 3, H, W) and their targets: probabilities (B, C), or the labels where nothing is mixed."""
    if not augmentation.mixes:
        return images, labels
    mixup = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=augmentation.mixup_alpha,
        cutmix_alpha=augmentation.cutmix_alpha,
        label_smoothing=augmentation.label_smoothing,
        num_classes=num_classes,
    )
    with global_draws(seed):
        mixed: tuple[Tensor, Tensor] = mixup(images.clone(), labels)
    return mixed
