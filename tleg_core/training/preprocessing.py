"""From stored pixels to a network's input, on whatever device the pixels lie.

What a network expects is `description.Preprocessing`; this applies it to tensors.

Shape legend: B images, H height, W width, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tleg_core.description import Preprocessing


def to_unit(pixels: Tensor) -> Tensor:
    """Return uint8 pixels (B, H, W, C) as float32 (B, C, H, W) in 0..1."""
    return pixels.permute(0, 3, 1, 2).float().div_(255.0)


def prepare(images: Tensor, img_size: int, preprocessing: Preprocessing) -> Tensor:
    """Return `images` (B, C, H, W), in 0..1, as network input (B, C, img_size, img_size): resized, then normalised."""
    if images.shape[-2:] != (img_size, img_size):
        side = (img_size, img_size)
        images = functional.interpolate(images, size=side, mode=preprocessing.interpolation, antialias=True).clamp_(0.0, 1.0)
    return normalise(images, preprocessing)


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return `images` (B, C, H, W), in 0..1, normalised for each channel."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return (images - mean) / std
