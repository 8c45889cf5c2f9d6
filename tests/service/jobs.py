"""Jobs for tests: a store on a real Redis with what tests ask of it, and everything that a worker writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis.asyncio import Redis

from service.domain.export import ExportFormat
from service.domain.job import ExportSpec, FineTuneSpec, Job, JobCheckpoint, JobError, JobStatus, Lane, Progress
from service.storage import keys
from service.storage.job_reader import IdempotencyKey
from service.storage.job_store import Claim, JobStore

ResultT = TypeVar("ResultT")

DATASET = "ds-" + "0" * 32
SPEC = FineTuneSpec(model="m-" + "1" * 32, dataset=DATASET, settings={"epochs": 3}, requested={"epochs": 3})
EXPORT = ExportSpec(model=SPEC.model, format=ExportFormat.ONNX)
KEY = IdempotencyKey(digest="a" * 64, request="b" * 64)
START = Progress(steps=10, metrics={})


class Store(JobStore):
    """A store, its client, and a worker's silence made short."""

    def __init__(self, client: Redis, *, heartbeat_s: float = 60, max_deaths: int = 3) -> None:
        super().__init__(client, heartbeat_s=heartbeat_s, max_deaths=max_deaths)
        self.redis: Any = client

    async def created(self, spec: FineTuneSpec = SPEC) -> Job:
        """Return a new job."""
        return (await self.create(spec))[0]

    async def claimed(self, worker: str = "w1", job: Job | None = None) -> Claim:
        """Return a claim, of a new job without one."""
        claim = await self.claim((job or await self.created()).id, worker)
        assert claim is not None
        return claim

    async def silence(self, claim: Claim) -> None:
        """Let the lease of a claim lapse."""
        await self.redis.hset(keys.job(claim.job.id), "lease", "1")

    async def status(self, job: Job | Claim) -> JobStatus:
        """Return where a job stands."""
        return (await self.get(job.id if isinstance(job, Job) else job.job.id)).status

    async def kinds(self, claim: Claim) -> list[str]:
        """Return the kinds of a job's events, statuses by name."""
        events = await self.events(claim.job.id, after=0, limit=1000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        return [event.facts["status"] if event.kind == "status" else event.kind for event in events]

    async def snapshot(self) -> dict[str, bytes]:
        """Return the content of the whole database."""
        return {key: await self._dump(key) for key in sorted([key async for key in self.redis.scan_iter()])}

    async def _dump(self, key: str) -> Any:
        match await self.redis.type(key):
            case "hash":
                return await self.redis.hgetall(key)
            case "zset":
                return await self.redis.zrange(key, 0, -1, withscores=True)
            case "list":
                return await self.redis.lrange(key, 0, -1)
            case "set":
                return await self.redis.smembers(key)
            case "stream":
                return await self.redis.xrange(key)
            case _:
                return await self.redis.get(key)


def run(url: str, use: Callable[[Store], Awaitable[ResultT]]) -> ResultT:
    """Open a store, use it, close it."""

    async def opened() -> ResultT:
        async with Redis.from_url(url, decode_responses=True) as client:
            return await use(Store(client))

    return asyncio.run(opened())


async def queue_as_before(client: Any, job_id: str) -> None:
    """Put a queued export where versions without lanes put it: into the one queue."""
    message = await client.hget(keys.job(job_id), "message")
    data = await client.hget(keys.queue_messages(Lane.EXPORTS), message)
    await client.lrem(keys.queue_list(Lane.EXPORTS), 1, message)
    await client.hdel(keys.queue_messages(Lane.EXPORTS), message)
    await client.hset(keys.queue_messages(Lane.TRAININGS), message, json.dumps(json.loads(data) | {"queue_name": "fine-tunes"}))
    await client.rpush(keys.queue_list(Lane.TRAININGS), message)


def checkpoint(epoch: int) -> JobCheckpoint:
    """Return a checkpoint."""
    now = datetime.now(UTC)
    return JobCheckpoint(model=f"m-{epoch:032}", epoch=epoch, step=epoch * 5, metrics={"top1": 0.5}, created_at=now)


WRITES: dict[str, Callable[[JobStore, Claim], Awaitable[object]]] = {
    "beat": lambda store, claim: store.beat(claim),
    "started": lambda store, claim: store.started(claim, {"epochs": 1}, START),
    "report": lambda store, claim: store.report(claim, replace(START, step=9), event=("epoch", {"epoch": 1})),
    "save_state": lambda store, claim: store.save_state(claim, "jobs/x", 9),
    "add_checkpoint": lambda store, claim: store.add_checkpoint(claim, checkpoint(9)),
    "succeed": lambda store, claim: store.succeed(claim, "m-x", START),
    "fail": lambda store, claim: store.fail(claim, JobError(code="x", message="y")),
    "release": lambda store, claim: store.release(claim, JobStatus.QUEUED),
    "died": lambda store, claim: store.died(claim, "signal 9"),
}
