"""Augmented images: random views of single images, drawn in threads of this process.

timm draws from Python's and numpy's global generators, so one image is augmented at a time; decoding runs beside that. Where
processes are welcome, `streamed` draws the same views with all processors.

Shape legend: B images of a batch, S side, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tleg_core.image_source import ImageSource, read_picture
from tleg_core.training.draws import seed_of
from tleg_core.training.pixels import Draws, each_draw, to_device
from tleg_core.training.random_view import RandomView


def view_seed(seed: int, draw: int, row: int) -> int:
    """Return the seed of an image's view, from the run's, the draw and the image's row."""
    return seed_of(seed, "rand", draw, row)


class RandPixels:
    """A source's images as random views of them. Threads may share it.

    Args:
        file: The images.
        view: What is drawn of each.
        seed: Of the draws.
        device: Where the pixels are wanted.
        threads: Where they are decoded.
    """

    def __init__(self, file: ImageSource, view: RandomView, *, seed: int, device: torch.device, threads: Executor) -> None:
        self._file, self._view, self._seed, self._device, self._threads = file, view, seed, device, threads
        self._coming: dict[tuple[int, int], Future[npt.NDArray[np.uint8]]] = {}
        self._using = Lock()

    def expect(self, rows: Sequence[int], draws: Draws) -> None:
        """Begin to augment `rows`."""
        with self._using:
            for key in zip(rows, each_draw(rows, draws), strict=True):
                if key not in self._coming:
                    self._coming[key] = self._threads.submit(self._augment, *key)

    def take(self, rows: Sequence[int], draws: Draws) -> Tensor:
        """Return the images (B, S, S, C) of `rows`, as the draws show them."""
        self.expect(rows, draws)
        with self._using:
            views = {
                key: self._coming.pop(key).result() for key in dict.fromkeys(zip(rows, each_draw(rows, draws), strict=True))
            }
        pixels = np.stack([views[key] for key in zip(rows, each_draw(rows, draws), strict=True)])
        return to_device(torch.from_numpy(pixels), self._device)

    def forget(self) -> None:
        """Give up what was expected, and wait for what has begun."""
        with self._using:
            wait([augmenting for augmenting in self._coming.values() if not augmenting.cancel()])
            self._coming.clear()

    def close(self) -> None:
        """Give up what was expected."""
        self.forget()

    def _augment(self, row: int, draw: int) -> npt.NDArray[np.uint8]:
        return self._view(read_picture(self._file, row), view_seed(self._seed, draw, row))
