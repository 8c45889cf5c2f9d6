"""Augmentation of a whole batch at once, on whatever device the batch lies.

Random horizontal flip, random shift (a crop of the edge-padded image) and, through timm, random erasing, mixup and cutmix.
Every random number follows from the generator or the seed that is passed in, so that a resumed run draws what the undisturbed
one would have.

Shape legend: B images, H height, W width, C classes.
"""

from __future__ import annotations

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from tleg_core.training.draws import global_draws
from tleg_core.training_config import Augmentation


def shifts(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return what flip and shift draw for `count` images: int64 (count, 3), rows down, columns right, flipped or not.

    `generator` is the CPU's.
    """
    reach = augmentation.shift
    offsets = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator)  # (2, count, 1)
    flipped = torch.rand((count, 1), generator=generator) < augmentation.flip
    return torch.cat([offsets[0], offsets[1], flipped.long()], dim=1)


def flip_and_shift(pixels: Tensor, draws: Tensor) -> Tensor:
    """Return the batch (B, H, W, 3), each image flipped and shifted as `draws` (B, 3) of `shifts` says."""
    batch, height, width, _ = pixels.shape
    down, right, flipped = draws.unbind(1)
    rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)  # (B, H)
    columns = torch.arange(width).expand(batch, width)
    columns = torch.where(flipped[:, None].bool(), columns.flip(1), columns)
    columns = (columns + right[:, None]).clamp(0, width - 1)  # (B, W)
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
