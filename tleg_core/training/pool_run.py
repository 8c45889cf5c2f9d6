"""The making of a pool on this machine: its images, its checkpoints in a folder, and the learngene that comes out.

What a run does, phase by phase, is `pool_trainer`'s.

Shape legend: N images, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tleg_core import __version__
from tleg_core.description import Provenance
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet
from tleg_core.learngene import Learngene
from tleg_core.pool_config import PoolConfig
from tleg_core.pool_description import describe_pool, pool_summary
from tleg_core.training.anchor_file import read_anchor
from tleg_core.training.batches import Batches
from tleg_core.training.decoded import InputShape
from tleg_core.training.draws import generator_of
from tleg_core.training.evaluate import measure_top1
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.observer import Observer
from tleg_core.training.pixels import Pixels
from tleg_core.training.pool_trainer import LogitsOf, PoolTrainer
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.processes import Processes
from tleg_core.training.source_pixels import default_workers, whole_pixels
from tleg_core.training.teacher import Teacher, check_classes
from tleg_core.training_config import Precision, TrainingConfig

_MEASURED_AT_ONCE = 500  # held-out images
_FEWEST_CLASSES = 2


class SourceImages:
    """The training images of a run, out of any source.

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
        config: PoolConfig,
        device: torch.device,
        processes: Processes | None = None,
        workers: int | None = None,
    ) -> None:
        self._data, self._device, self._processes, self._workers = data, device, processes, workers
        self._preprocessing = config.preprocessing
        side = data.images.shape[1] if isinstance(data, ImageSet) else config.network.img_size
        self._shape = InputShape.of(side, 3, config.preprocessing)
        self.count, self.digest = len(data), data.digest()

    def batches(self, training: TrainingConfig) -> Batches:
        """Return the batches of one phase."""
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


def train_pool(
    name: str,
    config: PoolConfig,
    teacher: Teacher | None,
    data: ImageSource,
    *,
    test_data: ImageSource | None,
    folder: Path,
    command: str,
    licence: str,
    journal: Observer,
    device: torch.device,
    anchors: Mapping[str, Path] | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    workers: int | None = None,
) -> Learngene:
    """Make a pool and return its learngene, without measured accuracy.

    Args:
        name: The learngene's id.
        config: What is made, and how.
        teacher: Of the same classes as `data`; None where nothing learns from one.
        data: Training images.
        test_data: Images to measure on after each epoch, or None.
        folder: Where checkpoints lie.
        command: The command line, for the provenance.
        licence: The licence that the learngene is given.
        journal: Where progress is told.
        device: Where it computes.
        anchors: Files of anchors that are there already, by the anchor's name; they are not trained alone again.
        resume: Go on from the checkpoint in `folder`.
        processes: Those that share the run; the first one measures, and keeps the checkpoints.
        workers: Processes that decode and augment, for each of those; 0 for threads; None to choose.

    Raises:
        ConfigError: The classes of data, test data and teacher are not the same; something needed is missing or of no use.
        CheckpointError: An anchor's file does not fit.
    """
    if len(np.unique(data.labels)) < _FEWEST_CLASSES:
        raise ConfigError("data", f"{data.name} has images of one class alone: there is nothing to tell apart")
    if teacher is not None:
        check_classes(teacher, data.class_names, data.name)
    if test_data is not None and test_data.class_names != data.class_names:
        raise ConfigError("test_data", f"the classes of {test_data.name} are not those of {data.name}")
    files, together = dict(anchors or {}), processes or Processes()
    provenance = Provenance(
        data_set=f"{data.name} ({len(data):,} images)",
        ancestry="none: trained on labels" if teacher is None else teacher.describe(),
        command=command,
        version=__version__,
        licence=licence,
        notes=pool_summary(config, sorted(files)),
    )
    description = describe_pool(name, config, provenance, data.class_names)
    own = {anchor.name: anchor for anchor in description.pool.anchors}

    def measure(logits_of: LogitsOf) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if test_data is not None and together.first:
            autocast = config.training.precision is not Precision.FLOAT32
            top1 = measure_top1(
                logits_of, test_data, device=device, pixels=test_pixels, batch_size=_MEASURED_AT_ONCE, autocast=autocast
            )
            metrics = top1.metrics()
        told: dict[str, float] = json.loads(together.told(json.dumps(metrics)))
        return told

    with ExitStack() as opened:
        test_pixels: Pixels | None = None
        if test_data is not None and together.first:
            shape = InputShape.of(config.network.img_size, 3, config.preprocessing)
            count = default_workers(device) if workers is None else workers
            pixels = whole_pixels(test_data, shape, device=device, batch_size=_MEASURED_AT_ONCE, workers=count)
            test_pixels = opened.enter_context(closing(pixels))
        trainer = PoolTrainer(
            config,
            SourceImages(data, config, device, together, workers),
            teacher,
            num_classes=len(data.class_names),
            given={key: read_anchor(path, own[key]) if key in own else {} for key, path in files.items()},
            keeper=FolderKeeper(folder, config.training.checkpoint_every_steps),
            observer=journal,
            device=device,
            measure=None if test_data is None else measure,
            processes=together,
        )
        if resume:
            trainer.load()
        return Learngene.create(description, {key: tensor.numpy() for key, tensor in trainer.run().items()})
