"""Streamed images: views that worker processes make ahead of time, batch by batch, for sets that are not kept in memory.

A ring of batches in shared memory: those that are expected are begun in order, as long as there is room; one that is taken is
copied out. An image's view follows from the run's seed, the draw and the image's row.

Shape legend: B images of a batch, S side, C channels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, wait
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tleg_core.image_source import ImageSource
from tleg_core.training.augmented import view_seed
from tleg_core.training.decoded import InputShape
from tleg_core.training.image_workers import ImageWorkers, View
from tleg_core.training.pixels import Draws, each_draw, to_device

_ORDERS_EACH = 4  # that a batch is for each worker: they end a batch at about the same time
_MAX_ORDER = 32  # images of one order

_Key: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # rows, and the draw of each


class WholeView:
    """The whole image at the network's size, as it is evaluated on: no draw changes it."""

    def __init__(self, shape: InputShape) -> None:
        self._shape = shape

    def __call__(self, image: Image.Image, seed: int) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        """Return the view (S, S, C) of an RGB image."""
        return self._shape.view(image)


class StreamedPixels:
    """A source's images, made by worker processes. Threads may share it.

    Args:
        source: The images.
        view: What is made of each.
        shape: The size of that.
        seed: Of the draws.
        device: Where the pixels are wanted.
        batch_size: Images that are taken at once, at most; more are taken in parts.
        batches: Batches that there is room for: the one that is taken, and those that are made meanwhile.
        workers: Processes.
    """

    def __init__(
        self,
        source: ImageSource,
        view: View,
        shape: InputShape,
        *,
        seed: int,
        device: torch.device,
        batch_size: int,
        batches: int = 4,
        workers: int,
    ) -> None:
        self._seed, self._device, self._batch_size = seed, device, batch_size
        self._order_size = min(_MAX_ORDER, math.ceil(batch_size / (workers * _ORDERS_EACH)))
        size = (shape.side, shape.side, shape.channels)
        self._workers = ImageWorkers(source, view, size=size, places=batches * batch_size, count=workers)
        self._free = [number * batch_size for number in range(batches)]  # first places
        self._coming: OrderedDict[_Key, tuple[int, list[Future[None]]]] = OrderedDict()
        self._using = Lock()

    def expect(self, rows: Sequence[int], draws: Draws) -> None:
        """Begin to make the images of `rows`, if there is room."""
        with self._using:
            for key in self._parts(rows, draws):
                if key not in self._coming and self._free:
                    self._begin(key)

    def take(self, rows: Sequence[int], draws: Draws) -> Tensor:
        """Return the images (B, S, S, C) of `rows`, as the draws show them.

        Raises:
            PictureError: A picture cannot be read.
            ImageWorkerError: A worker has died.
        """
        with self._using:
            parts = [self._taken(key) for key in self._parts(rows, draws)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def forget(self) -> None:
        """Make room of all that was expected and did not come to be taken: nobody asks whether it could be made."""
        with self._using:
            orders = [order for _, begun in self._coming.values() for order in begun]
            wait([order for order in orders if not order.cancel()])  # they still write to their places
            self._free.extend(place for place, _ in self._coming.values())
            self._coming.clear()

    def close(self) -> None:
        """End the workers."""
        with self._using:
            self._workers.close()
            self._coming.clear()

    def _parts(self, rows: Sequence[int], draws: Draws) -> list[_Key]:
        every, size = each_draw(rows, draws), self._batch_size
        starts = range(0, len(rows), size)
        return [(tuple(rows[start : start + size]), tuple(every[start : start + size])) for start in starts]

    def _begin(self, key: _Key) -> None:
        rows, draws = key
        seeds = [view_seed(self._seed, draw, row) for row, draw in zip(rows, draws, strict=True)]
        place, step = self._free.pop(), self._order_size
        orders = [
            self._workers.begin(place + start, rows[start : start + step], seeds[start : start + step])
            for start in range(0, len(rows), step)
        ]
        self._coming[key] = (place, orders)

    def _taken(self, key: _Key) -> Tensor:
        if key not in self._coming:
            if not self._free:
                self._give_up_one()
            self._begin(key)
        place, orders = self._coming[key]
        self._workers.end(orders)
        views = torch.from_numpy(self._workers.views(place, len(key[0])))
        pixels = views.clone() if self._device.type == "cpu" else to_device(views, self._device)
        del self._coming[key]
        self._free.append(place)
        return pixels

    def _give_up_one(self) -> None:
        """Make room by what was expected first, and did not come to be taken."""
        _, (place, orders) = self._coming.popitem(last=False)
        self._workers.end([order for order in orders if not order.cancel()])
        self._free.append(place)
