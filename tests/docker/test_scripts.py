"""The scripts that are run by hand or in every container: .env, the user, the health check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import which

import pytest

from tests.docker import compose_file
from tests.docker.dockerfile import ROOT

_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"  # where an image's build finds its programs, root's among them


def _make_env(file: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(ROOT / "docker/make-env.sh"), str(file)]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"} | env, capture_output=True, text=True, check=False)


def _read(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if not line.startswith("#"))


def test_a_machine_gets_a_password_of_its_own(tmp_path: Path) -> None:
    """Random, for its owner's eyes alone, and enough for the compose file."""
    files = [tmp_path / "a.env", tmp_path / "b.env"]
    for file in files:
        assert _make_env(file).returncode == 0
        assert file.stat().st_mode & 0o777 == 0o600
        assert re.fullmatch(r"[0-9a-f]{64}", _read(file)["TLEG_REDIS_PASSWORD"])
        compose_file.resolve(compose_file.load(), _read(file))
    assert _read(files[0]) != _read(files[1])


@pytest.mark.parametrize(
    ("nvidia_smi", "profile"),
    [(None, "cpu"), ("echo 'GPU 0: NVIDIA H100'", "gpu"), ("echo 'No devices found'", "cpu"), ("exit 9", "cpu")],
)
def test_the_profile_is_what_the_machine_has(tmp_path: Path, nvidia_smi: str | None, profile: str) -> None:
    """A GPU that NVIDIA's driver lists; a driver without one is none."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("od", "tr", "cat", "grep", "sh"):
        (programs / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    if nvidia_smi is not None:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (programs / "nvidia-smi").chmod(0o755)
    assert _make_env(tmp_path / ".env", PATH=str(programs)).returncode == 0
    assert _read(tmp_path / ".env")["COMPOSE_PROFILES"] == profile
    assert [profile] in [service.get("profiles") for service in compose_file.load().values()]


def test_an_env_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Its password is the one that Redis was started with."""
    file = tmp_path / ".env"
    file.write_text("TLEG_REDIS_PASSWORD=old\n")
    assert _make_env(file).returncode == 1
    assert file.read_text() == "TLEG_REDIS_PASSWORD=old\n"


@pytest.mark.skipif(os.getuid() != 0 or not which("groupadd", path=_SBIN), reason="needs root, and groupadd")
def test_the_user_owns_the_folders_that_become_volumes(tmp_path: Path) -> None:
    """By its number, with a name for it, no password and no shell."""
    (tmp_path / "etc").mkdir()
    subprocess.run(["sh", ROOT / "docker/make-user.sh", tmp_path], check=True, capture_output=True, env={"PATH": _SBIN})
    name, password, *rest = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert (name, rest) == ("tleg", ["10001", "10001", "", "/var/cache/tleg", "/usr/sbin/nologin"])
    assert password in ("x", "!")  # in a shadow file, where there is one; else none
    for folder in ("data", "var/cache/tleg"):
        status = (tmp_path / folder).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (10001, 10001, 0o750)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers with the status that it is asked for."""
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1), (404, 1)])
def test_the_health_check_asks_for_a_200(address: str, status: int, code: int) -> None:
    """Past any proxy that the environment names; otherwise it says what came."""
    env = os.environ | {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    command = [sys.executable, ROOT / "docker/health.py", f"{address}/{status}"]
    answer = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert answer.returncode == code
    assert (str(status) in answer.stderr) == bool(code)
