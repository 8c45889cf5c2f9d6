"""The engine's end of the socket: orders come in, reports and heartbeats go out.

When the supervisor is gone the process ends at once, whatever it does: another worker may be at its job already.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.worker.protocol import ORDER, Beat, ExportRun, FineTuneRun, Run, Setup, Stop, TrainingRun
from tleg_core.training.loop import Wish

logger = logging.getLogger(__name__)

_BEATS = 4  # in the time after which a silent engine counts as dead


class Connection:
    """The connection to the supervisor.

    Args:
        path: The unix socket.
        gone_status: The process's exit status when the supervisor is gone.

    Raises:
        OSError: Nobody listens there.
    """

    def __init__(self, path: Path, *, gone_status: int) -> None:
        self._gone_status = gone_status
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._sending = threading.Lock()
        self._runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._stops: dict[str, Wish] = {}  # by job
        self._heartbeat_s = 0.0

    def setup(self) -> Setup:
        """Wait for the first order, and begin to listen and to send heartbeats."""
        order = self._read()
        if not isinstance(order, Setup):
            logger.error("the first order is no setup", extra={"action": "engine_order_unexpected"})
            os._exit(1)
        self._heartbeat_s = order.heartbeat_s
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        threading.Thread(target=self._beat, name="beats", daemon=True).start()
        return order

    def next_run(self) -> Run:
        """Wait for a job."""
        return self._runs.get()

    def wish(self, job: str) -> Wish:
        """Return what is wanted of the job."""
        return self._stops.get(job, Wish.GO_ON)

    def report(self, report: BaseModel) -> None:
        """Say something to the supervisor."""
        content = report.model_dump_json().encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(content)
        except OSError:
            os._exit(self._gone_status)

    def _listen(self) -> None:
        while True:
            match self._read():
                case FineTuneRun() | TrainingRun() | ExportRun() as run:
                    self._stops.clear()  # of jobs that are over
                    self._runs.put(run)
                case Stop(job=job, save=save):
                    self._stops[job] = Wish.SAVE if save else Wish.DROP
                case Setup():
                    logger.error("a second setup is ignored", extra={"action": "engine_order_unexpected"})

    def _read(self) -> Setup | Run | Stop:
        """Return the next order; the process ends where there is none."""
        try:
            line = self._lines.readline()
        except OSError:
            line = b""
        if not line:
            os._exit(self._gone_status)
        try:
            return ORDER.validate_json(line)
        except ValidationError:
            logger.exception("an order cannot be read", extra={"action": "engine_order_unreadable"})
            os._exit(1)

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._heartbeat_s / _BEATS):
            self.report(Beat())
