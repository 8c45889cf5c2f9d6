"""The worker's pulse, as a container's health check takes it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.worker.pulse import keep_pulse

HEALTH = Path(__file__).parents[2] / "docker" / "health.py"


def _check(file: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, HEALTH, file, str(limit_s)], capture_output=True, text=True, check=False)


def _keep_for(seconds: float, file: Path, is_well: Callable[[], bool]) -> None:
    async def kept() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(keep_pulse(file, is_well, period_s=0.01), seconds)

    asyncio.run(kept())


def test_a_well_worker_touches_the_file_again_and_again(tmp_path: Path) -> None:
    """Once made, its time goes on, and the health check is content."""
    file = tmp_path / "pulse"
    file.touch()
    os.utime(file, (1, 1))
    _keep_for(0.1, file, lambda: True)
    assert time.time() - file.stat().st_mtime < 30
    os.utime(file, (1, 1))
    _keep_for(0.1, file, lambda: True)
    assert _check(file, 30).returncode == 0


def test_a_worker_that_is_not_well_has_no_pulse(tmp_path: Path) -> None:
    """Neither a first one, nor one after that."""
    file = tmp_path / "pulse"
    _keep_for(0.1, file, lambda: False)
    assert not file.exists()
    absent = _check(file, 30)
    assert absent.returncode == 1
    assert "No such file" in absent.stderr
    file.touch()
    os.utime(file, (time.time() - 100,) * 2)
    _keep_for(0.1, file, lambda: False)
    stale = _check(file, 30)
    assert stale.returncode == 1
    assert "last touched 10" in stale.stderr


def test_a_file_that_cannot_be_touched_ends_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and tried on."""
    folder = tmp_path / "missing"
    with caplog.at_level(logging.WARNING):
        _keep_for(0.2, folder / "pulse", lambda: True)
    assert [record.action for record in caplog.records] == ["pulse_failed"]
