"""What these tests share: a folder that every user may enter, and the Redis of the compose file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from service.storage.embedded_redis import find_server
from tests.docker import compose_file

PASSWORD = "a\"b\\c $x `y` 'q' #%é"  # noqa: S105 (a test's)


@dataclass(frozen=True)
class ComposeRedis:
    """The Redis of docker-compose.yml, as a process on this machine."""

    port: int
    password: str
    process: subprocess.Popen[bytes]
    environment: dict[str, str]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="tleg-docker-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def compose_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeRedis]:
    """The compose file's command for Redis, with a password that would break a careless one, on another port and folder."""
    folder = tmp_path_factory.mktemp("redis")
    (folder / "bin").mkdir()
    (folder / "bin" / "redis-server").symlink_to(find_server())
    (folder / "data").mkdir()
    service = compose_file.resolve(compose_file.load(), {"TLEG_REDIS_PASSWORD": PASSWORD})["redis"]
    port = free_port()
    command = [
        part.replace("/data", str(folder / "data")).replace("redis-server -", f"redis-server - --port {port} --bind 127.0.0.1")
        for part in service["command"]
    ]
    environment = compose_file.environment(service, {}) | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, password=PASSWORD)
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert process.poll() is None, "Redis ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield ComposeRedis(port=port, password=PASSWORD, process=process, environment=environment)
    client.close()
    process.terminate()
    process.wait(timeout=20)
