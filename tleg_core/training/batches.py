"""The batches of a run: which images each update sees, in what order, and augmented how.

A function of the seed and the update's number alone: the order of the images follows from the seed and the epoch, every other
draw from the seed and the update, or from the seed, the draw and the image, that of a view from the view and the image. So a
run goes on from any update without stored generator states, and a batch may be made ahead. Each process makes its own part of a
batch and reads no other images.

Shape legend: B images of a batch (of this process), N training images, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet
from tleg_core.training.augmentation import erase, flip_and_shift, mix, shifts
from tleg_core.training.decoded import InputShape
from tleg_core.training.draws import generator_of, seed_of
from tleg_core.training.image_order import ImageOrder
from tleg_core.training.pixels import Pixels, to_device
from tleg_core.training.prefetch import Prefetch
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.processes import Processes
from tleg_core.training.source_pixels import SEED_OF_VIEWS, training_pixels
from tleg_core.training_config import Augmentation, Crop, TrainingConfig

_AHEAD = 3  # batches that are expected while one is trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What an update, or a part of one, is computed from.

    Args:
        images: (B, 3, H, W) on the training device.
        targets: Labels, int64 (B,), or the probabilities that mixing makes of them, float (B, C).
        rows: The images' rows in the data set, int64 (B,), on the CPU.
        view: Which of an image's draws this is, where there is a limited number of them; 0 otherwise.
        step: Updates before this one.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    view: int
    step: int

    def __len__(self) -> int:
        return len(self.images)

    def device_tensors(self) -> tuple[Tensor, ...]:
        """Return what was made on the device."""
        return self.images, self.targets

    def chunk(self, parts: int) -> list[Batch]:
        """Return the batch in at most so many parts, as torch.chunk divides."""
        pieces = zip(self.images.chunk(parts), self.targets.chunk(parts), self.rows.chunk(parts), strict=True)
        return [Batch(images=i, targets=t, rows=r, view=self.view, step=self.step) for i, t, r in pieces]


class Batches:
    """The batches of one run. A context manager: `close` ends what makes them ahead.

    Args:
        pixels: Where the images come from; closed with this.
        rows: The training images' rows in `pixels`, int64 (N,).
        labels: The class of each of them, int64 (N,).
        num_classes: C.
        batch_size: Images for one update, over all processes; an incomplete last batch is left out of each epoch.
        seed: Of order and augmentation.
        augmentation: What is done to a batch; how images are cut out is the pixels' business.
        device: Where the batches are wanted.
        digest: What identifies the data: a run goes on only with the same.
        prepare: Makes the network's input (B, 3, H, W), float32, of pixels (B, H, W, 3), uint8.
        noise: How the images will be normalised, where `prepare` does not: noise that erases is normal afterwards.
        run_starts: First rows of the runs that images are read in; None where any is read alone.
        processes: Those that share each batch.
        prefetch: Whether a batch is made in a thread while another is trained on; by default on a GPU.

    Raises:
        ConfigError: There are fewer images than a batch has, or the repeats of an image are to be one view of it.
    """

    def __init__(
        self,
        pixels: Pixels,
        rows: Tensor,
        labels: Tensor,
        *,
        num_classes: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        device: torch.device,
        digest: str,
        prepare: Callable[[Tensor], Tensor] = to_unit,
        noise: Preprocessing | None = None,
        run_starts: npt.NDArray[np.int64] | None = None,
        processes: Processes | None = None,
        prefetch: bool | None = None,
    ) -> None:
        if augmentation.views is not None and augmentation.repeats > 1:
            raise ConfigError("repeats", "must be 1 with views: each repeat is a draw of its own")
        self._pixels, self._rows, self._labels = pixels, rows, labels
        self._num_classes, self.batch_size, self._seed = num_classes, batch_size, seed
        self._augmentation, self._device, self._prepare, self._noise = augmentation, device, prepare, noise
        self._processes = processes or Processes()
        self.digest = digest
        self._order = ImageOrder(rows, batch_size=batch_size, seed=seed, repeats=augmentation.repeats, run_starts=run_starts)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._shifts_of_view = lru_cache(maxsize=2)(self._drawn_shifts)
        self._closing = ExitStack()
        self._closing.callback(pixels.close)
        self._ahead: Prefetch[Batch] | None = None
        if prefetch or (prefetch is None and device.type == "cuda"):
            self._ahead = Prefetch(self._made, device)
            self._closing.callback(self._ahead.close)

    @classmethod
    def of_image_set(cls, data: ImageSet, config: TrainingConfig, device: torch.device) -> Self:
        """Return the batches of a set in memory, images in 0..1 and in their own size, made without further processes."""
        preprocessing = Preprocessing()
        shape = InputShape.of(data.images.shape[1], 3, preprocessing)
        return cls.of_images(data, config, device, shape=shape, preprocessing=preprocessing, workers=0)

    @classmethod
    def of_images(
        cls,
        data: ImageSource,
        config: TrainingConfig,
        device: torch.device,
        *,
        shape: InputShape,
        preprocessing: Preprocessing,
        processes: Processes | None = None,
        workers: int | None = None,
    ) -> Self:
        """Return the batches of any set, images in 0..1.

        Args:
            data: The training images.
            config: How they are augmented, in what batches.
            device: Where they are wanted.
            shape: The size that they are brought to; a set in memory keeps its own, unless images are cut out at random.
            preprocessing: How the network's input is normalised.
            processes: Those that share each batch.
            workers: Processes that decode and augment, for each of those that train; 0 for threads; None to choose.

        Raises:
            ConfigError: There are fewer images than a batch has.
        """
        augmentation, processes = config.augmentation, processes or Processes()
        pixels = training_pixels(
            data, config, shape=shape, preprocessing=preprocessing, device=device, processes=processes, workers=workers
        )
        return cls(
            pixels,
            torch.arange(len(data)),
            torch.from_numpy(np.ascontiguousarray(data.labels)),
            num_classes=len(data.class_names),
            batch_size=config.batch_size,
            seed=config.seed,
            augmentation=augmentation,
            device=device,
            digest=data.digest(),
            noise=preprocessing,
            run_starts=data.run_starts,
            processes=processes,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End threads and processes that make batches ahead; nothing is asked for afterwards."""
        self._closing.close()

    def of(self, step: int) -> Batch:
        """Return the batch of the update after `step` updates.

        Raises:
            PictureError: A picture cannot be read.
            ImageWorkerError: A process that makes images has died.
        """
        return self._made(step) if self._ahead is None else self._ahead.of(step)

    def shown(self, rows: Tensor, view: int) -> Tensor:
        """Return the images (B, 3, H, W) of any rows (B,), as `view` of the augmentation's views shows them."""
        if self._augmentation.views is None:
            raise ConfigError("views", "is needed: without it the draws of an image follow from the update")
        return self._prepare(self._flipped(self._pixels.take(rows.tolist(), view), rows, view, place=None))

    def _made(self, step: int) -> Batch:
        for later in range(step, step + 1 + _AHEAD):
            self._pixels.expect(*self._wanted(later)[1:])
        chosen, wanted, draws = self._wanted(step)
        rows, place = self._rows[chosen], (step, self._processes.rank)
        augmentation = self._augmentation
        view = 0 if augmentation.views is None else self._order.epoch(step) % augmentation.views
        pixels = self._pixels.take(wanted, draws)  # (B, H, W, 3)
        pixels = self._flipped(pixels, rows, view, place)
        images = erase(self._prepare(pixels), augmentation, seed_of(self._seed, "erase", *place), self._noise)
        labels = to_device(self._labels[chosen], self._device)
        images, targets = mix(images, labels, augmentation, self._num_classes, seed_of(self._seed, "mix", *place))
        return Batch(images=images, targets=targets, rows=rows, view=view, step=step)

    def _flipped(self, pixels: Tensor, rows: Tensor, view: int, place: tuple[int, int] | None) -> Tensor:
        """Return pixels (B, H, W, 3) flipped and shifted, as the place in the run draws it, or as the view does."""
        augmentation = self._augmentation
        if not augmentation.flip and not (augmentation.shift and augmentation.crop is Crop.LIGHT):
            return pixels
        if augmentation.views is not None:
            return flip_and_shift(pixels, self._shifts_of_view(view)[rows])
        assert place is not None  # noqa: S101 (without views there is one)
        return flip_and_shift(pixels, shifts(len(rows), augmentation, generator_of(self._seed, "shift", *place)))

    def _drawn_shifts(self, view: int) -> Tensor:
        """Return the draws of every image for one view, (rows, 3): the same in runs of any seed."""
        return shifts(int(self._rows.max()) + 1, self._augmentation, generator_of(SEED_OF_VIEWS, "view", view))

    def _wanted(self, step: int) -> tuple[Tensor, list[int], int | list[int]]:
        """Return this process's part (B,) of an update's images: positions among the training images, rows and draws."""
        positions, repeats, epoch = self._order.batch(step), self._order.repeats(step), self._order.epoch(step)
        augmentation, processes = self._augmentation, self._processes
        if augmentation.repeats == 1:
            chosen = processes.share(positions)
            return chosen, self._rows[chosen].tolist(), epoch if augmentation.views is None else epoch % augmentation.views
        # The repeats of an image go to different processes, as DeiT's sampler deals them.
        chosen, own = processes.deal(positions), processes.deal(repeats)
        return chosen, self._rows[chosen].tolist(), (epoch * augmentation.repeats + own).tolist()
