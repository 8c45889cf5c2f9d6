"""One ground for all chaos tests, and the digest of an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.ground import Ground


@pytest.fixture(scope="session")
def ground() -> Iterator[Ground]:
    """A server and its folder; each test has as many workers as it asks for."""
    with Ground.make() as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(ground: Ground) -> str:
    """The sha256 of the weights in which the job ends if nothing happens."""
    ground.have_workers(1)
    return ground.weights(ground.ended(ground.create()))
