"""What an attempt says, on its way into a store that does not always answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from service.domain.errors import StoreUnavailableError
from service.domain.job import JobStatus, Progress
from service.storage.job_store import Claim, JobStore
from service.storage.object_store import ObjectStore, state_key
from service.worker.delivery import Delivery, Release
from service.worker.protocol import EpochDone, Saved
from tests.worker.conftest import HEARTBEAT_S, Bench, until

SHA256 = "0" * 64

OnBench = Callable[[Callable[[Bench], Awaitable[None]]], None]


class _LosingJobs(JobStore):
    """A store whose first answer to a state is lost after it was written, and that then does not answer for a while."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.redis, heartbeat_s=HEARTBEAT_S, max_deaths=3)
        self.is_away = False
        self.order: list[str] = []

    async def save_state(self, claim: Claim, key: str, step: int) -> str | None:
        self._answer()
        replaced = await super().save_state(claim, key, step)
        if not self.order:
            self.is_away = True
        self.order.append(key)
        self._answer()
        return replaced

    async def report(self, claim: Claim, progress: Progress, *, event: Any = None) -> None:
        self._answer()
        await super().report(claim, progress, event=event)
        self.order.append(event[0])

    def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailableError("away")


def test_a_state_that_redis_may_know_is_kept_until_a_later_one_is_recorded(on_bench: OnBench) -> None:
    """Were it deleted at once, a worker that died now would leave the job a state that is gone; an epoch is not overtaken."""

    async def scenario(bench: Bench) -> None:
        job_id = (await bench.job()).id
        claim = await bench.jobs.claim(job_id, "a worker")
        assert claim is not None
        objects, jobs = ObjectStore(bench.settings.object_store_url), _LosingJobs(bench)
        content = bench.work_dir / "content"
        content.write_text("a state")
        first, second = (state_key(job_id, 1, step, SHA256) for step in (10, 20))
        for key in (first, second):
            objects.put_file(key, content)
        delivery = Delivery(claim, jobs, objects)
        running = asyncio.create_task(delivery.run())
        delivery.put(Saved(job=job_id, step=10, key=first))
        while not jobs.is_away:
            await asyncio.sleep(0.01)
        delivery.put(EpochDone(job=job_id, epoch=2, step=20, metrics={"loss": 0.1}, weights=None))
        delivery.put(Saved(job=job_id, step=20, key=second))
        await asyncio.sleep(0.5)
        assert (await bench.jobs.get(job_id)).resume_key == first
        assert objects.exists(first)
        jobs.is_away = False
        delivery.put(Release(JobStatus.QUEUED))
        await running
        assert jobs.order == [first, "epoch", second]
        assert (await bench.jobs.get(job_id)).resume_key == second
        assert (objects.exists(first), objects.exists(second)) == (False, True)

    on_bench(scenario)


def test_a_long_run_keeps_no_trace_of_what_was_deleted(on_bench: OnBench) -> None:
    """A thousand states, each in the place of the one before, take no memory when they are gone."""

    async def scenario(bench: Bench) -> None:
        job_id = (await bench.job()).id
        claim = await bench.jobs.claim(job_id, "a worker")
        assert claim is not None
        delivery = Delivery(claim, bench.jobs, ObjectStore(bench.settings.object_store_url))
        running = asyncio.create_task(delivery.run())
        for step in range(1, 1001):
            delivery.put(Saved(job=job_id, step=step, key=state_key(job_id, 1, step, SHA256)))
            await asyncio.sleep(0.001)
        while (await bench.jobs.get(job_id)).resume_key != state_key(job_id, 1, 1000, SHA256):
            await asyncio.sleep(0.01)
        await until(lambda: len(delivery._cleaning) == 0)
        delivery.put(Release(JobStatus.QUEUED))
        await running

    on_bench(scenario)
