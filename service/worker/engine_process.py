"""The engine as the supervisor sees it: a process that is started, ordered, listened to, watched, and killed.

It speaks `service.worker.protocol` over a unix socket in a folder that only this user can enter. What it is asked to do, and
what becomes of its reports, is `attempt`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from service.domain.errors import ServiceError
from service.worker.protocol import (
    REPORT,
    Beat,
    EpochDone,
    Failed,
    Finished,
    Note,
    Order,
    Ready,
    Saved,
    Setup,
    Started,
    Stepped,
    Stopped,
)

logger = logging.getLogger(__name__)

_MAX_LINE_BYTES = 8 * 1024 * 1024  # a report is some hundred bytes; what is longer is none
_START_TIMEOUT_S = 300.0  # torch from a cold network disk takes a minute
_STOP_TIMEOUT_S = 5.0  # between the end of the connection and the kill
_LAST_WORDS_S = 2.0  # for what a dead engine had sent to be read

JobReport: TypeAlias = Started | Stepped | EpochDone | Saved | Finished | Stopped | Failed | Note

Command = Callable[[Path], Sequence[str]]
"""The command line of an engine, given the socket that it is to connect to."""


class EngineEndedError(ServiceError):
    """The engine has ended."""


class EngineProcess:
    """One engine, from its start to its end.

    Args:
        command: Its command line.
        setup: The first order; its heartbeat is how long the engine may say nothing before it counts as hung.
    """

    def __init__(self, command: Command, setup: Setup) -> None:
        self._command = command
        self._setup = setup
        self._silence_limit_s = setup.heartbeat_s
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.Server | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._reports: asyncio.Queue[JobReport] = asyncio.Queue()
        self._heard = False  # since the last look
        self._killed_because: str | None = None
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """Its process id, once started."""
        return None if self._process is None else self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it can be given a job."""
        return self._ready.done() and not self._ready.cancelled() and not self._ended.done() and self._killed_because is None

    async def start(self) -> None:
        """Start it; raises OSError where the process cannot be made."""
        self._folder = tempfile.TemporaryDirectory(prefix="tleg-engine-", ignore_cleanup_errors=True)
        path = Path(self._folder.name) / "socket"
        self._server = await asyncio.start_unix_server(self._accept, path, limit=_MAX_LINE_BYTES)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(path),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, to be killed whole; a Ctrl-C is ours to act on
            )
        except OSError:
            await self._close()
            raise
        self._watching = asyncio.create_task(self._watch(self._process))

    async def ready(self) -> str:
        """Wait until it can be given a job; return its device. Raises `EngineEndedError`."""
        either: set[asyncio.Future[Any]] = {self._ready, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            raise EngineEndedError(self._ended.result())
        return self._ready.result()

    async def ended(self) -> str:
        """Wait for its end; return the reason, for people."""
        return await asyncio.shield(self._ended)

    def order(self, order: Order) -> None:
        """Give it an order; one that has ended hears nothing, and says so to whoever waits for its reports."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(order.model_dump_json().encode() + b"\n")

    async def report(self) -> JobReport:
        """Return its next report; raises `EngineEndedError` after the last."""
        if self._reports.empty():
            following = asyncio.ensure_future(self._reports.get())
            either: set[asyncio.Future[Any]] = {following, self._ended}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    return following.result()
            finally:
                following.cancel()
            raise EngineEndedError(self._ended.result())
        return self._reports.get_nowait()

    def kill(self, reason: str) -> None:
        """End it at once, its children with it; `reason` is what `ended` will say."""
        if self._process is None or self._ended.done():
            return
        if self._killed_because is None:
            self._killed_because = reason
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads its session, so its id is the group's

    async def stop(self) -> None:
        """End it in order: close the connection, and kill it if it does not follow. It must not be training."""
        if self._process is None:
            return
        if self._writer is not None:
            self._writer.close()
            await asyncio.wait({self._ended}, timeout=_STOP_TIMEOUT_S)
        self.kill("the worker was stopped")
        await self.ended()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:  # there is one engine; who else would connect
            writer.close()
            return
        self._writer = writer
        self._listening = asyncio.current_task()
        self.order(self._setup)
        await self._listen(reader)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Read reports until the connection ends."""
        try:
            while line := await reader.readline():
                self._heard = True
                match report := REPORT.validate_json(line):
                    case Ready():
                        if not self._ready.done():
                            self._ready.set_result(report.device)
                    case Beat():
                        pass
                    case _:
                        self._reports.put_nowait(report)
        except ConnectionError:
            return
        except (ValidationError, ValueError) as error:
            logger.exception("the engine's report cannot be read", extra={"action": "engine_report_unreadable"})
            self.kill(f"the training process sent what is no report: {str(error).splitlines()[0]}")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill the process when it is silent for too long, and say when and why it has ended."""
        exited = asyncio.ensure_future(process.wait())
        period_s = self._silence_limit_s / 10
        silent_s, unready_s = 0.0, 0.0
        while not exited.done():
            await asyncio.wait({exited}, timeout=period_s)
            # Looks are counted, not seconds: a supervisor that was stopped itself must not blame the engine for the time.
            silent_s = 0.0 if self._heard or self._writer is None else silent_s + period_s
            self._heard = False
            if not self._ready.done():
                unready_s += period_s
                if unready_s > _START_TIMEOUT_S:
                    self.kill(f"the training process was not ready within {_START_TIMEOUT_S:.0f} s")
            if self._listening is not None and self._listening.done() and not exited.done():
                await asyncio.wait({exited}, timeout=_STOP_TIMEOUT_S)  # it is ending, most often
                if not exited.done():
                    self.kill("the training process closed its connection")
            elif silent_s >= self._silence_limit_s:
                self.kill(f"the training process said nothing for {self._silence_limit_s:g} s")
        if self._listening is not None:  # it may have sent its result and ended
            await asyncio.wait({self._listening}, timeout=_LAST_WORDS_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # children that it left behind
        await self._close()
        self._ended.set_result(self._killed_because or _exit_reason(exited.result()))

    async def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            self._server.close()
        if self._folder is not None:
            self._folder.cleanup()


def _exit_reason(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"the training process ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = "; perhaps the machine ran out of memory" if -status == signal.SIGKILL else ""
    return f"the training process was ended by {name}{hint}"
