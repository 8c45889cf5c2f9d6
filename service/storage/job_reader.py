"""Jobs in Redis as they are read: one, a page of them, their events and checkpoints. What changes them is `job_store`'s.

Listing looks at ids and a few fields in a script, and reads only the jobs that are shown.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.asyncio import Redis

from service.domain.errors import CursorUnknownError, IdempotencyKeyReusedError, JobNotFoundError, UnreadableRecordError
from service.domain.job import ExportSpec, Job, JobCheckpoint, JobEvent, JobKind, JobStatus, is_job_id, kind_of
from service.storage import keys
from service.storage.job_record import job_of, time_of
from service.storage.job_scripts import JobScripts
from service.storage.redis_failure import redis_failures

logger = logging.getLogger(__name__)

_SCANNED_AT_ONCE = 1000  # jobs that one script looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A client's Idempotency-Key and the request that came with it, as sha256 digests in hex."""

    digest: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some of the jobs, newest first, and whether more follow."""

    jobs: tuple[Job, ...]
    has_more: bool


class JobReader:
    """The jobs, read. Every method raises `StoreUnavailableError` where Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = JobScripts(redis)

    async def ping(self) -> None:
        """Return if Redis answers."""
        async with redis_failures():
            await self._redis.ping()

    async def find(self, key: IdempotencyKey) -> Job | None:
        """Return the job that a request with this key made before, if it did.

        Raises:
            IdempotencyKeyReusedError: The key came with another request before.
        """
        async with redis_failures():
            kept = await self._redis.get(keys.idempotency(key.digest))
        if kept is None:
            return None
        before = json.loads(kept)
        if before["request"] != key.request:
            raise IdempotencyKeyReusedError("the Idempotency-Key came with another request before; use a new one")
        return await self.get(before["job"])

    async def find_export(self, spec: ExportSpec) -> Job | None:
        """Return the job that last made or makes an export, if one ever did."""
        async with redis_failures():
            job_id = await self._redis.hget(keys.EXPORTS, spec.name)
        return None if job_id is None else await self.get(str(job_id))

    async def get(self, job_id: str) -> Job:
        """Return a job; raises `JobNotFoundError`."""
        if not is_job_id(job_id):
            raise JobNotFoundError(job_id, kind_of(job_id))
        async with redis_failures():
            fields: Any = await self._redis.hgetall(keys.job(job_id))
        if not fields:
            raise JobNotFoundError(job_id, kind_of(job_id))
        return job_of(fields)

    async def page(
        self,
        *,
        limit: int,
        after: str | None,
        status: JobStatus | None = None,
        model: str | None = None,
        dataset: str | None = None,
        kind: JobKind | None = None,
    ) -> JobPage:
        """Return up to `limit` jobs, newest first, that come after the job `after`; raises `CursorUnknownError`.

        With `kind`, only those of one kind, among which `after` must be.
        """
        listed = keys.JOBS if status is None else keys.jobs_of_status(status)
        async with redis_failures():
            before = "+inf"
            if after is not None:
                score = await self._redis.zscore(keys.JOBS, after)
                if score is None or not is_job_id(after, kind):
                    raise CursorUnknownError(after)
                before = f"{score:.0f}"
            ids: list[str] = []
            while before and len(ids) <= limit:
                args: list[str | int] = [
                    limit + 1 - len(ids),
                    before,
                    max(_SCANNED_AT_ONCE, limit + 1),
                    keys.job(""),
                    model or "",
                    dataset or "",
                    kind.prefix if kind else "",
                ]
                before, *found = await self._scripts.page(listed, args)
                ids += found
            async with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in ids[:limit]:
                    pipeline.hgetall(keys.job(job_id))
                rows = await pipeline.execute()
        jobs = []
        for job_id, row in zip(ids, rows, strict=False):
            try:
                jobs.append(job_of(row))
            except UnreadableRecordError as error:  # one damaged record must not hide the others
                logger.error(str(error), extra={"action": "record_skipped", "job": job_id})
        return JobPage(jobs=tuple(jobs), has_more=len(ids) > limit)

    async def events(self, job_id: str, *, after: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events with numbers above `after`, in order; raises `JobNotFoundError`."""
        if not is_job_id(job_id):
            raise JobNotFoundError(job_id, kind_of(job_id))
        async with redis_failures(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.exists(keys.job(job_id))
            pipeline.xrange(keys.job_events(job_id), min=f"{after + 1}-0", count=limit)
            known, rows = await pipeline.execute()
        if not known:
            raise JobNotFoundError(job_id, kind_of(job_id))
        return [
            JobEvent(seq=int(number.split("-")[0]), at=time_of(row["at"]), kind=row["kind"], facts=json.loads(row["facts"]))
            for number, row in rows
        ]

    async def checkpoints(self, job_id: str) -> list[JobCheckpoint]:
        """Return a job's checkpoints, oldest first; raises `JobNotFoundError`."""
        if not is_job_id(job_id):
            raise JobNotFoundError(job_id, kind_of(job_id))
        async with redis_failures(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.exists(keys.job(job_id))
            pipeline.lrange(keys.job_checkpoints(job_id), 0, -1)
            known, rows = await pipeline.execute()
        if not known:
            raise JobNotFoundError(job_id, kind_of(job_id))
        checkpoints = []
        for row in rows:
            fields = json.loads(row)
            checkpoints.append(JobCheckpoint(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])}))
        return checkpoints
