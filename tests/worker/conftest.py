"""Fixtures of the worker's tests: a real Redis with a model and a data set in it, and workers whose engine fakes training."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service.domain.catalogue import Catalogue
from service.domain.dataset import Dataset
from service.domain.job import FineTuneSpec, Job, JobEvent
from service.domain.model import Model
from service.settings import Settings
from service.storage.dataset_store import DatasetStore
from service.storage.embedded_redis import EmbeddedRedis
from service.storage.job_store import JobStore
from service.storage.learngene_registry import load_catalogue
from service.storage.model_store import ModelStore
from service.worker.protocol import Setup
from service.worker.supervisor import Supervisor
from service.worker.warm_engine import WarmEngine
from tests.service import tiny
from tests.worker.fake_engine import Conduct
from tleg_core.family import Variation

HEARTBEAT_S = 1.5
DATASET_ID = "ds-" + 32 * "a"
_NUMBERS = itertools.count(1)


async def until(holds: Callable[[], bool], *, within_s: float = 30) -> None:
    """Wait until that holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


@dataclass
class Bench:
    """A store with a model and a data set, and ways to make jobs and workers on it."""

    settings: Settings
    redis: Redis
    jobs: JobStore
    models: ModelStore
    catalogue: Catalogue
    model: Model
    work_dir: Path

    async def job(self, conduct: Conduct = Conduct.TRAINS, *, epochs: int = 2, nproc: int = 1) -> Job:
        """Queue a job that the engine treats so."""
        settings = {"seed": int(conduct), "epochs": epochs, "nproc": nproc}
        spec = FineTuneSpec(model=self.model.id, dataset=DATASET_ID, settings=settings, requested={})
        job, _ = await self.jobs.create(spec)
        return job

    @asynccontextmanager
    async def worker(self, *, command: Callable[..., Any] | None = None, **changes: object) -> AsyncIterator[Supervisor]:
        """Run a worker; it is drained at the end."""
        settings = self.settings.model_copy(update=changes)
        work_dir = self.work_dir / f"w{next(_NUMBERS)}"
        work_dir.mkdir()
        setup = Setup(
            learngenes=[],
            store_url=settings.object_store_url,
            device="cpu",
            heartbeat_s=settings.heartbeat_s,
            work_dir=str(work_dir),
        )
        engine = WarmEngine(setup, command or fake_engine)
        supervisor = Supervisor(settings, name=work_dir.name, catalogue=self.catalogue, engine=engine)
        running = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            supervisor.drain()
            await running

    async def until(self, job_id: str, holds: Callable[[Job], bool], *, within_s: float = 40) -> Job:
        """Wait until that holds of a job."""
        deadline = time.monotonic() + within_s
        while not holds(job := await self.jobs.get(job_id)):
            assert time.monotonic() < deadline, job
            await asyncio.sleep(0.02)
        return job

    async def ended(self, job_id: str) -> Job:
        """Wait for a job's end."""
        return await self.until(job_id, lambda job: job.status.is_terminal)

    async def events(self, job_id: str, kind: str) -> list[JobEvent]:
        """Return a job's events of a kind."""
        return [event for event in await self.jobs.events(job_id, after=0, limit=10_000) if event.kind == kind]


def fake_engine(socket: Path, nproc: int) -> list[str]:
    """Return the command line of the engine that trains nothing."""
    assert nproc == 1
    return [sys.executable, "-m", "tests.worker.fake_engine", str(socket)]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Tiny learngenes."""
    return load_catalogue(tiny.write_small_learngenes(tmp_path_factory.mktemp("learngenes")), shipped=False)


@pytest.fixture
def on_bench(
    redis_server: EmbeddedRedis, catalogue: Catalogue, tmp_path: Path
) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """A way to run a coroutine function on a bench of its own: an empty database and object store."""

    async def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
        url = f"{redis_server.url}?db=1"
        async with Redis.from_url(url, decode_responses=True) as redis:
            await redis.flushdb()
            settings = Settings(
                data_dir=tmp_path, redis_url=url, heartbeat_s=HEARTBEAT_S, checkpoint_s=0, drain_timeout_s=5, shipped=False
            )
            models = ModelStore(redis)
            family = catalogue.family("tiny-tleg")
            model = Model.of(family, family.recipe(family.members[1], Variation()))
            await models.add(model)
            await DatasetStore(redis).add(_dataset())
            jobs = JobStore(redis, heartbeat_s=HEARTBEAT_S, max_deaths=settings.max_deaths)
            bench = Bench(settings, redis, jobs, models, catalogue, model, tmp_path)
            await asyncio.wait_for(scenario(bench), 60)

    return lambda scenario: asyncio.run(run(scenario))


def _dataset() -> Dataset:
    return Dataset(
        id=DATASET_ID,
        name="shapes",
        class_names=("circle", "square"),
        train_counts=(50, 50),
        test_counts=(10, 10),
        size_bytes=1000,
        min_side=8,
        max_side=8,
        formats={"PNG": 120},
        refused={},
        refused_examples=(),
        object_key="datasets/none.arrow",
    )
