"""The compose file's Redis, run by its own command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from tests.docker import compose_file
from tests.docker.conftest import ComposeRedis


def test_it_keeps_what_it_accepts(compose_redis: ComposeRedis) -> None:
    """Every write is on the disk before it is answered, in an append-only file; nothing is evicted."""
    with redis.Redis(port=compose_redis.port, password=compose_redis.password, decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory-policy": "noeviction", "maxmemory": "0"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_it_answers_nobody_without_the_password(compose_redis: ComposeRedis) -> None:
    """And the password does not stand on its command line, where every user of the host could read it."""
    with redis.Redis(port=compose_redis.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert compose_redis.password.encode() not in Path(f"/proc/{compose_redis.process.pid}/cmdline").read_bytes()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
def test_its_health_check_asks_it(compose_redis: ComposeRedis) -> None:
    """It succeeds with the password that the container has, and fails without, and where nothing listens."""
    kind, check = compose_file.resolve(compose_file.load()["redis"]["healthcheck"]["test"], {})
    assert kind == "CMD-SHELL"
    there = check.replace("redis-cli", f"redis-cli -p {compose_redis.port}")
    without = {name: value for name, value in compose_redis.environment.items() if name != "REDISCLI_AUTH"}
    assert subprocess.run(["sh", "-c", there], env=compose_redis.environment, check=False).returncode == 0
    assert subprocess.run(["sh", "-c", there], env=without, check=False).returncode != 0
    nowhere = check.replace("redis-cli", "redis-cli -p 1")
    assert subprocess.run(["sh", "-c", nowhere], env=compose_redis.environment, check=False).returncode != 0
