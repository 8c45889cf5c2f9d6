"""The lanes of the queue: exports before trainings, a worker for exports alone, and one message in work whatever waits."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable

import pytest

from service.domain.job import Job, JobStatus, Lane
from service.storage import keys
from service.worker.queue import Queue
from tests.service.jobs import queue_as_before
from tests.worker.conftest import HEARTBEAT_S, Bench
from tests.worker.fake_engine import Conduct
from tests.worker.test_exports import queued

OnBench = Callable[[Callable[[Bench], Awaitable[None]]], None]

_LONGER_THAN_A_LOOK_S = 0.4  # a worker looks into its queue ten times a second


async def in_lane(bench: Bench, lane: Lane) -> int:
    """Return how many messages wait in a lane."""
    return await bench.redis.llen(keys.queue_list(lane))


async def nothing_is_left(bench: Bench) -> bool:
    """Whether no lane has a message, in work or not."""
    return not any([await bench.redis.hlen(keys.queue_messages(lane)) for lane in Lane])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until that holds."""
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)


def test_a_worker_that_is_free_takes_exports_before_trainings(on_bench: OnBench) -> None:
    """Whichever was queued first; all of them are done, and no message is left."""

    async def scenario(bench: Bench) -> None:
        jobs = [await bench.job(epochs=1), await bench.job(epochs=1), await queued(bench)]
        async with bench.worker():
            ended = [await bench.ended(job.id) for job in jobs]
            await until(lambda: nothing_is_left(bench))
        assert [job.status for job in ended] == 3 * [JobStatus.SUCCEEDED]
        begun = sorted(ended, key=lambda job: str(job.started_at))
        assert [job.id for job in begun] == [jobs[index].id for index in (2, 0, 1)]

    on_bench(scenario)


def test_an_export_waits_for_no_training_where_a_worker_takes_exports_alone(on_bench: OnBench) -> None:
    """That worker leaves trainings to others, and an export that an earlier version queued among them is done, too."""

    async def scenario(bench: Bench) -> None:
        training, export = await bench.job(), await queued(bench)
        await queue_as_before(bench.redis, export.id)
        async with bench.worker(only="exports"):
            assert (await bench.ended(export.id)).status is JobStatus.SUCCEEDED
            await asyncio.sleep(_LONGER_THAN_A_LOOK_S)
            left = await bench.jobs.get(training.id)
        assert (left.status, left.attempt) == (JobStatus.QUEUED, 0)

    on_bench(scenario)


def test_an_export_is_done_beside_a_training_that_holds_the_other_worker(on_bench: OnBench) -> None:
    """A worker that trains keeps none back."""

    async def scenario(bench: Bench) -> None:
        training = await bench.job(Conduct.TRAINS_SLOWLY, epochs=50)
        async with bench.worker():
            await bench.until(training.id, lambda job: job.status is JobStatus.RUNNING)
            export = await queued(bench)
            async with bench.worker(only="exports"):
                assert (await bench.ended(export.id)).status is JobStatus.SUCCEEDED
            assert (await bench.jobs.get(training.id)).status is JobStatus.RUNNING

    on_bench(scenario)


@pytest.mark.parametrize("version", ["this", "before"])
def test_what_is_in_work_keeps_the_other_lanes_for_other_workers(on_bench: OnBench, version: str) -> None:
    """Nothing is taken ahead, even before the job is claimed; each message is acknowledged in the lane that it came from."""

    async def scenario(bench: Bench) -> None:
        jobs: list[Job] = [await queued(bench), await bench.job()]
        if version == "before":
            await queue_as_before(bench.redis, jobs[0].id)
            jobs.reverse()
        taken: list[str] = []
        may_end = threading.Event()

        def handle(job_id: str) -> None:
            taken.append(job_id)
            may_end.wait()

        queue = Queue(
            bench.settings.redis_url or "", lanes=list(Lane), heartbeat_s=HEARTBEAT_S, is_open=lambda: True, handle=handle
        )
        queue.start()
        try:
            async with asyncio.timeout(20):
                while not taken:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(_LONGER_THAN_A_LOOK_S)
            assert taken == [jobs[0].id]
            assert await in_lane(bench, Lane.TRAININGS) == 1
            may_end.set()
            await until(lambda: nothing_is_left(bench))
            assert taken == [job.id for job in jobs]
        finally:
            may_end.set()
            await asyncio.to_thread(queue.stop, timeout_s=5)

    on_bench(scenario)


def test_a_job_is_given_back_to_its_lane(on_bench: OnBench) -> None:
    """For another worker, one for exports alone among them."""

    async def scenario(bench: Bench) -> None:
        jobs = [await queued(bench), await bench.job()]
        await bench.redis.delete(*[keys.queue_list(lane) for lane in Lane])
        queue = Queue(
            bench.settings.redis_url or "", lanes=list(Lane), heartbeat_s=HEARTBEAT_S, is_open=lambda: True, handle=print
        )
        for job in jobs:
            queue.give_back(job.id)
        queue.stop(timeout_s=1)
        for lane, job in zip(Lane, jobs, strict=True):
            (message,) = await bench.redis.lrange(keys.queue_list(lane), 0, -1)
            known = json.loads(str(await bench.redis.hget(keys.queue_messages(lane), message)))
            assert (known["args"], known["options"]) == ([job.id], {"redis_message_id": message})

    on_bench(scenario)
