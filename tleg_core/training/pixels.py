"""Pixels: where a run's images come from, as uint8 tensors on the training device.

This is the port and its simplest implementation, a set in memory; images that must be decoded are `decoded`'s.

Shape legend: B images of a batch, N images in all, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tleg_core.images import ImageSet


class Pixels(Protocol):
    """Images by row, all of one size."""

    def take(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Return the images (B, H, W, C) of `rows`, uint8 on the device, as the given epoch shows them."""
        ...

    def expect(self, rows: Sequence[int], epoch: int) -> None:
        """Be told that these will be taken soon; may begin to read them."""
        ...


class MemoryPixels:
    """An image set in the device's memory."""

    def __init__(self, data: ImageSet, device: torch.device) -> None:
        self._images = torch.from_numpy(data.images).to(device)  # (N, H, W, C)

    def take(self, rows: Sequence[int], epoch: int) -> Tensor:  # noqa: ARG002 (the same in each epoch)
        """Return the images (B, H, W, C) of `rows`."""
        return self._images[torch.as_tensor(rows, device=self._images.device)]

    def expect(self, rows: Sequence[int], epoch: int) -> None:
        """Do nothing: they are there."""
