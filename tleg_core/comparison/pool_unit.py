"""The making of a pool as a unit of a comparison: its file, and beside it the pool as it was before its joint training.

A run that was killed goes on from its checkpoint, and leaves both files to the bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tleg_core import __version__
from tleg_core.comparison.unit import Unit
from tleg_core.description import Provenance
from tleg_core.images import ImageSet
from tleg_core.learngene import Learngene
from tleg_core.pool_config import PoolConfig
from tleg_core.pool_description import describe_pool, pool_summary
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.keeper import CHECKPOINT_NAME, FolderKeeper
from tleg_core.training.loop import Wish
from tleg_core.training.observer import Observer
from tleg_core.training.path_accuracy import measure_paths
from tleg_core.training.pool_trainer import PoolTrainer
from tleg_core.training.source_images import SourceImages
from tleg_core.training.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFiles:
    """Where a unit's files lie.

    Args:
        whole: The pool as it is in the end.
        stitched: The pool before its joint training.
        work: The folder of its checkpoint.
    """

    whole: Path
    stitched: Path
    work: Path


def make_pool(
    unit: Unit,
    data: ImageSet,
    teacher: Teacher | None,
    *,
    anchors: Path | None,
    files: PoolFiles,
    observer: Observer,
    device: torch.device,
) -> Learngene:
    """Make a pool, going on from its checkpoint if there is one, and write both files.

    Args:
        unit: What is made.
        data: The training images.
        teacher: The ancestry network, or None where nothing learns from one.
        anchors: The file of a pool whose anchors it takes; None where it trains its own.
        files: Where the results go.
        observer: Is told how it goes.
        device: Where it computes.
    """
    config = PoolConfig.from_json(unit.settings["config"])
    given = {} if anchors is None else _anchors_of(Learngene.open(anchors), config)
    provenance = Provenance(
        data_set=f"{data.name} ({len(data):,} images)",
        ancestry="none: trained on labels" if teacher is None else teacher.describe(),
        command=f"tleg compare, unit {unit.id} ({unit.label})",
        version=__version__,
        licence="as the data set's",
        notes=pool_summary(config, sorted(given)),
    )
    description = describe_pool(f"learngene-{unit.id}", config, provenance, data.class_names)

    def created(tensors: Mapping[str, Tensor]) -> Learngene:
        return Learngene.create(description, {name: tensor.numpy() for name, tensor in tensors.items()})

    keeper = FolderKeeper(files.work, config.training.checkpoint_every_steps)
    stitched_too = config.joint.epochs > 0
    trainer = PoolTrainer(
        config,
        SourceImages(data, config, device, workers=0),
        teacher,
        num_classes=data.num_classes,
        given=given,
        keeper=_KeepsStitched(keeper, lambda pool: created(pool).write(files.stitched)) if stitched_too else keeper,
        observer=observer,
        device=device,
        wish=lambda: Wish.GO_ON,
    )
    if (files.work / CHECKPOINT_NAME).exists():
        trainer.load()
    pool = created(trainer.run())
    pool.write(files.whole)
    shutil.rmtree(files.work, ignore_errors=True)
    return pool


def paths_of(file: Path, data: ImageSet, device: torch.device) -> dict[str, float]:
    """Return the accuracy of every member of a pool, by its path."""
    return {str(found.path): found.top1 for found in measure_paths(Learngene.open(file), data, device=device)}


class _KeepsStitched:
    """A keeper that writes the pool as the phase of its stitches leaves it, before the checkpoint that ends that phase."""

    def __init__(self, keeper: FolderKeeper, write: Callable[[Mapping[str, Tensor]], object]) -> None:
        self._keeper, self._write = keeper, write
        self._written = False

    def __str__(self) -> str:
        """Return the keeper's name."""
        return str(self._keeper)

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether the keeper wants one."""
        return self._keeper.due(step, ends_epoch=ends_epoch)

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep it; the first one of a whole pool is that of its stitches' phase."""
        pool = {name.removeprefix("pool."): tensor for name, tensor in checkpoint.part("done").items() if name[:5] == "pool."}
        if pool and not self._written and not _trains(checkpoint.facts):
            self._write(pool)
        self._written = self._written or bool(pool)
        self._keeper.keep(checkpoint, step)

    def read(self) -> Checkpoint:
        """Return the kept checkpoint; a run that goes on from a whole pool has that pool written already."""
        checkpoint = self._keeper.read()
        self._written = any(name.startswith("pool.") for name in checkpoint.part("done"))
        return checkpoint


def _trains(facts: Mapping[str, Any]) -> bool:
    return facts["run"] is not None


def _anchors_of(pool: Learngene, config: PoolConfig) -> dict[str, dict[str, Tensor]]:
    """Return the weights of a pool's anchors by the anchors' names."""
    found: dict[str, dict[str, Tensor]] = {}
    for index, anchor in enumerate(config.anchors):
        prefix = f"anchors.{index}."
        own = {name: array for name, array in pool.tensors.items() if name.startswith(prefix)}
        found[anchor.name] = {name.removeprefix(prefix): torch.from_numpy(array.copy()) for name, array in own.items()}
    return found
