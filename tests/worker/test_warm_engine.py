"""The warm engine: there is always one, of as many processes as are wanted."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from service.worker.protocol import Setup
from service.worker.warm_engine import WarmEngine

CODE = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"type":"ready","device":"%s processes"}\\n' % sys.argv[2].encode())
for line in s.makefile():
    pass
"""


def warm_engine(work_dir: Path) -> WarmEngine:
    """Return an engine that says of how many processes it is, and does nothing."""
    setup = Setup(learngenes=[], store_url=work_dir.as_uri(), device="cpu", heartbeat_s=30.0, work_dir=str(work_dir))
    return WarmEngine(setup, lambda socket, nproc: [sys.executable, "-c", CODE, str(socket), str(nproc)])


def test_a_group_that_died_is_not_taken_for_a_single_process(tmp_path: Path) -> None:
    """The next group is being started when its job is over: that one is exchanged too, or every job would fail in it."""

    async def scenario() -> None:
        warm = warm_engine(tmp_path)
        warm.start()
        try:
            group = await warm.provide(2)
            assert await group.ready() == "2 processes"
            assert group.pid is not None
            os.kill(group.pid, signal.SIGKILL)
            await group.ended()
            await warm.settle()
            assert await (await warm.provide(1)).ready() == "1 processes"
            assert warm.is_ready
        finally:
            await warm.stop()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_work_folder_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    """An engine follows the one that died."""
    work_dir = tmp_path / "work"
    work_dir.mkdir()

    async def scenario() -> None:
        warm = warm_engine(work_dir)
        warm.start()
        try:
            first = await warm.provide(1)
            shutil.rmtree(work_dir)
            first.kill("a test")
            await first.ended()
            second = await warm.provide(1)
            assert second is not first
            assert work_dir.is_dir()
        finally:
            await warm.stop()

    asyncio.run(asyncio.wait_for(scenario(), 30))
