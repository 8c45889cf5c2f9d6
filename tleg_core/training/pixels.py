"""Pixels: where a run's images come from, as uint8 tensors on the training device.

This is the port and its simplest implementation, a set in memory; images that must be decoded are `decoded`'s, those that are
drawn anew each time `augmented`'s and `streamed`'s.

Shape legend: B images of a batch, N images in all, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from tleg_core.images import ImageSet

Draws: TypeAlias = int | Sequence[int]
"""Which random draw of an image is meant: a number for each row, or one for all. An epoch's number, where each has its own."""


class Pixels(Protocol):
    """Images by row, all of one size."""

    def take(self, rows: Sequence[int], draws: Draws) -> Tensor:
        """Return the images (B, H, W, C) of `rows`, uint8 on the device, as the draws show them."""
        ...

    def expect(self, rows: Sequence[int], draws: Draws) -> None:
        """Be told that these will be taken soon, by a call with equal arguments; may begin to read them."""
        ...

    def forget(self) -> None:
        """Be told that nothing that is expected will be taken; what was begun is given up."""
        ...

    def close(self) -> None:
        """Let go of what it holds; nothing is taken afterwards."""
        ...


class MemoryPixels:
    """An image set in the device's memory, or in the machine's if that is where it is to be kept."""

    def __init__(self, data: ImageSet, device: torch.device, *, keep_device: torch.device | None = None) -> None:
        self._device = device
        self._images = torch.from_numpy(data.images).to(keep_device or device)  # (N, H, W, C)

    def take(self, rows: Sequence[int], draws: Draws) -> Tensor:  # noqa: ARG002 (no draw changes them)
        """Return the images (B, H, W, C) of `rows`."""
        chosen = self._images[to_device(torch.as_tensor(rows), self._images.device)]
        return chosen if chosen.device.type == self._device.type else to_device(chosen, self._device)

    def expect(self, rows: Sequence[int], draws: Draws) -> None:
        """Do nothing: they are there."""

    def forget(self) -> None:
        """Do nothing: nothing was begun."""

    def close(self) -> None:
        """Do nothing: the memory goes with the object."""


def each_draw(rows: Sequence[int], draws: Draws) -> list[int]:
    """Return the draw of each row."""
    return [draws] * len(rows) if isinstance(draws, int) else list(draws)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU's on the device.

    To a GPU it goes through pinned memory, so that nobody waits for the copy: from other memory, it would wait for all that the
    GPU has to do before.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
