"""Jobs in Redis, for the API and the workers alike. Every change is one Lua script, so it happens whole or not at all.

Fields of a job's hash, times in microseconds since 1970 by Redis's clock:

    id, record (JSON: what was asked for), model, dataset, created_at      written once
    status, attempt, deaths, started_at, finished_at
    progress, settings_used, error (JSON each), result, resume_key
    seq                     number of the last event
    message, sent_at        the queued job's message
    worker, lease, token    of the attempt that holds the job; the token knows a claim that was sent twice
    pause_requested         there while a running job is to be paused
    top_step, saved_step, checkpoint_epoch     how far any attempt came: what is above is progress
    last_progress_at        of the latest `progress` event

A worker's write is refused with `FencedError` unless its attempt holds the job.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from service.domain.errors import (
    CursorUnknownError,
    DatasetNotFoundError,
    FencedError,
    IdempotencyKeyReusedError,
    JobNotFoundError,
    JobStateError,
    UnreadableRecordError,
)
from service.domain.job import (
    RECORD_VERSION,
    TRANSITIONS,
    Job,
    JobCheckpoint,
    JobError,
    JobEvent,
    JobSpec,
    JobStatus,
    Progress,
    is_job_id,
    new_job_id,
)
from service.storage import keys
from service.storage.job_message import JobMessage
from service.storage.redis_failure import redis_failures

logger = logging.getLogger(__name__)

IDEMPOTENCY_S = 24 * 3600
PROGRESS_EVENTS_AN_AGE = 2000
"""A `progress` event is kept if it is at least age / 2000 after the one before: each second at first, 13,000 in a week."""

_MAX_MESSAGE = 4000  # characters of an error's or a log event's message that are kept
_SCANNED_AT_ONCE = 1000  # jobs that one script looks at
_SILENT = "it was silent for longer than TLEG_HEARTBEAT_S"
_SCRIPTS = Path(__file__).parent / "scripts"
_TABLE: Final = json.dumps([[status, sorted(following)] for status, following in TRANSITIONS.items()])
_STATUS_KEYS: Final = tuple(keys.jobs_of_status(status) for status in TRANSITIONS)
_PAST: Final = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


class Demand(StrEnum):
    """What a job's owner wants of the worker that holds it."""

    GO_ON = "go_on"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A client's Idempotency-Key and the request that came with it, as sha256 digests in hex."""

    digest: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a job, until another attempt has it."""

    job: Job
    attempt: int
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some of the jobs, newest first, and whether more follow."""

    jobs: tuple[Job, ...]
    has_more: bool


