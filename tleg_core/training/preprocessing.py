"""From stored pixels to a network's input, on whatever device the pixels lie.

What a network expects is `description.Preprocessing`; this applies it to tensors.

Shape legend: B images, H height, W width, C channels.
"""

from __future__ import annotations

from functools import lru_cache

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
    return (images - _channels(preprocessing.mean, images.device)) / _channels(preprocessing.std, images.device)


def denormalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the `images` (…, C, H, W) in 0..1 that `normalise` makes these of."""
    return images * _channels(preprocessing.std, images.device) + _channels(preprocessing.mean, images.device)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a number for each channel, (C, 1, 1), on the device; kept, for each copy to a GPU would wait for it."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be trained with
        return torch.tensor(values, device=device).view(-1, 1, 1)
