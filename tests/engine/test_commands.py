"""What starts engines and workers, in a folder that holds somebody else's `service`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.cli.worker_processes import WorkerProcesses
from service.worker.warm_engine import engine_command


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with packages of our names that are not ours."""
    for name in ("service", "tleg_core"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    return tmp_path


def run_in(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, and wait for its end."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_engine_is_ours_wherever_the_worker_was_started(elsewhere: Path, nproc: int) -> None:
    """Its help, which comes before torch is loaded, is ours; torchrun's processes are told so, too."""
    ended = run_in(elsewhere, (*engine_command(elsewhere / "socket", nproc), "--help"))
    assert ended.returncode == 0, ended.stderr
    assert "the unix socket of the supervisor" in ended.stdout


def test_a_worker_is_ours_wherever_the_server_was_started(elsewhere: Path) -> None:
    """It shows the help of ours."""
    command = WorkerProcesses(1, ["--help"], drain_timeout_s=1.0)._command
    ended = run_in(elsewhere, command)
    assert ended.returncode == 0, ended.stderr
    assert "Run a worker" in ended.stdout