class JobStore:
    """The jobs. Every method raises `StoreUnavailableError` where Redis does not answer.

    Args:
        redis: A client that decodes its responses.
        heartbeat_s: How long a worker may be silent before its job is taken from it.
        max_deaths: Times that a job's worker may die without progress in between before the job fails.
    """

    def __init__(self, redis: Redis, *, heartbeat_s: float, max_deaths: int) -> None:
        self._redis = redis
        self._lease_us = round(heartbeat_s * 1e6)
        self._max_deaths = max_deaths
        prelude = (_SCRIPTS / "job.lua").read_text()
        self._create, self._claim, self._command, self._write, self._end, self._sweep = (
            redis.register_script(prelude + (_SCRIPTS / f"{name}.lua").read_text())
            for name in ("create_job", "claim_job", "command_job", "write_job", "end_attempt", "sweep_job")
        )
        self._page = redis.register_script((_SCRIPTS / "page_jobs.lua").read_text())

    async def ping(self) -> None:
        """Return if Redis answers."""
        async with redis_failures():
            await self._redis.ping()

    # What users do.

    async def create(self, spec: JobSpec, *, key: IdempotencyKey | None = None) -> tuple[Job, bool]:
        """Record a job and queue it; return it, and whether it is new.

        Raises:
            DatasetNotFoundError: There is no such data set.
            IdempotencyKeyReusedError: The key came with another request before.
        """
        job_id = new_job_id()
        record = {
            "version": RECORD_VERSION,
            "model": spec.model,
            "dataset": spec.dataset,
            "settings": spec.settings,
            "requested": spec.requested,
        }
        more_keys = [keys.dataset(spec.dataset)] + ([keys.idempotency(key.digest)] if key else [])
        request = key.request if key else ""
        args: list[str | int] = [job_id, _json(record), spec.model, spec.dataset, request, IDEMPOTENCY_S]
        answer = await self._run(self._create, job_id, spec.dataset, args, more_keys=more_keys)
        match answer[0]:
            case "same":
                return await self.get(answer[1]), False
            case "reused":
                raise IdempotencyKeyReusedError("the Idempotency-Key came with another request before; use a new one")
            case "no_dataset":
                raise DatasetNotFoundError(spec.dataset)
        return _job(_pairs(answer[1])), True

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

    async def get(self, job_id: str) -> Job:
        """Return a job; raises `JobNotFoundError`."""
        if not is_job_id(job_id):
            raise JobNotFoundError(job_id)
        async with redis_failures():
            fields: Any = await self._redis.hgetall(keys.job(job_id))
        if not fields:
            raise JobNotFoundError(job_id)
        return _job(fields)

    async def page(
        self,
        *,
        limit: int,
        after: str | None,
        status: JobStatus | None = None,
        model: str | None = None,
        dataset: str | None = None,
    ) -> JobPage:
        """Return up to `limit` jobs, newest first, that come after the job `after`; raises `CursorUnknownError`."""
        listed = keys.JOBS if status is None else keys.jobs_of_status(status)
        async with redis_failures():
            before = "+inf"
            if after is not None:
                score = await self._redis.zscore(keys.JOBS, after)
                if score is None:
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
                ]
                before, *found = await self._page(keys=[listed], args=args)
                ids += found
            async with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in ids[:limit]:
                    pipeline.hgetall(keys.job(job_id))
                rows = await pipeline.execute()
        jobs = []
        for job_id, row in zip(ids, rows, strict=False):
            try:
                jobs.append(_job(row))
            except UnreadableRecordError as error:  # one damaged record must not hide the others
                logger.error(str(error), extra={"action": "record_skipped", "job": job_id})
        return JobPage(jobs=tuple(jobs), has_more=len(ids) > limit)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, or tell the worker that holds it to; raises `JobStateError` where it has ended otherwise."""
        return await self._order(job_id, "cancel")

    async def pause(self, job_id: str) -> Job:
        """Pause a job, or tell the worker that holds it to; raises `JobStateError` where it is ending or has ended."""
        return await self._order(job_id, "pause")

    async def resume(self, job_id: str) -> Job:
        """Queue a paused job again, or withdraw a pause; raises `JobStateError` where it is ending or has ended."""
        return await self._order(job_id, "resume")

    async def events(self, job_id: str, *, after: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` events with numbers above `after`, in order; raises `JobNotFoundError`."""
        if not is_job_id(job_id):
            raise JobNotFoundError(job_id)
        async with redis_failures(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.exists(keys.job(job_id))
            pipeline.xrange(keys.job_events(job_id), min=f"{after + 1}-0", count=limit)
            known, rows = await pipeline.execute()
        if not known:
            raise JobNotFoundError(job_id)
        return [
            JobEvent(seq=int(number.split("-")[0]), at=_time(row["at"]), kind=row["kind"], facts=json.loads(row["facts"]))
            for number, row in rows
        ]

    async def checkpoints(self, job_id: str) -> list[JobCheckpoint]:
        """Return a job's checkpoints, oldest first; raises `JobNotFoundError`."""
        if not is_job_id(job_id):
            raise JobNotFoundError(job_id)
        async with redis_failures(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.exists(keys.job(job_id))
            pipeline.lrange(keys.job_checkpoints(job_id), 0, -1)
            known, rows = await pipeline.execute()
        if not known:
            raise JobNotFoundError(job_id)
        checkpoints = []
        for row in rows:
            fields = json.loads(row)
            checkpoints.append(JobCheckpoint(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])}))
        return checkpoints

    # What workers do.

    async def claim(self, job_id: str, worker: str) -> Claim | None:
        """Take a job that is queued, or whose worker is silent for too long; None where it is not to be had."""
        try:
            job = await self.get(job_id)
        except JobNotFoundError:
            return None
        args: list[str | int] = [worker, secrets.token_hex(16), self._lease_us, self._max_deaths, _SILENT]
        answer = await self._run(self._claim, job_id, job.spec.dataset, args)
        if answer[0] == "none":
            return None
        job = _job(_pairs(answer[1]))
        return Claim(job=job, attempt=job.attempt, worker=worker)

    async def beat(self, claim: Claim) -> Demand:
        """Say that the worker lives, and hear what the job's owner wants; raises `FencedError`."""
        return Demand(await self._write_for(claim, "beat"))

    async def started(self, claim: Claim, settings_used: Mapping[str, Any], progress: Progress) -> None:
        """Record with what settings the attempt trains; the first attempt's stand. Raises `FencedError`."""
        await self._write_for(claim, "started", _json(settings_used), _json(_progress_fields(progress)), progress.step)

    async def report(self, claim: Claim, progress: Progress, *, event: tuple[str, Mapping[str, Any]] | None = None) -> None:
        """Record how far the attempt is, and an event (its kind and facts) if there is one; raises `FencedError`."""
        kind, facts = event or ("", {})
        await self._write_for(
            claim,
            "report",
            _json(_progress_fields(progress)),
            progress.step,
            kind,
            _json({name: value[:_MAX_MESSAGE] if isinstance(value, str) else value for name, value in facts.items()}),
            PROGRESS_EVENTS_AN_AGE,
        )

    async def save_state(self, claim: Claim, key: str, step: int) -> str | None:
        """Record where the next attempt goes on from; return the key that it replaces. Raises `FencedError`."""
        return await self._write_for(claim, "save_state", key, step) or None

    async def add_checkpoint(self, claim: Claim, checkpoint: JobCheckpoint) -> bool:
        """List a checkpoint; return whether it is new: an attempt before may have come as far. Raises `FencedError`."""
        fields = asdict(checkpoint) | {"created_at": checkpoint.created_at.isoformat()}
        facts = {"epoch": checkpoint.epoch, "step": checkpoint.step, "model": checkpoint.model, "metrics": checkpoint.metrics}
        return bool(int(await self._write_for(claim, "add_checkpoint", _json(fields), checkpoint.epoch, _json(facts))))

    async def succeed(self, claim: Claim, model_id: str, progress: Progress) -> Job:
        """End the job with its result; raises `FencedError`."""
        return await self._end_attempt(claim, "succeed", model_id, _json(_progress_fields(progress)))

    async def fail(self, claim: Claim, error: JobError) -> Job:
        """End the job with the reason why it cannot be done; raises `FencedError`."""
        return await self._end_attempt(claim, "fail", error.code, error.message[:_MAX_MESSAGE])

    async def release(self, claim: Claim, to: JobStatus) -> Job:
        """Let the job go: QUEUED for another worker, PAUSED or CANCELLED as its owner wants. Raises `FencedError`.

        What the owner wants at that moment decides: a job that is to be cancelled is, and one whose pause was withdrawn is
        queued, whatever the worker had heard.

        Raises:
            JobStateError: Nobody asked for the job to be cancelled.
        """
        if to not in (JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.CANCELLED):
            raise ValueError(f"a job is not released to be {to}")
        return await self._end_attempt(claim, "release", to)

    async def died(self, claim: Claim, reason: str) -> Job:
        """Say that the engine died; return the job, which is queued again or has ended. Raises `FencedError`."""
        return await self._end_attempt(claim, "died", reason[:_MAX_MESSAGE], self._max_deaths)

    async def sweep(self) -> list[str]:
        """Take jobs from silent workers and send lost messages again; return the jobs for which something was done.

        Any number of workers may do it at once.
        """
        async with redis_failures():
            running, cancelling, queued = [
                [str(job_id) for job_id in await self._redis.zrange(keys.jobs_of_status(status), 0, -1)]
                for status in (JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.QUEUED)
            ]
            suspects = running + cancelling + await self._without_message(queued)
        touched = []
        for job_id in suspects:
            try:
                job = await self.get(job_id)
            except (JobNotFoundError, UnreadableRecordError) as error:  # one damaged record must not hold up the others
                logger.error(str(error), extra={"action": "record_skipped", "job": job_id})
                continue
            args: list[str | int] = [self._max_deaths, _SILENT, self._lease_us]
            _, acted = await self._run(self._sweep, job_id, job.spec.dataset, args)
            if int(acted):
                logger.warning("job %s was left behind", job_id, extra={"action": "job_swept", "job": job_id})
                touched.append(job_id)
        return touched

    async def _without_message(self, queued: Sequence[str]) -> list[str]:
        """Return those of the queued jobs whose message is not in the queue; the script looks again."""
        if not queued:
            return []
        listed: Any = await self._redis.lrange(keys.QUEUE_LIST, 0, -1)
        known: Any = await self._redis.hkeys(keys.QUEUE_MESSAGES)
        waiting = set(listed) & set(known)
        missing = []
        for start in range(0, len(queued), _SCANNED_AT_ONCE):
            chunk = queued[start : start + _SCANNED_AT_ONCE]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in chunk:
                    pipeline.hget(keys.job(job_id), "message")
                messages = await pipeline.execute()
            missing += [job_id for job_id, message in zip(chunk, messages, strict=True) if message not in waiting]
        return missing

    async def _order(self, job_id: str, command: str) -> Job:
        job = await self.get(job_id)
        answer = await self._run(self._command, job_id, job.spec.dataset, [command])
        return _changed(answer, job_id, _PAST[command])

    async def _write_for(self, claim: Claim, what: str, *args: str | int) -> str:
        answer = await self._run(
            self._write,
            claim.job.id,
            claim.job.spec.dataset,
            [claim.attempt, claim.worker, self._lease_us, what, *args],
            more_keys=[keys.job_checkpoints(claim.job.id)],
        )
        _check_fence(answer, claim)
        return str(answer[1])

    async def _end_attempt(self, claim: Claim, how: str, *args: str | int) -> Job:
        answer = await self._run(self._end, claim.job.id, claim.job.spec.dataset, [claim.attempt, claim.worker, how, *args])
        _check_fence(answer, claim)
        return _changed(answer, claim.job.id, how)

    async def _run(
        self, script: AsyncScript, job_id: str, dataset_id: str, args: Iterable[str | int], *, more_keys: Iterable[str] = ()
    ) -> Any:
        """Run a script on one job with the keys and arguments that job.lua describes."""
        message = JobMessage.of(job_id)
        async with redis_failures():
            return await script(
                keys=[
                    keys.job(job_id),
                    keys.job_events(job_id),
                    keys.QUEUE_LIST,
                    keys.QUEUE_MESSAGES,
                    keys.dataset_jobs(dataset_id),
                    keys.JOBS,
                    *_STATUS_KEYS,
                    *more_keys,
                ],
                args=[_TABLE, message.id, message.data, *args],
            )


