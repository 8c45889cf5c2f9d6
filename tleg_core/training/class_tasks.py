"""Tasks made of a data set's classes: which classes, which images, and the batches of each.

Shape legend: S tasks, N images of a task, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource, index_digest
from tleg_core.training.batches import Batches
from tleg_core.training.draws import generator_of, seed_of
from tleg_core.training.pixels import Draws, Pixels, each_draw
from tleg_core.training_config import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTask:
    """Some classes of a data set, to be told apart.

    Args:
        number: Which task of its sequence it is, from 0.
        classes: Ascending, as the data set numbers them; within the task a class is its place here.
        rows: The images of these classes, int64 (N,).
        labels: Each image's class within the task, int64 (N,).
    """

    number: int
    classes: tuple[int, ...]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def draw_tasks(labels: npt.NDArray[np.int64], *, num_tasks: int, classes_per_task: int, seed: int) -> list[ClassTask]:
    """Return the tasks of a sequence, each with classes drawn for itself: a function of the labels and the seed.

    Args:
        labels: The class of each image.
        num_tasks: S.
        classes_per_task: Different classes of each; only those that have images are drawn.
        seed: Of the draws.

    Raises:
        ConfigError: There are fewer classes with images.
    """
    present = np.unique(labels)
    if len(present) < classes_per_task:
        raise ConfigError(
            "stability.classes_per_task", f"{classes_per_task} is more than the {len(present)} classes with images"
        )
    tasks = []
    for number in range(num_tasks):
        drawn = torch.randperm(len(present), generator=generator_of(seed, "task", number))[:classes_per_task]
        classes = np.sort(present[drawn.numpy()])
        rows = np.flatnonzero(np.isin(labels, classes)).astype(np.int64)
        within = np.searchsorted(classes, labels[rows]).astype(np.int64)
        tasks.append(ClassTask(number=number, classes=tuple(classes.tolist()), rows=rows, labels=within))
    return tasks


def whole_task(data: ImageSource) -> ClassTask:
    """Return all classes and images as one task."""
    labels = np.ascontiguousarray(data.labels, dtype=np.int64)
    rows = np.arange(len(data), dtype=np.int64)
    return ClassTask(number=0, classes=tuple(range(len(data.class_names))), rows=rows, labels=labels)


class TaskBatches:
    """The batches of each task of a sequence, from pixels that are read once for all of them.

    Args:
        data: All images.
        pixels: Theirs; closing them is the caller's business.
        config: How batches are made; the orders and draws of each task are its own, but where an image has a limited number of
            views.
        preprocessing: How the network's input is normalised.
        device: Where they are wanted.
    """

    def __init__(
        self, data: ImageSource, pixels: Pixels, config: TrainingConfig, preprocessing: Preprocessing, device: torch.device
    ) -> None:
        self._data, self._pixels, self._config = data, pixels, config
        self._preprocessing, self._device = preprocessing, device
        self._digest = data.digest().encode()

    def of(self, task: ClassTask) -> Batches:
        """Return a task's batches, images in 0..1; raises `ConfigError` where it has fewer images than a batch."""
        names = [self._data.class_names[index] for index in task.classes]
        augmentation = self._config.augmentation
        draws = self._config.epochs * augmentation.repeats if augmentation.views is None else 0
        return Batches(
            _Lent(self._pixels, task.number * draws),
            torch.from_numpy(task.rows),
            torch.from_numpy(task.labels),
            num_classes=len(task.classes),
            batch_size=self._config.batch_size,
            seed=seed_of(self._config.seed, "task", task.number),
            augmentation=augmentation,
            device=self._device,
            digest=index_digest(names, self._digest, task.rows),
            noise=self._preprocessing,
            run_starts=self._data.run_starts,
        )


class _Lent:
    """Pixels that are not closed by whoever is done with them first, but have nothing left to make.

    Args:
        pixels: The ones that are lent.
        first_draw: The number that the borrower's draw 0 has among theirs.
    """

    def __init__(self, pixels: Pixels, first_draw: int) -> None:
        self._pixels, self._first_draw = pixels, first_draw

    def take(self, rows: Sequence[int], draws: Draws) -> Tensor:
        """Return the images (B, H, W, C) of `rows`."""
        return self._pixels.take(rows, self._among_theirs(rows, draws))

    def expect(self, rows: Sequence[int], draws: Draws) -> None:
        """Pass it on."""
        self._pixels.expect(rows, self._among_theirs(rows, draws))

    def forget(self) -> None:
        """Pass it on."""
        self._pixels.forget()

    def close(self) -> None:
        """Let go of what was expected past the task's end: it would keep the next task's batches from being made ahead."""
        self._pixels.forget()

    def _among_theirs(self, rows: Sequence[int], draws: Draws) -> Draws:
        return [self._first_draw + draw for draw in each_draw(rows, draws)]
