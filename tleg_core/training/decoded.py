"""Decoded images: pixels of an image source, read ahead in threads, and kept where they fit.

Pillow lets other threads run while it decodes and resizes. Nothing is read before it is asked for or expected, so training
begins when its first batch is there; what was decoded once stays in a bounded part of the memory, on the device if it fits.

Shape legend: B images of a batch, N images in all, S side, C channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.image_file import decode_image
from tleg_core.image_source import ImageSource, read_picture
from tleg_core.training.pixels import Draws, to_device

_MAX_THREADS = 8  # past that Python's own work in each thread is what is waited for
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for a network's number of input channels."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decoding_threads() -> ThreadPoolExecutor:
    """Return threads for decoding, as many as there are processors to use."""
    return ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputShape:
    """What a network takes: square images of a side, and how any image is brought to it.

    Raises:
        ConfigError: The network has other channels than a picture.
    """

    side: int
    channels: int
    interpolation: str
    crop_pct: float

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise ConfigError("model", f"has {self.channels} input channels; images have 1 or 3")

    @classmethod
    def of(cls, side: int, channels: int, preprocessing: Preprocessing) -> InputShape:
        """Return the shape of a network with that preprocessing."""
        return cls(side=side, channels=channels, interpolation=preprocessing.interpolation, crop_pct=preprocessing.crop_pct)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image, one for each channel of a pixel."""
        return self.side**2 * self.channels

    def fit(self, content: bytes | memoryview) -> npt.NDArray[np.uint8]:
        """Return an encoded image as `view` makes it."""
        return self.view(decode_image(content))

    def view(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return an RGB image as (S, S, C): its shorter side resized, its centre cropped, as timm's evaluation does."""
        image = image.convert(MODES[self.channels])
        shorter = math.floor(self.side / self.crop_pct)
        width, height = image.size
        size = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
        if size != image.size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        left, top = round((size[0] - self.side) / 2), round((size[1] - self.side) / 2)
        image = image.crop((left, top, left + self.side, top + self.side))  # black beyond the edge, for a crop_pct above 1
        return np.asarray(image).reshape(self.side, self.side, self.channels)


class DecodedPixels:
    """A source's images at a network's size, kept once decoded if all of them fit. Threads may share it.

    Args:
        file: The images.
        shape: The size.
        device: Where the pixels are wanted.
        threads: Where they are decoded.
        keep_bytes: Memory that may be used to keep them.
        keep_device: Where that memory is.
    """

    def __init__(
        self,
        file: ImageSource,
        shape: InputShape,
        *,
        device: torch.device,
        threads: Executor,
        keep_bytes: int,
        keep_device: torch.device,
    ) -> None:
        self._file, self._shape, self._device, self._threads = file, shape, device, threads
        self.kept_bytes = len(file) * shape.image_bytes
        self._kept: Tensor | None = None  # (N, S, S, C)
        if self.kept_bytes <= keep_bytes:
            self._kept = torch.empty((len(file), shape.side, shape.side, shape.channels), dtype=torch.uint8, device=keep_device)
        else:
            self.kept_bytes = 0
        self._present = np.zeros(len(file), dtype=bool)
        self._coming: dict[int, Future[npt.NDArray[np.uint8]]] = {}
        self._using = Lock()

    def expect(self, rows: Sequence[int], draws: Draws) -> None:  # noqa: ARG002 (no draw changes them)
        """Begin to decode `rows`."""
        with self._using:
            self._begin(rows)

    def take(self, rows: Sequence[int], draws: Draws) -> Tensor:  # noqa: ARG002
        """Return the images (B, S, S, C) of `rows`."""
        with self._using:
            self._begin(rows)
            if self._kept is None:
                return to_device(self._stack(rows), self._device)
            missing = [row for row in dict.fromkeys(rows) if not self._present[row]]
            if missing:
                self._keep(self._kept, missing)
            chosen = self._kept[to_device(torch.as_tensor(rows), self._kept.device)]
        return chosen if chosen.device.type == self._device.type else to_device(chosen, self._device)

    def forget(self) -> None:
        """Give up what was expected, and wait for what has begun."""
        with self._using:
            wait([decoding for decoding in self._coming.values() if not decoding.cancel()])
            self._coming.clear()

    def close(self) -> None:
        """Give up what was expected; what is kept goes with the object."""
        self.forget()

    def _begin(self, rows: Sequence[int]) -> None:
        for row in rows:
            if not self._present[row] and row not in self._coming:
                self._coming[row] = self._threads.submit(self._decode, row)

    def _keep(self, kept: Tensor, missing: Sequence[int]) -> None:
        kept[to_device(torch.as_tensor(missing), kept.device)] = to_device(self._stack(missing), kept.device)
        if kept.device.type == "cuda":
            torch.cuda.current_stream(kept.device).synchronize()  # who takes them next may compute in another stream
        self._present[missing] = True

    def _stack(self, rows: Sequence[int]) -> Tensor:
        decoded = {row: self._coming.pop(row).result() for row in dict.fromkeys(rows)}
        return torch.from_numpy(np.stack([decoded[row] for row in rows]))

    def _decode(self, row: int) -> npt.NDArray[np.uint8]:
        return self._shape.view(read_picture(self._file, row))
