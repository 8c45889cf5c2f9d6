"""Records outlive the server and its Redis, in order or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.processes import is_running
from tests.service.server import ENDED_BY_SIGTERM, ServerProcess


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in order", "server killed", "both killed"])
def test_models_survive_a_restart(how: str, learngene_files: list[Path], tmp_path: Path) -> None:
    """After any end of the server and its Redis the next one answers what the last one answered."""
    server = ServerProcess(tmp_path / "data", learngene_files).start()
    created = [
        httpx.post(f"{server.url}/models", json={"learngene": "tiny-tleg", "budget": {"depth": depth}}).json()
        for depth in range(1, 6)
    ]
    listed = httpx.get(f"{server.url}/models").json()
    redis_pid = server.redis_pid()
    match how:
        case "in order":
            assert server.stop() == ENDED_BY_SIGTERM
            assert not is_running(redis_pid)
        case "server killed":
            server.stop(signal_number=signal.SIGKILL)
            assert is_running(redis_pid)  # left behind; the next server stops it
        case "both killed":
            os.kill(redis_pid, signal.SIGKILL)
            server.stop(signal_number=signal.SIGKILL)
    with server:
        assert httpx.get(f"{server.url}/models").json() == listed
        for model in created:
            got = httpx.get(f"{server.url}/models/{model['id']}").json()
            assert got == {name: value for name, value in model.items() if name not in ("selected_by", "fine_tune")}
        again = httpx.post(f"{server.url}/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}})
        assert (again.status_code, again.json()["created_at"]) == (200, created[2]["created_at"])
        if how == "server killed":
            assert not is_running(redis_pid)


@pytest.mark.slow
@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, ENDED_BY_SIGTERM), (signal.SIGINT, 0)])
def test_a_server_ends_in_order_and_leaves_nothing_behind(
    signal_number: int, code: int, learngene_files: list[Path], tmp_path: Path
) -> None:
    """On SIGTERM and Ctrl-C the exit code is the usual one, Redis is gone, and the log has no traceback."""
    server = ServerProcess(tmp_path / "data", learngene_files).start()
    redis_pid = server.redis_pid()
    assert server.stop(signal_number=signal_number) == code
    assert not is_running(redis_pid)
    assert "Traceback" not in server.log.read_text()
