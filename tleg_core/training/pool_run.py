"""The making of a pool on this machine: its checkpoints in a folder, and the learngene that comes out.

What a run does, phase by phase, is `pool_trainer`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch

from tleg_core import __version__
from tleg_core.description import Provenance
from tleg_core.image_source import ImageSource
from tleg_core.learngene import Learngene
from tleg_core.pool_config import PoolConfig
from tleg_core.pool_description import describe_pool, pool_summary
from tleg_core.training.anchor_file import read_anchor
from tleg_core.training.evaluate import measure_top1
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.observer import Observer
from tleg_core.training.pixels import Pixels
from tleg_core.training.pool_trainer import LogitsOf, PoolTrainer
from tleg_core.training.processes import Processes
from tleg_core.training.source_images import MEASURED_AT_ONCE, HeldOut, SourceImages, check_sources
from tleg_core.training.teacher import Teacher
from tleg_core.training_config import Precision


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
    check_sources(data, test_data, teacher)
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

    with ExitStack() as opened:
        held_out: HeldOut | None = None
        if test_data is not None:
            held_out = opened.enter_context(closing(HeldOut(test_data, config, device, together, workers)))
        trainer = PoolTrainer(
            config,
            SourceImages(data, config, device, together, workers),
            teacher,
            num_classes=len(data.class_names),
            given={key: read_anchor(path, own[key]) if key in own else {} for key, path in files.items()},
            keeper=FolderKeeper(folder, config.training.checkpoint_every_steps),
            observer=journal,
            device=device,
            measure=None if held_out is None else partial(_measure, held_out, config, device),
            processes=together,
        )
        if resume:
            trainer.load()
        return Learngene.create(description, {key: tensor.numpy() for key, tensor in trainer.run().items()})


def _measure(held_out: HeldOut, config: PoolConfig, device: torch.device, logits_of: LogitsOf) -> dict[str, float]:
    """Return the accuracy of one network, which the first process measures."""
    autocast = config.training.precision is not Precision.FLOAT32

    def top1(pixels: Pixels) -> dict[str, float]:
        found = measure_top1(
            logits_of, held_out.data, device=device, pixels=pixels, batch_size=MEASURED_AT_ONCE, autocast=autocast
        )
        return found.metrics()

    return held_out.metrics(top1)
