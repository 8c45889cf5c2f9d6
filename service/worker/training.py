"""One job in the engine: from an order to a report of its end.

The first process alone reports and saves. States of training and weights go to the object store under keys that no other
attempt writes, so an attempt that was given up harms nothing.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

import torch

from service.domain.errors import DatasetNotFoundError, LearngeneNotLoadedError, ObjectDamagedError, ObjectStoreError
from service.worker.export_run import do_export
from service.worker.fine_tune_run import do_fine_tune
from service.worker.protocol import INTERNAL_ERROR, ExportRun, Failed, FineTuneRun, Run, Stopped, TrainingRun
from service.worker.run_reporter import Report
from service.worker.training_run import do_training
from service.worker.workbench import Workbench
from tleg_core.errors import CheckpointError, ConfigError, ImageFileError, PictureError
from tleg_core.training.errors import (
    ExportError,
    ExportTooLargeError,
    TrainingDivergedError,
    TrainingInterruptedError,
    TrainingMemoryError,
    is_out_of_memory,
)
from tleg_core.training.loop import Wish

logger = logging.getLogger(__name__)

FIRST_WORD_S = 5.0  # that the first process has for its report before another one's end ends it


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
        bench.fetch_learngene(run.learngene_key)
        match run:
            case FineTuneRun():
                do_fine_tune(run, bench, report, wish)
            case TrainingRun():
                do_training(run, bench, report, wish)
            case ExportRun():
                do_export(run, bench, report, wish)
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
        f"the job failed by an error of its own ({type(error).__name__}); see the worker's log",
    )
    match error:
        case ExportTooLargeError():
            code, message = "export_too_large", str(error)
        case ExportError(deviation=deviation):
            code, message = "export_refused" if deviation is None else "export_deviates", str(error)
        case PictureError():
            code, message = "dataset_missing", "an image of the data set cannot be decoded"
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
            code, message = "weights_damaged", "the file of the model that the job starts from, or learns from, is damaged"
        case ObjectStoreError():
            code, message = "storage_failed", str(error)
        case OSError(errno=None):  # Pillow's
            code, message = "dataset_missing", "an image of the data set cannot be decoded"
        case OSError():
            code, message = "storage_failed", f"the worker's disk failed: {os.strerror(error.errno or 0)}"
        case _ if is_out_of_memory(error):
            code, message = "out_of_memory", "the network and the optimiser do not fit the memory of the worker's device"
    return Failed(job=job, code=code, message=message)
