"""The images of one training in the engine: a data set's own parts or drawn ones, as batches and as what is measured on.

Shape legend: B images of a batch, N training images, H height, W width, C channels or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.domain.dataset import Dataset
from service.worker.workbench import Workbench
from tleg_core.description import Measurement, Preprocessing
from tleg_core.fine_tuning import AUTO
from tleg_core.recipe import Member
from tleg_core.training.augmented import RandPixels
from tleg_core.training.batches import Batches
from tleg_core.training.decoded import InputShape
from tleg_core.training.draws import generator_of
from tleg_core.training.evaluate import Scores, measure_scores
from tleg_core.training.fine_tune import computes_bfloat16, split_images
from tleg_core.training.loop import Wish
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.random_view import RandomView
from tleg_core.training_config import Crop, Precision, TrainingConfig

CHANNELS = 3

_SHORT = 11  # of an id's characters, where people read it
_MEASURED_AT_ONCE = 256  # held-out images; halved where memory does not suffice

LogitsOf = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) in 0..1 to logits (B, C)."""


@dataclass(frozen=True, slots=True)
class _Part:
    """How the held-out part is drawn."""

    holdout: float
    seed: int


class TrainingImages:
    """The training images and the held-out ones.

    Args:
        dataset: Where they are.
        bench: Gives them.
        img_size: Side of the network's input, in pixels.
        preprocessing: How its input is made.
        holdout: Share that is held out where the data set has no test split.
        seed: Of that draw.
        wish: Says whether to stop; a measurement asks it.

    Raises:
        ConfigError: Nothing is left to train on, or nothing can be held out.
        ServiceError, ImageFileError: The data set's file is not to be had.
    """

    def __init__(
        self,
        dataset: Dataset,
        bench: Workbench,
        *,
        img_size: int,
        preprocessing: Preprocessing,
        holdout: float,
        seed: int,
        wish: Callable[[], Wish],
    ) -> None:
        self._bench, self._preprocessing, self._wish = bench, preprocessing, wish
        self.file = file = bench.images(dataset)
        self.name = dataset.name or dataset.id
        self._held_out_name = f"{self.name} (held out, {dataset.id[:_SHORT]})"  # no training images, and no other set so named
        self.digest = dataset.id
        self._shape = InputShape.of(img_size, CHANNELS, preprocessing)
        self.pixels = bench.pixels(dataset, file, self._shape)
        split = split_images(file, _Part(holdout, seed))
        self.rows, self._held_out = split.train, split.held_out
        self._labels = torch.from_numpy(file.labels)

    @property
    def count(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def num_held_out(self) -> int:
        """Held-out images."""
        return len(self._held_out)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in label order."""
        return self.file.class_names

    def batches(self, training: TrainingConfig) -> Batches:
        """Return the batches of the training images, in 0..1."""
        bench, augmentation = self._bench, training.augmentation
        pixels: Pixels = self.pixels
        if augmentation.crop is Crop.RANDOM_RESIZED:
            view = RandomView.of(augmentation, self._shape, self._preprocessing)
            pixels = RandPixels(self.file, view, seed=training.seed, device=bench.device, threads=bench.threads)
        return Batches(
            pixels,
            self.rows,
            self._labels[self.rows],
            num_classes=len(self.class_names),
            batch_size=training.batch_size,
            seed=training.seed,
            augmentation=augmentation,
            device=bench.device,
            digest=self.digest,
            processes=bench.processes,
        )

    def sample(self, count: int, seed: int) -> Tensor:
        """Return `count` training images, or all, drawn by `seed`: (count, 3, H, W) in 0..1, on the device, not augmented."""
        chosen = torch.randperm(self.count, generator=generator_of(seed, "sample"))[:count].sort().values
        return to_unit(self.pixels.take(self.rows[chosen].tolist(), 0))

    def scores(self, logits_of: LogitsOf, *, autocast: bool) -> Scores:
        """Classify the held-out images; raises `MeasurementStoppedError` where the training is to stop."""
        return measure_scores(
            lambda pixels: logits_of(to_unit(pixels)),
            self.pixels,
            self._held_out.tolist(),
            self._labels[self._held_out],
            device=self._bench.device,
            batch_size=_MEASURED_AT_ONCE,
            autocast=autocast,
            processes=self._bench.processes,
            stopped=self._is_stopped,
        )

    def measured(self, member: Member, logits_of: LogitsOf) -> Measurement:
        """Classify the held-out images by a member, in float32; raises as `scores` does."""
        top1 = self.scores(logits_of, autocast=False).top1
        return Measurement.of(member, data_set=self._held_out_name, top1=top1, images=self.num_held_out)

    def _is_stopped(self) -> bool:
        """Whether to stop measuring; several processes stop between updates only, where they can agree."""
        return self._bench.processes.count == 1 and self._wish() is not Wish.GO_ON


def decided(config: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the configuration with the precision decided, where it was left to the device."""
    training = dict(config["training"])
    if training["precision"] == AUTO:
        training["precision"] = (Precision.BFLOAT16 if computes_bfloat16(device) else Precision.FLOAT32).value
    return {**config, "training": training}
