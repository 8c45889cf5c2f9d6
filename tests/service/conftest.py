"""Fixtures of the service's tests: tiny learngenes, a real embedded Redis, the application in this process and as a server.

State is shared within a run on purpose, as it is on a server; a test that needs an empty store asks for `empty_api`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import redis
from starlette.testclient import TestClient

from service.api.app import create_app
from service.cli.main import run
from service.settings import Settings
from service.storage.embedded_redis import EmbeddedRedis
from tests.service import tiny
from tests.service.commands import Outcome, Tleg
from tests.service.server import ServerProcess

ApiFactory = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture(scope="session")
def learngene_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of three tiny learngenes, one of each method."""
    return tiny.write_small_learngenes(tmp_path_factory.mktemp("learngenes"))


@pytest.fixture(scope="session")
def large_learngene_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a learngene whose descendants are large."""
    return tiny.write_large_learngene(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Redis, embedded as `tleg serve` does it."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as embedded:
        yield embedded.url


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the application in this process: its object store lies there."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def open_api(learngene_files: list[Path], data_dir: Path) -> ApiFactory:
    """A way to open the application in this process, as a context manager, with a Redis and changed settings."""

    @contextmanager
    def opened(url: str, **settings: object) -> Iterator[TestClient]:
        given: dict[str, object] = {"redis_url": url, "shipped": False, "learngenes": tuple(learngene_files)}
        given |= {"data_dir": data_dir}
        with TestClient(create_app(Settings.model_validate(given | settings)), base_url="http://tleg.test") as client:
            yield client

    return opened


@pytest.fixture(scope="session")
def api(open_api: ApiFactory, redis_url: str) -> Iterator[TestClient]:
    """The application in this process, with the tiny learngenes."""
    with open_api(redis_url) as client:
        yield client


@pytest.fixture
def empty_api(open_api: ApiFactory, redis_url: str) -> Iterator[TestClient]:
    """The application on a database of its own that holds nothing."""
    url = f"{redis_url}?db=1"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    with open_api(url) as api:
        yield api


@pytest.fixture(scope="session")
def server(
    learngene_files: list[Path], large_learngene_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`tleg serve` as a process, with the tiny learngenes and the large one."""
    data_dir = tmp_path_factory.mktemp("server") / "data"
    with ServerProcess(data_dir, [*learngene_files, large_learngene_file]) as process:
        yield process
        assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="session")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def tleg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tleg:
    """Run `tleg` with arguments, in this process but through its entry point."""
    monkeypatch.setenv("COLUMNS", "80")
    before = signal.getsignal(signal.SIGTERM)  # `tleg serve` takes the signal

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tleg", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            run()
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return Outcome(int(code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def online(tleg: Tleg, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Tleg:
    """The same, with the server's address in TLEG_URL."""
    monkeypatch.setenv("TLEG_URL", server.url)
    return tleg
