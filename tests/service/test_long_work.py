"""Requests that look at thousands of members leave the event loop to others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.long_work import SMALL, LongWork
from service.domain.catalogue import Catalogue
from service.settings import Settings
from tests.service import tiny
from tleg_core.budget import Candidate
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation

_PATIENCE_S = 20  # until a test that would wait for ever gives up


class HeldFamily(Family):
    """A family whose costs are not done before they are let go."""

    def __init__(self) -> None:
        depth = SMALL // 2 + 1  # neither the members alone nor their accuracies are too many
        accuracy = tiny.measured("shapes", dict.fromkeys(range(1, depth + 1), 0.5))
        super().__init__(tiny.learngene("many-tleg", max_depth=depth, accuracy=accuracy))
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def _candidates(self, variation: Variation) -> tuple[Candidate, ...]:
        self.begun.set()
        assert self.let_go.wait(_PATIENCE_S)
        return super()._candidates(variation)


@pytest.fixture
def held() -> HeldFamily:
    """One that is not small."""
    return HeldFamily()


@pytest.fixture
def api(held: HeldFamily, redis_url: str, data_dir: Path) -> Iterator[TestClient]:
    """The application with that family alone."""
    settings = Settings(redis_url=f"{redis_url}?db=3", shipped=False, data_dir=data_dir)
    with TestClient(create_app(settings, Catalogue([held])), base_url="http://tleg.test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models?dry_run=true"),
        ("GET", "/frontier"),
        ("GET", "/learngenes"),
        ("GET", "/learngenes/many-tleg"),
        ("GET", "/"),
    ],
)
def test_others_are_answered_while_many_members_are_costed(api: TestClient, held: HeldFamily, method: str, path: str) -> None:
    """A request that needs no costs is answered before those of another are done; that one is answered, too."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(api.request, method, path, json={} if method == "POST" else None)
        try:
            assert held.begun.wait(_PATIENCE_S)
            assert api.get("/livez").status_code == 200
            assert not held.let_go.is_set()
            assert not answer.done()
        finally:
            held.let_go.set()
        assert answer.result().status_code == 200


def test_what_was_answered_before_waits_for_nobody(api: TestClient, held: HeldFamily) -> None:
    """The same request again does not stand in line behind a new one."""
    held.let_go.set()
    first = api.post("/models?dry_run=true", json={}).json()
    held.begun.clear()
    held.let_go.clear()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(api.post, "/models?dry_run=true", json={"num_classes": 7})
        try:
            assert held.begun.wait(_PATIENCE_S)
            assert api.post("/models?dry_run=true", json={}).json() == first
            assert not answer.done()
        finally:
            held.let_go.set()
        assert answer.result().json()["recipe"]["num_classes"] == 7


def test_long_work_is_done_one_at_a_time() -> None:
    """Several at once take turns, in the order in which they came, off the loop's thread; what one raises ends no other's."""
    running, threads, order = 0, set(), []

    def work(number: int) -> int:
        nonlocal running
        running += 1
        assert running == 1
        threads.add(threading.get_ident())
        order.append(number)
        time.sleep(0.005)  # another one would begin meanwhile
        running -= 1
        if number == 2:
            raise ConfigError("number", "is 2")
        return number

    async def everything() -> list[int | BaseException]:
        long_work = LongWork()
        several = [long_work.do(lambda number=number: work(number), size=SMALL + 1) for number in range(5)]
        return await asyncio.gather(*several, return_exceptions=True)

    results = asyncio.run(everything())
    assert [result for result in results if isinstance(result, int)] == [0, 1, 3, 4]
    assert isinstance(results[2], ConfigError)
    assert order == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads


def test_little_is_looked_at_at_once() -> None:
    """No thread is asked where it would take longer than the work."""
    assert asyncio.run(LongWork().do(threading.get_ident, size=SMALL)) == threading.get_ident()
