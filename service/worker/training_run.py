"""The training of a learngene in the engine: from an order to the learngene's file in the object store.

The file follows from the order alone: another attempt, on the same kind of device, makes the same bytes. What is trained, the
sections of the configuration say: a basis, a pool of anchors, or layers of an ancestry model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from service.storage.object_store import trained_learngene_key
from service.worker.basis_training import BasisTraining
from service.worker.inheritance_training import InheritanceTraining
from service.worker.pool_training import PoolTraining
from service.worker.protocol import Finished, Started, TrainingRun, Weights
from service.worker.run_reporter import Report, Reporter
from service.worker.state_keeper import StateKeeper
from service.worker.training_images import TrainingImages, decided
from service.worker.workbench import Workbench
from tleg_core.canonical import sha256_hex
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene import Learngene
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.training.loop import Wish
from tleg_core.training_recipe import config_from_json

logger = logging.getLogger(__name__)


class Training(Protocol):
    """What makes a learngene."""

    images: TrainingImages

    def begin(self) -> None:
        """Begin at the first update."""
        ...

    def load(self) -> None:
        """Go on from the kept state; raises `CheckpointError`."""
        ...

    @property
    def steps(self) -> int:
        """Updates in all."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        ...

    def run(self) -> Learngene:
        """Train to the end and return the learngene, every member measured; raises what the training does."""
        ...

    def metrics_of(self, learngene: Learngene) -> dict[str, float]:
        """Return what was measured of every member, by the names of metrics."""
        ...


def do_training(run: TrainingRun, bench: Workbench, report: Report, wish: Callable[[], Wish]) -> None:
    """Train a learngene, and report its file; raises what the training does."""
    if run.settings["nproc"] != bench.processes.count:
        raise ConfigError("nproc", f"is {run.settings['nproc']}, but {bench.processes.count} processes run")
    settings = dict(run.settings) | {"config": decided(run.settings["config"], bench.device)}
    reporter, keeper = Reporter(run.job, report), StateKeeper(run, bench, report)
    config = config_from_json(settings["config"])
    training: Training
    match config:
        case LearngeneConfig():
            training = BasisTraining(run, config, bench, keeper=keeper, reporter=reporter, wish=wish)
        case PoolConfig():
            training = PoolTraining(run, config, bench, keeper=keeper, reporter=reporter, wish=wish)
        case InheritanceConfig():
            training = InheritanceTraining(run, config, bench, keeper=keeper, reporter=reporter, wish=wish)
    training.begin()
    if run.resume_key is not None:
        try:
            training.load()
        except CheckpointError as error:
            logger.warning("a state is not used: %s", error, extra={"action": "state_unusable", "job": run.job})
            reporter.note("the saved state cannot be used; training begins again, to the same result")
            training.begin()
    report(Started(job=run.job, settings=settings, steps=training.steps))
    learngene = training.run()
    if bench.processes.first:
        report(
            Finished(
                job=run.job,
                epoch=training.epochs,
                step=training.steps,
                metrics=reporter.last_metrics | training.metrics_of(learngene),
                weights=_stored(learngene, run, bench, images=training.images.num_held_out),
            )
        )


def _stored(learngene: Learngene, run: TrainingRun, bench: Workbench, *, images: int) -> Weights:
    """Put the learngene into the object store."""
    path = bench.work_dir / "learngene.safetensors"
    try:
        path.write_bytes(learngene.content)
        sha256 = sha256_hex(learngene.content)
        key = trained_learngene_key(run.job, sha256)
        bench.store.move_file(key, path)
    finally:
        path.unlink(missing_ok=True)
    return Weights(key=key, sha256=sha256, size_bytes=len(learngene.content), images=images)
