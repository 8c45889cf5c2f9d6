"""The workers that `tleg serve` runs: beside the API, kept, never the reason for its end. Their engines find no torch here."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import children_with, is_running
from tests.service.server import ENDED_BY_SIGTERM, ServerProcess, environment
from tests.service.tiny import write_small_learngenes


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path for Python on which torch cannot be imported."""
    folder = tmp_path_factory.mktemp("without-torch")
    (folder / "torch.py").write_text("raise ModuleNotFoundError('no torch here', name='torch')")
    return str(folder)


@pytest.fixture
def server(tmp_path: Path, without_torch: str) -> Iterator[ServerProcess]:
    """A server with one worker."""
    learngenes = write_small_learngenes(tmp_path)
    with ServerProcess(tmp_path / "data", learngenes, TLEG_WORKERS="1", PYTHONPATH=without_torch) as process:
        yield process


def worker_of(server: ServerProcess) -> int | None:
    """Return the id of the server's worker."""
    return next((child.pid for child in children_with("worker", server.pid)), None)


def until(holds: Callable[[], bool]) -> None:
    """Wait until that holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_that_cannot_work_leaves_the_api_alone(server: ServerProcess) -> None:
    """The server answers, says in its log what is wrong, and ends in order."""
    until(lambda: "engine_start_failed" in server.log.read_text())
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    log = server.log.read_text()
    assert "a worker needs torch" in log
    assert "Traceback" not in log
    assert server.stop() == ENDED_BY_SIGTERM
    assert "worker_ended" in server.log.read_text()
    assert "worker_killed" not in server.log.read_text()


def test_a_worker_that_is_killed_is_started_again(server: ServerProcess) -> None:
    """The API answers in between."""
    until(lambda: worker_of(server) is not None)
    first = worker_of(server)
    assert first is not None
    psutil.Process(first).kill()
    until(lambda: worker_of(server) not in (first, None))
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_a_worker_ends_with_its_server(server: ServerProcess) -> None:
    """SIGKILL of the server ends the worker, though nobody tells it to."""
    until(lambda: "tleg worker " in server.log.read_text())
    worker = worker_of(server)
    assert worker is not None
    server.stop(signal_number=signal.SIGKILL)
    until(lambda: not is_running(worker))
    server.start()


def test_a_worker_without_a_redis_says_what_to_do(tmp_path: Path) -> None:
    """It names the setting and the command, and ends with 1."""
    command = [sys.executable, "-m", "service.cli", "worker", "--data-dir", str(tmp_path)]
    answer = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), timeout=60)
    assert answer.returncode == 1
    assert "TLEG_REDIS_URL" in answer.stderr
    assert "tleg serve" in answer.stderr
    assert "Traceback" not in answer.stderr
