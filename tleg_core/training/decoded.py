"""Decoded images: pixels of a data set file, read ahead in threads, and kept where they fit.

Pillow lets other threads run while it decodes and resizes. Nothing is read before it is asked for or expected, so training
begins when its first batch is there; what was decoded once stays in a bounded part of the memory, on the device if it fits.

Shape legend: B images of a batch, N images in all, S side, C channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.image_file import ImageFile, decode_image
from tleg_core.training.draws import global_draws, seed_of

_MAX_THREADS = 8  # past that Python's own work in each thread is what is waited for
_RANDAUGMENT = "rand-m9-mstd0.5-inc1"  # timm's usual strength (its training scripts' `--aa`)
_MODES = {1: "L", 3: "RGB"}
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
        if self.channels not in _MODES:
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
        """Return an encoded image as (S, S, C): its shorter side resized, its centre cropped, as timm's evaluation does."""
        image = decode_image(content).convert(_MODES[self.channels])
        shorter = math.floor(self.side / self.crop_pct)
        width, height = image.size
        size = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
        if size != image.size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        left, top = round((size[0] - self.side) / 2), round((size[1] - self.side) / 2)
        image = image.crop((left, top, left + self.side, top + self.side))  # black beyond the edge, for a crop_pct above 1
        return np.asarray(image).reshape(self.side, self.side, self.channels)


class DecodedPixels:
    """A data set file's images at a network's size, kept once decoded if all of them fit.

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
        file: ImageFile,
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

    def expect(self, rows: Sequence[int], epoch: int) -> None:  # noqa: ARG002 (the same in each epoch)
        """Begin to decode `rows`."""
        for row in rows:
            if not self._present[row] and row not in self._coming:
                self._coming[row] = self._threads.submit(self._decode, row)

    def take(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Return the images (B, S, S, C) of `rows`."""
        self.expect(rows, epoch)
        if self._kept is None:
            return self._stack(rows).to(self._device, non_blocking=True)
        missing = [row for row in dict.fromkeys(rows) if not self._present[row]]
        if missing:
            self._kept[torch.tensor(missing, device=self._kept.device)] = self._stack(missing).to(self._kept.device)
            self._present[missing] = True
        chosen = self._kept[torch.as_tensor(rows, device=self._kept.device)]
        return chosen.to(self._device, non_blocking=True)

    def _stack(self, rows: Sequence[int]) -> Tensor:
        decoded = {row: self._coming.pop(row).result() for row in dict.fromkeys(rows)}
        return torch.from_numpy(np.stack([decoded[row] for row in rows]))

    def _decode(self, row: int) -> npt.NDArray[np.uint8]:
        return self._shape.fit(self._file.encoded(row))


class RandPixels:
    """A data set file's images under timm's random resized crop, flip and RandAugment, drawn anew in each epoch.

    An image's draw follows from the seed, the epoch and the image's row. timm draws from Python's and numpy's global
    generators, so one image is augmented at a time; decoding runs beside that.

    Args:
        file: The images.
        shape: The size.
        preprocessing: Gives the colour that is filled in.
        seed: Of the draws.
        device: Where the pixels are wanted.
        threads: Where they are decoded.
    """

    def __init__(
        self,
        file: ImageFile,
        shape: InputShape,
        preprocessing: Preprocessing,
        *,
        seed: int,
        device: torch.device,
        threads: Executor,
    ) -> None:
        self._file, self._shape, self._seed, self._device, self._threads = file, shape, seed, device, threads
        self._transform: Any = create_transform(
            shape.side,
            is_training=True,
            hflip=0.0,  # torchvision's flip draws from PyTorch's global generator; the batch is flipped afterwards
            auto_augment=_RANDAUGMENT,
            interpolation=shape.interpolation,
            mean=preprocessing.mean,
            use_prefetcher=True,  # gives uint8 (C, S, S)
        )
        self._coming: dict[tuple[int, int], Future[npt.NDArray[np.uint8]]] = {}

    def expect(self, rows: Sequence[int], epoch: int) -> None:
        """Begin to augment `rows` for that epoch."""
        for row in rows:
            if (epoch, row) not in self._coming:
                self._coming[epoch, row] = self._threads.submit(self._augment, row, epoch)

    def take(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Return the images (B, S, S, C) of `rows`, as that epoch draws them."""
        self.expect(rows, epoch)
        pixels = np.stack([self._coming.pop((epoch, row)).result() for row in rows])
        return torch.from_numpy(pixels).to(self._device, non_blocking=True)

    def _augment(self, row: int, epoch: int) -> npt.NDArray[np.uint8]:
        image = decode_image(self._file.encoded(row)).convert(_MODES[self._shape.channels])
        with global_draws(seed_of(self._seed, "rand", epoch, row)):
            pixels: npt.NDArray[np.uint8] = np.asarray(self._transform(image))  # timm gives an array or a tensor
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