def _check_fence(answer: Sequence[Any], claim: Claim) -> None:
    if answer[0] == "fenced":
        raise FencedError(f"attempt {claim.attempt} of {claim.job.id} by {claim.worker} is no longer the job's")


def _changed(answer: Sequence[Any], job_id: str, wanted: str) -> Job:
    if answer[0] == "state":
        raise JobStateError(job_id, str(answer[1]), wanted)
    return _job(_pairs(answer[1]))


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    """Return the mapping of a script's HGETALL, which is a flat list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _json(value: Mapping[str, Any]) -> str:
    """Return the value as JSON, without the numbers that JSON has not: a loss that is not finite is left out."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items() if not isinstance(item, float) or math.isfinite(item)}
    return value


def _time(microseconds: str) -> datetime:
    whole, rest = divmod(int(microseconds), 1_000_000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest)


def _optional_time(fields: Mapping[str, str], name: str) -> datetime | None:
    return _time(fields[name]) if name in fields else None


def _progress_fields(progress: Progress) -> dict[str, Any]:
    finish = progress.estimated_finish
    return asdict(progress) | {"estimated_finish": None if finish is None else finish.isoformat()}


def _progress(text: str | None) -> Progress:
    if text is None:
        return Progress(metrics={})
    fields = json.loads(text)
    finish = fields["estimated_finish"]
    return Progress(**fields | {"estimated_finish": None if finish is None else datetime.fromisoformat(finish)})


def _job(fields: Mapping[str, str]) -> Job:
    """Return the job of its hash; raises `UnreadableRecordError` where it is damaged or of another version."""
    try:
        record = json.loads(fields["record"])
        if record.pop("version") != RECORD_VERSION:
            raise UnreadableRecordError("a job's is of another version")
        return Job(
            id=fields["id"],
            spec=JobSpec(**record),
            status=JobStatus(fields["status"]),
            attempt=int(fields["attempt"]),
            deaths=int(fields["deaths"]),
            progress=_progress(fields.get("progress")),
            pause_requested="pause_requested" in fields,
            error=JobError(**json.loads(fields["error"])) if "error" in fields else None,
            result=fields.get("result"),
            worker=fields.get("worker"),
            settings_used=json.loads(fields["settings_used"]) if "settings_used" in fields else None,
            resume_key=fields.get("resume_key"),
            created_at=_time(fields["created_at"]),
            started_at=_optional_time(fields, "started_at"),
            finished_at=_optional_time(fields, "finished_at"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRecordError(f"{type(error).__name__}: {error}") from error
