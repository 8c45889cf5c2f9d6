"""The engine as a process: what is said of its end, whoever or whatever ended it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.worker.engine_process import EngineEndedError, EngineProcess
from service.worker.protocol import Setup
from tests.processes import is_running
from tests.worker.conftest import until

CONNECTED = "import os, signal, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
READY = CONNECTED + 's.sendall(b\'{"type":"ready","device":"none"}\\n\'); '


def setup(folder: Path) -> Setup:
    """Return an engine's first order."""
    return Setup(learngenes=[], store_url=folder.as_uri(), device="cpu", heartbeat_s=1.0, work_dir=str(folder))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(7)", "the training process ended with exit code 7"),
        (READY + "raise SystemExit(7)", "the training process ended with exit code 7"),
        (READY + "os.kill(os.getpid(), signal.SIGSEGV)", "the training process was ended by SIGSEGV"),
        (
            READY + "os.kill(os.getpid(), signal.SIGKILL)",
            "the training process was ended by SIGKILL; perhaps the machine ran out of memory",
        ),
        (READY + "os.kill(os.getpid(), signal.SIGSTOP)", "the training process said nothing for 1 s"),
        (CONNECTED + "s.sendall(b'x' * 10_000_000); signal.pause()", "the training process sent what is no report"),
    ],
)
def test_the_end_of_an_engine_has_its_reason(tmp_path: Path, code: str, reason: str) -> None:
    """An exit code, a signal by name, silence, or what was wrong with a report."""

    async def scenario() -> None:
        engine = EngineProcess(lambda socket: [sys.executable, "-c", code, str(socket)], setup(tmp_path))
        await engine.start()
        assert (await asyncio.wait_for(engine.ended(), 30)).startswith(reason)
        with pytest.raises(EngineEndedError):
            await engine.report()
        assert engine.pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)

    asyncio.run(scenario())


def test_what_a_dying_engine_had_sent_is_heard(tmp_path: Path) -> None:
    """Its last report, sent right before its end, comes before the news of that."""
    code = READY + 's.recv(65536); s.sendall(b\'{"type":"stopped","job":"ft-1"}\\n\'); os._exit(0)'  # it has its setup by then

    async def scenario() -> None:
        engine = EngineProcess(lambda socket: [sys.executable, "-c", code, str(socket)], setup(tmp_path))
        await engine.start()
        await asyncio.wait_for(engine.ended(), 30)
        assert (await engine.report()).type == "stopped"
        with pytest.raises(EngineEndedError):
            await engine.report()

    asyncio.run(scenario())


def test_children_of_an_engine_end_with_it(tmp_path: Path) -> None:
    """What it had started in its group is killed when it has ended."""
    code = (
        READY
        + "import subprocess; p = subprocess.Popen(['sleep', '600']); open(sys.argv[2], 'w').write(str(p.pid)); os._exit(1)"
    )
    pid_file = tmp_path / "pid"

    def command(socket: Path) -> Sequence[str]:
        return [sys.executable, "-c", code, str(socket), str(pid_file)]

    async def scenario() -> None:
        engine = EngineProcess(command, setup(tmp_path))
        await engine.start()
        await asyncio.wait_for(engine.ended(), 30)
        await until(lambda: not is_running(int(pid_file.read_text())))

    asyncio.run(scenario())
