"""The training images of a run, out of any source, and the held-out ones that its first process measures on.

Shape legend: N images, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.training.batches import Batches
from tleg_core.training.decoded import InputShape
from tleg_core.training.draws import generator_of
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.processes import Processes
from tleg_core.training.source_pixels import default_workers, whole_pixels
from tleg_core.training.teacher import Teacher, check_classes
from tleg_core.training_config import TrainingConfig

MEASURED_AT_ONCE = 500
"""Held-out images at once."""

_FEWEST_CLASSES = 2


def check_sources(data: ImageSource, test_data: ImageSource | None, teacher: Teacher | None) -> None:
    """Raise `ConfigError` unless `data` has several classes, and the held-out images and the teacher have the same."""
    if len(np.unique(data.labels)) < _FEWEST_CLASSES:
        raise ConfigError("data", f"{data.name} has images of one class alone: there is nothing to tell apart")
    if teacher is not None:
        check_classes(teacher, data.class_names, data.name)
    if test_data is not None and test_data.class_names != data.class_names:
        raise ConfigError("test_data", f"the classes of {test_data.name} are not those of {data.name}")


class SourceImages:
    """The training images of a run.

    Images of a set in memory keep its size, others are brought to the network's.

    Args:
        data: The images.
        config: Their size and preprocessing.
        device: Where they are wanted.
        processes: Those that share each batch.
        workers: Processes that decode and augment, for each of those; 0 for threads; None to choose.
    """

    def __init__(
        self,
        data: ImageSource,
        config: LearngeneConfig | PoolConfig,
        device: torch.device,
        processes: Processes | None = None,
        workers: int | None = None,
    ) -> None:
        self._data, self._device, self._processes, self._workers = data, device, processes, workers
        self._preprocessing = config.preprocessing
        side = data.images.shape[1] if isinstance(data, ImageSet) else config.network.img_size
        self._shape = InputShape.of(side, 3, config.preprocessing)
        self.count = len(data)

    @cached_property
    def digest(self) -> str:
        """Identifies the images."""
        return self._data.digest()

    def batches(self, training: TrainingConfig) -> Batches:
        """Return the batches of one training."""
        return Batches.of_images(
            self._data,
            training,
            self._device,
            shape=self._shape,
            preprocessing=self._preprocessing,
            processes=self._processes,
            workers=self._workers,
        )

    def sample(self, count: int, seed: int) -> Tensor:
        """Return `count` images (count, 3, H, W) in 0..1 on the device, drawn by `seed`; all, where there are no more."""
        rows = torch.randperm(self.count, generator=generator_of(seed, "sample"))[:count].sort().values
        with closing(whole_pixels(self._data, self._shape, device=self._device, batch_size=len(rows))) as pixels:
            return to_unit(pixels.take(rows.tolist(), 0))


class HeldOut:
    """Images that the first process measures on, whose numbers all are told.

    Args:
        data: The images.
        config: Their size and preprocessing.
        device: Where they are wanted.
        processes: Those that share the run.
        workers: Processes that decode; 0 for threads; None to choose.
    """

    def __init__(
        self,
        data: ImageSource,
        config: LearngeneConfig | PoolConfig,
        device: torch.device,
        processes: Processes,
        workers: int | None = None,
    ) -> None:
        self.data, self._processes = data, processes
        self._pixels: Pixels | None = None
        if processes.first:
            shape = InputShape.of(config.network.img_size, 3, config.preprocessing)
            count = default_workers(device) if workers is None else workers
            self._pixels = whole_pixels(data, shape, device=device, batch_size=MEASURED_AT_ONCE, workers=count)

    def metrics(self, measure: Callable[[Pixels], dict[str, float]]) -> dict[str, float]:
        """Return the first process's measurement of the images' pixels; all must ask."""
        metrics = {} if self._pixels is None else measure(self._pixels)
        told: dict[str, float] = json.loads(self._processes.told(json.dumps(metrics)))
        return told

    def close(self) -> None:
        """Let go of the pixels."""
        if self._pixels is not None:
            self._pixels.close()
