"""Augmentation of a whole batch at once, on whatever device the batch lies.

Random horizontal flip, random shift (a crop of the edge-padded image) and, through timm, random erasing, mixup and cutmix.
Every random number follows from the generator or the seed that is passed in, so that a resumed run draws what the undisturbed
one would have.

Shape legend: B images, H height, W width, C classes.
"""

from __future__ import annotations

import math
import random

import torch
from timm.data.mixup import Mixup
from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.training.draws import global_draws
from tleg_core.training.pixels import to_device
from tleg_core.training.preprocessing import denormalise
from tleg_core.training_config import Augmentation, Crop

_ERASED_AREA = (0.02, 1 / 3)  # share of the image (timm's limits, and the paper's)
_ERASED_LOG_ASPECT = math.log(1 / 0.3)


def shifts(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return what flip and shift draw for `count` images: int64 (count, 3), rows down, columns right, flipped or not.

    `generator` is the CPU's.
    """
    reach = augmentation.shift if augmentation.crop is Crop.LIGHT else 0
    offsets = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator)  # (2, count, 1)
    flipped = torch.rand((count, 1), generator=generator) < augmentation.flip
    return torch.cat([offsets[0], offsets[1], flipped.long()], dim=1)


def flip_and_shift(pixels: Tensor, draws: Tensor) -> Tensor:
    """Return the batch (B, H, W, 3), each image flipped and shifted as `draws` (B, 3) of `shifts` says."""
    batch, height, width, _ = pixels.shape
    device = pixels.device
    down, right, flipped = to_device(draws, device).unbind(1)
    rows = (torch.arange(height, device=device) + down[:, None]).clamp(0, height - 1)  # (B, H)
    columns = torch.arange(width, device=device).expand(batch, width)
    columns = torch.where(flipped[:, None].bool(), columns.flip(1), columns)
    columns = (columns + right[:, None]).clamp(0, width - 1)  # (B, W)
    image = torch.arange(batch, device=device).view(batch, 1, 1)
    return pixels[image, rows[:, :, None], columns[:, None, :]]


def erase(images: Tensor, augmentation: Augmentation, seed: int, noise: Preprocessing | None = None) -> Tensor:
    """Return images (B, C, H, W), some with a rectangle of noise; they are changed in place.

    Random erasing (Zhong et al., arXiv 1708.04896, algorithm 1) with timm's limits and in timm's order of draws: the result is,
    bit for bit, timm's `RandomErasing` in its mode "pixel" with the global generators seeded. Those are left alone here, for
    batches are made while others are trained on.

    Args:
        images: Normalised, or in 0..1.
        augmentation: Says how often.
        seed: Of all draws.
        noise: How the images will be normalised, where they are not: the noise is normal afterwards.
    """
    if augmentation.random_erasing == 0.0:
        return images
    chance, generator = random.Random(seed), torch.Generator(images.device).manual_seed(seed)  # noqa: S311 (no secret)
    channels, height, width = images.shape[1:]
    for image in images:
        if chance.random() > augmentation.random_erasing:
            continue
        place = _rectangle(chance, height, width)
        if place is None:
            continue
        top, left, high, wide = place
        patch = torch.empty((channels, high, wide), dtype=images.dtype, device=images.device).normal_(generator=generator)
        image[:, top : top + high, left : left + wide] = patch if noise is None else denormalise(patch, noise)
    return images


def _rectangle(chance: random.Random, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Return where noise goes: top, left, height, width; None where ten draws give nothing that fits."""
    for _ in range(10):
        area = chance.uniform(*_ERASED_AREA) * (height * width)
        aspect = math.exp(chance.uniform(-_ERASED_LOG_ASPECT, _ERASED_LOG_ASPECT))
        high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if high < height and wide < width:
            return chance.randint(0, height - high), chance.randint(0, width - wide), high, wide
    return None


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
