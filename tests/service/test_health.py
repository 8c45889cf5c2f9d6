"""Liveness, readiness, and what clients see while Redis is away."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from service.storage.embedded_redis import EmbeddedRedis
from tests.service.conftest import ApiFactory
from tests.service.server import ENDED_BY_SIGTERM, ServerProcess


def test_a_server_with_redis_is_alive_and_ready(api: TestClient) -> None:
    """livez and readyz answer 200; readyz counts the learngenes."""
    assert api.get("/livez").json() == {"status": "ok"}
    assert api.get("/readyz").json() == {"status": "ok", "learngenes": 3}


def test_without_redis_the_server_lives_but_is_not_ready_and_recovers(open_api: ApiFactory, tmp_path: Path) -> None:
    """What needs Redis is a 503 with Retry-After, the rest still answers, and all is well when Redis is back."""
    with EmbeddedRedis(tmp_path) as embedded, open_api(embedded.url) as api:
        model = api.post("/models", json={"budget": {"depth": 2}}).json()
        embedded.__exit__(None, None, None)
        for method, path in (
            ("GET", "/readyz"),
            ("POST", "/models"),
            ("GET", "/models"),
            ("GET", model["links"]["self"]),
            ("GET", model["links"]["weights"]),
            ("HEAD", model["links"]["weights"]),
            ("GET", model["links"]["config"]),
            ("GET", f"/api/models/tleg/{model['id']}"),
        ):
            answer = api.request(method, path, json={} if method == "POST" else None)
            assert answer.status_code == 503, path
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1
            if method != "HEAD":
                assert answer.json()["code"] == "store_unavailable"
                assert str(tmp_path) not in answer.text
        batch = api.post("/models/batch", json={"requests": [{}]})
        assert batch.status_code == 200
        assert batch.json()["data"][0]["status"] == 503
        for path in ("/livez", "/learngenes", "/frontier", "/", "/docs", "/learngenes/tiny-tleg/weights"):
            assert api.get(path).status_code == 200, path
        assert api.post("/models", params={"dry_run": True}, json={}).status_code == 200
        with EmbeddedRedis(tmp_path):
            assert api.get("/readyz").status_code == 200
            again = api.post("/models", json={"budget": {"depth": 2}})
            assert again.status_code == 200  # the record was kept, too
            assert again.json() == model


def test_a_redis_that_is_not_there_is_found_out_quickly(open_api: ApiFactory, tmp_path: Path) -> None:
    """A refused connection is answered within a second or two, not after retries for minutes."""
    with open_api(f"unix://{tmp_path}/nobody.sock") as api:
        started = time.monotonic()
        assert api.get("/readyz").status_code == 503
        assert time.monotonic() - started < 5  # generous: the machine is shared


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_finishes_its_downloads(
    learngene_files: list[Path], large_learngene_file: Path, tmp_path: Path
) -> None:
    """SIGTERM during a download: new connections are refused or told 503, and the download ends whole."""
    server = ServerProcess(tmp_path / "data", [*learngene_files, large_learngene_file]).start()
    model = httpx.post(f"{server.url}/models", json={"learngene": "large-tleg", "budget": {"depth": 20}}).json()
    with (
        httpx.Client(timeout=30) as kept_alive,
        httpx.stream("GET", f"{server.url}{model['links']['weights']}", timeout=30) as answer,
    ):
        assert kept_alive.get(f"{server.url}/readyz").status_code == 200
        chunks = answer.iter_raw(65536)
        size = len(next(chunks))
        assert server.process is not None
        server.process.terminate()
        time.sleep(0.3)
        with contextlib.suppress(httpx.TransportError):  # it may listen no more
            assert kept_alive.get(f"{server.url}/readyz").status_code == 503
        assert server.process.poll() is None
        for chunk in chunks:
            size += len(chunk)
    assert size == model["size_bytes"]
    assert server.process.wait(30) == ENDED_BY_SIGTERM
    assert "Traceback" not in server.log.read_text()
