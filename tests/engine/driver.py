"""A driver that plays the supervisor: starts an engine, gives it orders, and reads its reports."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from service.worker.protocol import REPORT, Beat, Failed, Finished, Ready, Setup, Stop, Stopped

TIMEOUT_S = 150.0  # an engine that starts on a busy machine takes long


class EngineGoneError(Exception):
    """The engine's connection has ended."""


class Engine:
    """An engine process."""

    def __init__(
        self, folder: Path, learngenes: Sequence[Path], store_url: str, *, nproc: int = 1, heartbeat_s: float = 2.0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.beats: list[float] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(folder / "socket"))
        self._server.listen(1)
        self._server.settimeout(TIMEOUT_S)
        start = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc), "-m"] if nproc > 1 else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", *start, "service.worker.engine", str(folder / "socket")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # several wait for each other on a machine that is busy
        )
        self._connection, _ = self._server.accept()
        self._reports: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.order(
            Setup(
                learngenes=[str(path) for path in learngenes],
                store_url=store_url,
                device="cpu",
                heartbeat_s=heartbeat_s,
                work_dir=str(folder / "work"),
            )
        )
        assert isinstance(self.report(), Ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.hang_up()
        self.process.wait(TIMEOUT_S)

    def order(self, order: BaseModel) -> None:
        """Send an order."""
        self._connection.sendall(order.model_dump_json().encode() + b"\n")

    def report(self, timeout_s: float = TIMEOUT_S) -> Any:
        """Return the next report that is no heartbeat; raises `EngineGoneError` after the last."""
        report = self._reports.get(timeout=timeout_s)
        if report is None:
            raise EngineGoneError
        return report

    def until(self, *kinds: type[BaseModel]) -> list[Any]:
        """Return the reports up to the first of these kinds, or of an end."""
        reports = []
        while True:
            reports.append(self.report())
            if isinstance(reports[-1], (*kinds, Finished, Failed, Stopped)):
                return reports

    def do(self, run: BaseModel) -> list[Any]:
        """Give a job and return all its reports."""
        self.order(run)
        return self.until(Finished)

    def stop(self, job: str, *, save: bool) -> None:
        """Order a stop."""
        self.order(Stop(job=job, save=save))

    def kill(self) -> list[Any]:
        """Kill it at once, and return what it still had said."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT_S)
        reports = []
        while True:
            try:
                reports.append(self.report())
            except EngineGoneError:
                break
        self.hang_up()
        return reports

    def hang_up(self) -> None:
        """End the connection, as the supervisor's death does."""
        self._server.close()
        with contextlib.suppress(OSError):  # it may have ended already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _listen(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    report = REPORT.validate_json(line)
                    if isinstance(report, Beat):
                        self.beats.append(time.monotonic())
                    else:
                        self._reports.put(report)
        except (OSError, ValueError):
            pass
        self._reports.put(None)


def wait_for(holds: Callable[[], bool], *, within_s: float = TIMEOUT_S) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
