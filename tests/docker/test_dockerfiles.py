"""The Dockerfiles: their form, their sources, and what a container of them may do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.docker.dockerfile import API, ROOT, WORKER, Dockerfile

BOTH = pytest.mark.parametrize("path", [API, WORKER], ids=["api", "worker"])


def _hadolint(path: Path) -> str:
    answer = subprocess.run([Path(sys.executable).parent / "hadolint", path], capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr


def _gets_into_the_context(path: str) -> bool:
    """Whether .dockerignore lets a file through; of its forms those that are used."""
    excluded = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        parts = [path, *(str(folder) for folder in Path(path).parents if str(folder) != ".")]
        if not line or line.startswith("#"):
            continue
        if pattern.startswith("**/"):
            matches = any(fnmatch(name, pattern[3:]) for name in Path(path).parts)
        else:
            matches = any(fnmatch(part, pattern) and pattern.count("/") == part.count("/") for part in parts)
        if matches:
            excluded = not line.startswith("!")
    return not excluded


@BOTH
def test_the_linter_has_nothing_against_it(path: Path) -> None:
    """Hadolint, with the shell code in RUN."""
    assert not _hadolint(path)


def test_the_linter_would_find_something(tmp_path: Path) -> None:
    """So that the test above says something."""
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python:latest\nRUN cd /tmp && apt-get install g++\n")
    assert {"DL3007", "DL3003", "DL3008"} <= set(re.findall(r"DL\d+", _hadolint(careless)))


@BOTH
def test_every_source_is_there_and_gets_into_the_context(path: Path) -> None:
    """What is copied or mounted exists, and .dockerignore lets it through."""
    sources = []
    for instruction in Dockerfile(path).instructions:
        if instruction.name == "COPY" and instruction.flag("from") is None:
            sources += instruction.value.split()[:-1]
        if (mount := instruction.flag("mount")) and "source=" in mount:
            sources.append(dict(part.split("=", 1) for part in mount.split(","))["source"])
    assert len(sources) > 8
    for source in sources:
        assert (ROOT / source).exists(), source
        files = list((ROOT / source).rglob("*.py")) or [ROOT / source]
        assert all(_gets_into_the_context(str(file.relative_to(ROOT))) for file in files), source


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.example",
        ".git/config",
        ".venv/pyvenv.cfg",
        "data/redis/x",
        "tests/__init__.py",
        "service/__pycache__/x.pyc",
    ],
)
def test_nothing_else_gets_into_the_context(path: str) -> None:
    """No password, no history, no data."""
    assert not _gets_into_the_context(path)


@BOTH
def test_every_step_is_a_script(path: Path) -> None:
    """Nothing is done that the tests could not do too; and each script is sound shell code that stops at the first failure."""
    for instruction in Dockerfile(path).instructions:
        if instruction.name != "RUN":
            continue
        shell, script, *_ = shlex.split(instruction.value)
        assert shell == "sh"
        text = (ROOT / "docker" / Path(script).name).read_text()
        assert text.startswith("#!/bin/sh\n")
        assert "\nset -eu\n" in text
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


@BOTH
def test_a_container_is_not_root_and_tells_how_it_is(path: Path) -> None:
    """A fixed number, so that volumes keep one owner; SIGTERM; and a health check that is run often enough."""
    dockerfile = Dockerfile(path)
    assert dockerfile.user() == "10001:10001"
    assert "id=10001\n" in (ROOT / "docker/make-user.sh").read_text()
    assert dockerfile.last("STOPSIGNAL").value == "SIGTERM"
    assert dockerfile.health_check()
    assert {"interval", "timeout", "start-period", "retries"} == set(dockerfile.health_flags())
    names = [instruction.name for instruction in dockerfile.stages[-1]]
    assert "RUN" not in names[names.index("USER") :]


@BOTH
def test_the_base_is_the_python_that_the_locks_are_for(path: Path) -> None:
    """Named by version and distribution, the same in every stage; `make lock` resolves for no later one."""
    bases = {instruction.value.split()[0] for instruction in Dockerfile(path).instructions if instruction.name == "FROM"}
    assert bases == {"python:3.11-slim-bookworm"}
    assert "--python-version 3.11 " in (ROOT / "Makefile").read_text()


@BOTH
def test_no_secret_is_in_it(path: Path) -> None:
    """None is set, and none is asked for while it is built."""
    for instruction in Dockerfile(path).instructions:
        assert instruction.name != "ARG"
        if instruction.name == "ENV":
            assert not re.search(r"(?i)password|secret|token|_key", instruction.value)


def test_only_the_api_has_a_port() -> None:
    """The one that its settings name."""
    api, worker = Dockerfile(API), Dockerfile(WORKER)
    assert api.last("EXPOSE").value == api.env()["TLEG_PORT"]
    assert "EXPOSE" not in [instruction.name for instruction in worker.instructions]


def test_the_worker_sees_the_gpu() -> None:
    """NVIDIA's container toolkit gives a container what these ask for."""
    env = Dockerfile(WORKER).env()
    assert env["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(env["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
