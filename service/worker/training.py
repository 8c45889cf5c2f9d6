"""One job in the engine: from an order to a report of its end.

The first process alone reports and saves. States of training and weights go to the object store under keys that no other
attempt writes, so an attempt that was given up harms nothing.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

import torch
from pydantic import BaseModel

from service.domain.dataset import Dataset
from service.domain.errors import DatasetNotFoundError, LearngeneNotLoadedError, ObjectDamagedError, ObjectStoreError
from service.domain.model import Model
from service.storage.object_store import state_key, state_sha256, weights_key
from service.worker.protocol import (
    INTERNAL_ERROR,
    EpochDone,
    Failed,
    Finished,
    Note,
    Run,
    Saved,
    Started,
    Stepped,
    Stopped,
    Weights,
)
from service.worker.workbench import Workbench
from tleg_core.errors import CheckpointError, ConfigError, ImageFileError
from tleg_core.fine_tuning import FineTuneSettings, Start
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.decoded import InputShape
from tleg_core.training.errors import TrainingDivergedError, TrainingInterruptedError, TrainingMemoryError, is_out_of_memory
from tleg_core.training.fine_tune import FineTune, Lesson
from tleg_core.training.loop import Wish
from tleg_core.training.network import Network
from tleg_core.training.observer import EpochReport, StepReport

logger = logging.getLogger(__name__)

FIRST_WORD_S = 5.0  # that the first process has for its report before another one's end ends it

Report = Callable[[BaseModel], None]


class _StateKeeper:
    """Keeps the states of one attempt in the object store."""

    def __init__(self, run: Run, bench: Workbench, report: Report) -> None:
        self._run, self._bench, self._report = run, bench, report
        self._path = bench.work_dir / "state.safetensors"
        self._saved_s = time.monotonic()

    def __str__(self) -> str:
        """Return what it is, for messages."""
        return "the saved state"

    def due(self, step: int, *, ends_epoch: bool) -> bool:  # noqa: ARG002 (time alone counts)
        """Whether so much time has passed."""
        return time.monotonic() - self._saved_s >= self._run.checkpoint_s

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Put it into the object store, and say so; where that fails, training goes on without it."""
        try:
            checkpoint.write(self._path)
            with self._path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            key = state_key(self._run.job, self._run.attempt, step, sha256)
            self._bench.store.move_file(key, self._path)
        except (CheckpointError, ObjectStoreError, OSError) as error:
            logger.warning("a state is not saved: %s", error, extra={"action": "state_not_saved", "job": self._run.job})
            self._report(Note(job=self._run.job, message=f"the state of step {step} could not be saved: is the disk full?"))
        else:
            self._report(Saved(job=self._run.job, step=step, key=key))
        finally:
            self._path.unlink(missing_ok=True)
            self._saved_s = time.monotonic()

    def read(self) -> Checkpoint:
        """Return the state to go on from; raises `CheckpointError` where it is gone or damaged."""
        key = self._run.resume_key or ""
        try:
            self._bench.store.fetch_file(key, self._path, sha256=state_sha256(key))
            return Checkpoint.read(self._path)
        except FileNotFoundError:
            raise CheckpointError("the saved state is gone") from None
        except ObjectDamagedError as error:
            raise CheckpointError(str(error)) from None
        finally:
            self._path.unlink(missing_ok=True)


class _Reporter:
    """Tells the supervisor how a run goes."""

    def __init__(self, job: str, report: Report) -> None:
        self._job, self._report = job, report
        self.keep_weights: Callable[[int], Weights | None] = lambda _epoch: None
        self.last_metrics: dict[str, float] = {}
        self.last_epoch = 0

    def stepped(self, report: StepReport) -> None:
        """Report progress."""
        self._report(
            Stepped(
                job=self._job,
                epoch=report.epoch,
                step=report.step,
                steps=report.steps,
                images_per_s=report.images_per_s,
                metrics={"train_loss": report.train_loss, "lr": report.lr},
            )
        )

    def epoch_done(self, report: EpochReport) -> None:
        """Report an epoch's end, with the weights where they are kept."""
        self.last_metrics = {"train_loss": report.train_loss, **report.metrics}
        self.last_epoch = report.epoch
        weights = self.keep_weights(report.epoch)
        self._report(EpochDone(job=self._job, epoch=report.epoch, step=report.step, metrics=self.last_metrics, weights=weights))

    def note(self, message: str) -> None:
        """Report a message."""
        self._report(Note(job=self._job, message=message))


