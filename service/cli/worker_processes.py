"""The workers that `tleg serve` runs beside the API: child processes, started again when they end, stopped in order.

Each has the read end of a pipe as its standard input and drains when that ends, so none outlives this process, however it ends.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0  # between the starts of a worker that always ends
_GOOD_RUN_S = 60.0  # after which the pauses begin anew
_KILL_AFTER_S = 15.0  # beyond the drain: for the engine to end, and what is to be said to Redis


class WorkerProcesses:
    """Some workers; use it as a context manager, and call `start` when the API answers.

    Args:
        count: How many.
        options: What `tleg worker` is given.
        drain_timeout_s: How long a worker may take to hand its job over.
    """

    def __init__(self, count: int, options: Sequence[str], *, drain_timeout_s: float) -> None:
        # -P: a folder named `service` where the server was started is not ours
        self._command = [sys.executable, "-P", "-m", "service.cli", "worker", "--until-eof", *options]
        self._drain_timeout_s = drain_timeout_s
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # held while a process is started, and while all are signalled
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._keepers = [
            threading.Thread(target=self._keep, args=(index,), name=f"worker-keeper-{index}", daemon=True)
            for index in range(count)
        ]

    def start(self) -> None:
        """Start the workers, and keep them from now on."""
        for keeper in self._keepers:
            keeper.start()

    def drain(self) -> None:
        """Tell the workers to hand their jobs over and to end; does not wait, and may be called from a signal's handler."""
        self._stopping.set()
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drain the workers, and wait for their end; one that does not end is killed."""
        if not self._stopping.is_set():
            self.drain()
        deadline = time.monotonic() + self._drain_timeout_s + _KILL_AFTER_S
        for keeper in self._keepers:
            if keeper.ident is not None:
                keeper.join(max(0.0, deadline - time.monotonic()))
        with self._changing:
            for process in self._processes.values():
                logger.error("a worker does not end; killing it", extra={"action": "worker_killed", "pid": process.pid})
                process.kill()
        for keeper in self._keepers:
            if keeper.ident is not None:
                keeper.join()

    def _keep(self, index: int) -> None:
        """Run one worker, and another when it ends."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._start(index)
            if process is not None:
                status = process.wait()
                with self._changing:
                    del self._processes[index]
                if process.stdin is not None:
                    process.stdin.close()
                if self._stopping.is_set():
                    return
                if time.monotonic() - started > _GOOD_RUN_S:
                    pause_s = _FIRST_PAUSE_S
                logger.error("a worker ended; starting another", extra={"action": "worker_ended", "status": status})
            self._stopping.wait(pause_s)
            pause_s = min(_LAST_PAUSE_S, 2 * pause_s)

    def _start(self, index: int) -> subprocess.Popen[bytes] | None:
        with self._changing:
            if self._stopping.is_set():
                return None
            try:
                process = subprocess.Popen(  # noqa: S603 (our own program and options)
                    self._command,
                    stdin=subprocess.PIPE,
                    start_new_session=True,  # a Ctrl-C at the terminal reaches us alone
                )
            except OSError as error:
                logger.error("a worker cannot be started: %s", error, extra={"action": "worker_start_failed"})
                return None
            self._processes[index] = process
        if self._stopping.is_set():  # told so in the meantime, perhaps before it was listed
            process.terminate()
        return process
