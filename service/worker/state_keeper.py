"""The states of one attempt in the object store, under keys that no other attempt writes."""

from __future__ import annotations

import hashlib
import logging
import time

from service.domain.errors import ObjectDamagedError, ObjectStoreError
from service.storage.object_store import state_key, state_sha256
from service.worker.protocol import LongRun, Note, Saved
from service.worker.run_reporter import Report
from service.worker.workbench import Workbench
from tleg_core.errors import CheckpointError
from tleg_core.training.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


class StateKeeper:
    """Keeps the states of one attempt in the object store."""

    def __init__(self, run: LongRun, bench: Workbench, report: Report) -> None:
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