def train(run: Run, bench: Workbench, report: Report, wish: Callable[[], Wish]) -> None:
    """Do a job and report its end: finished, stopped or failed.

    Args:
        run: The job.
        bench: What the engine holds.
        report: Says something to the supervisor; does nothing in all processes but the first.
        wish: Says whether to stop.
    """
    failure: Failed | None = None
    try:
        _train(run, bench, report, wish)
    except TrainingInterruptedError:
        report(Stopped(job=run.job))
    except Exception as error:  # whatever it is, it is this job's, and the engine goes on
        failure = _failure(run.job, error)
        if failure.code == INTERNAL_ERROR:
            logger.exception("a job failed", extra={"action": "job_failed", "job": run.job})
        else:
            logger.info("a job failed: %s", failure.message, extra={"action": "job_failed", "job": run.job})
    if failure is not None:
        if bench.processes.count > 1:
            _leave(failure, bench, report)
        report(failure)
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def _leave(failure: Failed, bench: Workbench, report: Report) -> NoReturn:
    """End this process of several: they may be at different places now. torchrun ends the others.

    What has no name of its own is most likely another process's death, which is not the job's failure.
    """
    if bench.processes.first and failure.code != INTERNAL_ERROR:
        report(failure)
    elif not bench.processes.first:
        time.sleep(FIRST_WORD_S)
    os._exit(1)


def _failure(job: str, error: Exception) -> Failed:
    """Return the report of an error; no message holds a path of this machine."""
    code, message = (
        INTERNAL_ERROR,
        f"the training failed by an error of its own ({type(error).__name__}); see the worker's log",
    )
    match error:
        case ConfigError():
            code, message = "invalid_settings", str(error)
        case TrainingDivergedError():
            code, message = "training_diverged", str(error)
        case TrainingMemoryError():
            code, message = "out_of_memory", "one image at a time does not fit the memory of the worker's device"
        case LearngeneNotLoadedError():
            code, message = "learngene_not_loaded", str(error)
        case DatasetNotFoundError():
            code, message = "dataset_missing", "the data set's images are not in the object store"
        case ImageFileError():
            code, message = "dataset_missing", "the data set's images cannot be read: the file is damaged"
        case ObjectDamagedError() | CheckpointError():
            code, message = "weights_damaged", "the file of the model that training starts from is damaged"
        case ObjectStoreError():
            code, message = "storage_failed", str(error)
        case OSError(errno=None):  # Pillow's
            code, message = "dataset_missing", "an image of the data set cannot be decoded"
        case OSError():
            code, message = "storage_failed", f"the worker's disk failed: {os.strerror(error.errno or 0)}"
        case _ if is_out_of_memory(error):
            code, message = "out_of_memory", "the network and the optimiser do not fit the memory of the worker's device"
    return Failed(job=job, code=code, message=message)


def _train(run: Run, bench: Workbench, report: Report, wish: Callable[[], Wish]) -> None:
    settings = FineTuneSettings.from_json(run.settings)
    if settings.nproc != bench.processes.count:
        raise ConfigError("nproc", f"is {settings.nproc}, but {bench.processes.count} processes run")
    model, dataset = Model.from_json(run.model), Dataset.from_json(run.dataset)
    preprocessing = bench.preprocessing(model)
    file = bench.images(dataset)
    args = model.model_args
    shape = InputShape.of(args["img_size"], args["in_chans"], preprocessing)
    lesson = Lesson(
        network=Network(architecture=model.architecture, model_args=args, num_classes=len(file.class_names)),
        weights=bench.weights(model) if settings.start is Start.MODEL else None,
        preprocessing=preprocessing,
        file=file,
        pixels=bench.pixels(dataset, file, shape),
        shape=shape,
        digest=f"{model.id} {dataset.id}",
    )
    reporter = _Reporter(run.job, report)

    def fine_tune() -> FineTune:
        return FineTune(
            lesson,
            settings,
            device=bench.device,
            threads=bench.threads,
            keeper=_StateKeeper(run, bench, report),
            observer=reporter,
            wish=wish,
            processes=bench.processes,
        )

    tuned = fine_tune()
    if run.resume_key is not None:
        try:
            tuned.load()
        except CheckpointError as error:
            logger.warning("a state is not used: %s", error, extra={"action": "state_unusable", "job": run.job})
            reporter.note("the saved state cannot be used; training begins again, to the same result")
            tuned = fine_tune()

    def stored_weights() -> Weights:
        path = bench.work_dir / "weights.safetensors"
        try:
            written = tuned.write_weights(path)
            key = weights_key(written.sha256)
            bench.store.move_file(key, path)
        finally:
            path.unlink(missing_ok=True)
        return Weights(key=key, sha256=written.sha256, size_bytes=written.size_bytes, images=tuned.images)

    def kept_weights(epoch: int) -> Weights | None:
        is_kept = epoch % settings.save_every_epochs == 0 and epoch < settings.epochs
        return stored_weights() if is_kept and bench.processes.first else None

    reporter.keep_weights = kept_weights
    report(Started(job=run.job, settings=tuned.settings.to_json(), steps=tuned.total_steps))
    tuned.run()
    if bench.processes.first:
        report(
            Finished(
                job=run.job,
                epoch=settings.epochs,
                step=tuned.total_steps,
                metrics=reporter.last_metrics,
                weights=stored_weights(),
            )
        )
