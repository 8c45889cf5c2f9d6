"""An engine without torch, for tests of the supervisor: it speaks the protocol and trains nothing.

What it does is decided by the job's seed: see `Conduct`. It is run as a program; its port to the supervisor is the socket, as
the real one's.
"""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from enum import IntEnum
from pathlib import Path

from service.domain.errors import ObjectStoreError
from service.storage.object_store import ObjectStore, export_key, state_key, trained_learngene_key, weights_key
from service.worker.protocol import (
    INTERNAL_ERROR,
    ORDER,
    Beat,
    EpochDone,
    ExportRun,
    Failed,
    FineTuneRun,
    Finished,
    Note,
    Ready,
    Run,
    Saved,
    Setup,
    Started,
    Stepped,
    Stop,
    Stopped,
    TrainingRun,
    Weights,
)
from tests.service import tiny

STEP_S = 0.02


class Conduct(IntEnum):
    """What it does with a job, as the seed of the job's settings."""

    TRAINS = 0
    DIES = 1  # before the first step, each time
    HANGS = 2  # says nothing more after the first step, the first time
    FAILS = 3
    TRAINS_SLOWLY = 4
    STOPS_FOR_NOBODY = 5
    BABBLES = 6  # sends what is no report
    BREAKS = 7  # fails for a reason that it does not know


class FakeEngine:
    """One engine."""

    def __init__(self, path: str) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(path)
        self._orders: queue.Queue[Run | Stop] = queue.Queue()
        self._silent = False
        lines = self._connection.makefile("rb")
        setup = ORDER.validate_json(lines.readline())
        assert isinstance(setup, Setup)
        self._store = ObjectStore(setup.store_url)
        self._work_dir = Path(setup.work_dir)
        threading.Thread(target=self._beat, args=(setup.heartbeat_s / 4,), daemon=True).start()
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()

    def serve(self) -> None:
        """Do jobs for ever."""
        self._send(Ready(device="none"))
        while True:
            order = self._orders.get()
            if isinstance(order, ExportRun):
                self._export(order)
            elif not isinstance(order, Stop):
                self._run(order)

    def _listen(self, lines: object) -> None:
        for line in lines:  # type: ignore[attr-defined]
            self._orders.put(ORDER.validate_json(line))  # type: ignore[arg-type]
        os._exit(0)

    def _beat(self, period_s: float) -> None:
        while True:
            time.sleep(period_s)
            self._send(Beat())

    def _send(self, report: object) -> None:
        if not self._silent:
            self._connection.sendall(report.model_dump_json().encode() + b"\n")  # type: ignore[attr-defined]

    def _run(self, run: FineTuneRun | TrainingRun) -> None:
        conduct, job = Conduct(run.settings["seed"]), run.job
        epochs, steps = run.settings["epochs"], run.settings["epochs"] * 10
        step_s = STEP_S * (10 if conduct is Conduct.TRAINS_SLOWLY else 1)
        first = 0
        if run.resume_key is not None:
            with tempfile.NamedTemporaryFile(dir=self._work_dir) as file:
                self._store.fetch_file(run.resume_key, Path(file.name))
                first = int(Path(file.name).read_text())
        if conduct is Conduct.DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if conduct is Conduct.FAILS:
            self._send(Failed(job=job, code="out_of_memory", message="one image is too large for the memory"))
            return
        if conduct is Conduct.BREAKS:
            self._send(Failed(job=job, code=INTERNAL_ERROR, message="see the log"))
            return
        self._send(Started(job=job, settings=run.settings, steps=steps))
        self._send(Note(job=job, message="this is no training"))
        for step in range(first + 1, steps + 1):
            time.sleep(step_s)
            if conduct is Conduct.HANGS and run.attempt == 1:
                self._silent = True
                time.sleep(600)
            if conduct is Conduct.BABBLES:
                self._connection.sendall(b'{"type":"nonsense"}\n')
            metrics = {"train_loss": 1 / step, "lr": 0.1}
            self._send(Stepped(job=job, epoch=step // 10, step=step, steps=steps, images_per_s=100.0, metrics=metrics))
            stop = self._asked() if conduct is not Conduct.STOPS_FOR_NOBODY else None
            if run.checkpoint_s == 0 or (stop is not None and stop.save):
                self._save(run, step)
            if stop is not None:
                self._send(Stopped(job=job))
                return
            if step % 10 == 0:
                weights = self._weights(run, step) if step < steps and isinstance(run, FineTuneRun) else None
                metrics = {"train_loss": 1 / step, "loss": 2 / step, "top1": 0.5, "top5": 0.9}
                self._send(EpochDone(job=job, epoch=step // 10, step=step, metrics=metrics, weights=weights))
        metrics = {"loss": 2 / steps, "top1": 0.5, "top5": 0.9}
        self._send(Finished(job=job, epoch=epochs, step=steps, metrics=metrics, weights=self._weights(run, steps)))

    def _export(self, run: ExportRun) -> None:
        self._send(Started(job=run.job, settings={}, steps=2))
        for step in (1, 2):
            time.sleep(10 * STEP_S)
            self._send(Stepped(job=run.job, epoch=0, step=step, steps=2, images_per_s=None, metrics={}))
            if self._asked() is not None:
                self._send(Stopped(job=run.job))
                return
        content = f"{run.model['id']} as {run.format}".encode()
        digest = hashlib.sha256(content).hexdigest()
        key = export_key(run.model["id"], digest, run.format.suffix)
        self._put(key, content)
        weights = Weights(key=key, sha256=digest, size_bytes=len(content))
        self._send(Finished(job=run.job, epoch=0, step=2, metrics={"deviation": 0.5}, weights=weights))

    def _asked(self) -> Stop | None:
        asked = None
        while not self._orders.empty():
            order = self._orders.get()
            if isinstance(order, Stop):
                asked = order
        return asked

    def _save(self, run: FineTuneRun | TrainingRun, step: int) -> None:
        key = state_key(run.job, run.attempt, step, "0" * 64)
        try:
            self._put(key, str(step).encode())
        except ObjectStoreError as error:
            self._send(Failed(job=run.job, code="storage_failed", message=str(error)))
            raise SystemExit(0) from None
        self._send(Saved(job=run.job, step=step, key=key))

    def _weights(self, run: FineTuneRun | TrainingRun, step: int) -> Weights:
        if isinstance(run, TrainingRun):
            return self._learngene(run)
        content = f"weights of {run.model['id']} after {step}".encode()
        digest = hashlib.sha256(content).hexdigest()
        self._put(weights_key(digest), content)
        return Weights(key=weights_key(digest), sha256=digest, size_bytes=len(content), images=20)

    def _learngene(self, run: TrainingRun) -> Weights:
        content = bytes(tiny.learngene(run.name).content)
        digest = hashlib.sha256(content).hexdigest()
        key = trained_learngene_key(run.job, digest)
        self._put(key, content)
        return Weights(key=key, sha256=digest, size_bytes=len(content), images=20)

    def _put(self, key: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self._work_dir) as file:
            file.write(content)
            file.flush()
            self._store.put_file(key, Path(file.name))


if __name__ == "__main__":
    FakeEngine(sys.argv[1]).serve()
