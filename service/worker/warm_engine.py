"""The worker's engine, always there: started at once, replaced when it ends, exchanged for one of several processes."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from service.worker.engine_process import EngineEndedError, EngineProcess
from service.worker.protocol import Setup

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0  # between the starts of an engine that never gets ready

CommandOf = Callable[[Path, int], Sequence[str]]
"""The command line of an engine, given its socket and its number of processes."""


def engine_command(socket: Path, nproc: int) -> Sequence[str]:
    """Return the command line of the engine; several processes run under torchrun, on this machine.

    With `-P` a folder named `service` where the worker happens to stand is not taken for ours; torchrun would not pass it on.
    """
    engine = (sys.executable, "-P", "-m", "service.worker.engine", str(socket))
    if nproc == 1:
        return engine
    torchrun = (sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc))
    return (*torchrun, "--no-python", *engine)


class WarmEngine:
    """Keeps one engine. One job at a time uses it.

    Args:
        setup: How it is to work.
        command: Its command line.
    """

    def __init__(self, setup: Setup, command: CommandOf = engine_command) -> None:
        self._setup = setup
        self._command = command
        self._engine: EngineProcess | None = None
        self._nproc = 1
        self._changed = asyncio.Condition()
        self._starts = 0
        self._failure = ""  # why the latest one did not get ready
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a job of one process could begin now; may be asked from any thread."""
        engine = self._engine
        return self._nproc == 1 and engine is not None and engine.is_ready

    @property
    def failure(self) -> str:
        """Why the latest engine did not get ready; empty if it did, or has not been tried."""
        return self._failure

    def start(self) -> None:
        """Start the engine, and keep one from now on."""
        self._keeping = asyncio.create_task(self._keep())

    async def provide(self, nproc: int) -> EngineProcess:
        """Return a ready engine of so many processes; raises `EngineEndedError` where there is none to be had."""
        if nproc != self._nproc:
            await self._exchange(nproc)
        starts = self._starts
        async with self._changed:
            # One that has just died may be followed by another; one that did not get ready would only fail again.
            await self._changed.wait_for(
                lambda: (self._engine is not None and self._engine.is_ready) or (self._starts > starts and self._failure)
            )
        if self._engine is None or not self._engine.is_ready:
            raise EngineEndedError(self._failure)
        return self._engine

    async def settle(self) -> None:
        """Go back to one process, after a job of several."""
        if self._nproc != 1:
            await self._exchange(1)

    def kill(self, reason: str) -> None:
        """End the engine at once; another is started."""
        if self._engine is not None:
            self._engine.kill(reason)

    async def stop(self) -> None:
        """End it."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        if self._engine is not None:
            await self._engine.stop()

    async def _exchange(self, nproc: int) -> None:
        """End the engine, for another number of processes; the next is started at once."""
        before, self._nproc = self._nproc, nproc
        if self._engine is not None:
            if before > 1:  # a group has nothing to lose, and ends in order only with a page of complaints by torchrun
                self._engine.kill("its job is done")
            await self._engine.stop()

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            nproc = self._nproc
            engine = EngineProcess(lambda path, nproc=nproc: self._command(path, nproc), self._setup)  # type: ignore[misc]
            try:
                await asyncio.to_thread(_clear, Path(self._setup.work_dir))
                await engine.start()
                self._engine = engine
                if nproc != self._nproc:  # since it was begun: whoever exchanged it saw the one before
                    engine.kill("another number of processes is wanted")
                device = await engine.ready()
            except (OSError, EngineEndedError) as error:
                if nproc == self._nproc:
                    logger.error(
                        "the engine does not start: %s", error, extra={"action": "engine_start_failed", "again_s": pause_s}
                    )
                    await self._note(str(error))
                    await asyncio.sleep(pause_s)
                    pause_s = min(_LAST_PAUSE_S, pause_s * 2)
                continue
            logger.info(
                "the engine is ready", extra={"action": "engine_ready", "device": device, "pid": engine.pid, "nproc": nproc}
            )
            await self._note("")
            pause_s = _FIRST_PAUSE_S
            reason = await engine.ended()
            if nproc == self._nproc:
                logger.error("%s; starting another", reason, extra={"action": "engine_ended"})

    async def _note(self, failure: str) -> None:
        async with self._changed:
            self._starts += 1
            self._failure = failure
            self._changed.notify_all()


def _clear(folder: Path) -> None:
    """Delete what an engine left: one that was killed did not, and the next does not know of it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
