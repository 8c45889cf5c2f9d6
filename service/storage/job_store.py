"""Jobs in Redis, for the API and the workers alike. Every change is one Lua script, so it happens whole or not at all.

Fields of a job's hash, times in microseconds since 1970 by Redis's clock:

    id, record (JSON: what was asked for), model, dataset, created_at      written once; the model is a training's teacher or ''
                            and the data set '' of an export
    learngene               the name that a training's result will have, written once
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

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from redis.asyncio import Redis

from service.domain.errors import (
    DatasetNotFoundError,
    FencedError,
    IdempotencyKeyReusedError,
    JobNotFoundError,
    JobStateError,
    LearngeneInTrainingError,
    UnreadableRecordError,
)
from service.domain.job import (
    ExportSpec,
    Job,
    JobCheckpoint,
    JobError,
    JobSpec,
    JobStatus,
    Lane,
    Progress,
    TrainingSpec,
    kind_of,
    new_job_id,
)
from service.storage import keys
from service.storage.job_reader import IdempotencyKey, JobReader
from service.storage.job_record import job_of, pairs, progress_text, record_text, to_json
from service.storage.redis_failure import redis_failures

logger = logging.getLogger(__name__)

IDEMPOTENCY_S = 24 * 3600
PROGRESS_EVENTS_AN_AGE = 2000
"""A `progress` event is kept if it is at least age / 2000 after the one before: each second at first, 13,000 in a week."""

_MAX_MESSAGE = 4000  # characters of an error's or a log event's message that are kept
_ASKED_AT_ONCE = 1000  # jobs
_SILENT = "it was silent for longer than TLEG_HEARTBEAT_S"
_PAST: Final = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


class Demand(StrEnum):
    """What a job's owner wants of the worker that holds it."""

    GO_ON = "go_on"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a job, until another attempt has it."""

    job: Job
    attempt: int
    worker: str


class JobStore(JobReader):
    """The jobs, read and changed. Every method raises `StoreUnavailableError` where Redis does not answer.

    Args:
        redis: A client that decodes its responses.
        heartbeat_s: How long a worker may be silent before its job is taken from it.
        max_deaths: Times that a job's worker may die without progress in between before the job fails.
    """

    def __init__(self, redis: Redis, *, heartbeat_s: float, max_deaths: int) -> None:
        super().__init__(redis)
        self._lease_us = round(heartbeat_s * 1e6)
        self._max_deaths = max_deaths

    # What users do.

    async def create(self, spec: JobSpec, *, key: IdempotencyKey | None = None, instead_of: str = "") -> tuple[Job, bool]:
        """Record a job and queue it; return it, and whether it is new.

        Of an export there is one job, however many ask at once: the one that is there is returned.

        Args:
            spec: What is asked for.
            key: With it, the same request makes one job.
            instead_of: The id of the export's job that another is to take the place of, where it has not happened yet.

        Raises:
            DatasetNotFoundError: There is no such data set.
            LearngeneInTrainingError: A job that has not ended trains a learngene of that name.
            IdempotencyKeyReusedError: The key came with another request before.
        """
        job_id = new_job_id(spec.kind)
        model, name = (spec.teacher or "", spec.name) if isinstance(spec, TrainingSpec) else (spec.model, "")
        export = spec.name if isinstance(spec, ExportSpec) else ""
        more_keys = [keys.dataset(spec.dataset), keys.EXPORTS] + ([keys.idempotency(key.digest)] if key else [])
        request = key.request if key else ""
        asked = [job_id, record_text(spec), model, spec.dataset, request]
        args: list[str | int] = [*asked, IDEMPOTENCY_S, name, export, instead_of]
        answer = await self._scripts.run("create_job", job_id, spec.dataset, args, more_keys=more_keys)
        match answer[0]:
            case "same":
                return await self.get(answer[1]), False
            case "reused":
                raise IdempotencyKeyReusedError("the Idempotency-Key came with another request before; use a new one")
            case "no_dataset":
                raise DatasetNotFoundError(spec.dataset)
            case "in_training":
                raise LearngeneInTrainingError(name, str(answer[1]))
        return job_of(pairs(answer[1])), True

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, or tell the worker that holds it to; raises `JobStateError` where it has ended otherwise."""
        return await self._order(job_id, "cancel")

    async def pause(self, job_id: str) -> Job:
        """Pause a job, or tell the worker that holds it to; raises `JobStateError` where it is ending or has ended."""
        return await self._order(job_id, "pause")

    async def resume(self, job_id: str) -> Job:
        """Queue a paused job again, or withdraw a pause; raises `JobStateError` where it is ending or has ended."""
        return await self._order(job_id, "resume")

    # What workers do.

    async def claim(self, job_id: str, worker: str) -> Claim | None:
        """Take a job that is queued, or whose worker is silent for too long; None where it is not to be had."""
        try:
            job = await self.get(job_id)
        except JobNotFoundError:
            return None
        args: list[str | int] = [worker, secrets.token_hex(16), self._lease_us, self._max_deaths, _SILENT]
        answer = await self._scripts.run("claim_job", job_id, job.spec.dataset, args)
        if answer[0] == "none":
            return None
        job = job_of(pairs(answer[1]))
        return Claim(job=job, attempt=job.attempt, worker=worker)

    async def beat(self, claim: Claim) -> Demand:
        """Say that the worker lives, and hear what the job's owner wants; raises `FencedError`."""
        return Demand(await self._write_for(claim, "beat"))

    async def started(self, claim: Claim, settings_used: Mapping[str, Any], progress: Progress) -> None:
        """Record with what settings the attempt trains; the first attempt's stand. Raises `FencedError`."""
        await self._write_for(claim, "started", to_json(settings_used), progress_text(progress), progress.step)

    async def report(self, claim: Claim, progress: Progress, *, event: tuple[str, Mapping[str, Any]] | None = None) -> None:
        """Record how far the attempt is, and an event (its kind and facts) if there is one; raises `FencedError`."""
        kind, facts = event or ("", {})
        await self._write_for(
            claim,
            "report",
            progress_text(progress),
            progress.step,
            kind,
            to_json({name: value[:_MAX_MESSAGE] if isinstance(value, str) else value for name, value in facts.items()}),
            PROGRESS_EVENTS_AN_AGE,
        )

    async def save_state(self, claim: Claim, key: str, step: int) -> str | None:
        """Record where the next attempt goes on from; return the key that it replaces. Raises `FencedError`."""
        return await self._write_for(claim, "save_state", key, step) or None

    async def add_checkpoint(self, claim: Claim, checkpoint: JobCheckpoint) -> bool:
        """List a checkpoint; return whether it is new: an attempt before may have come as far. Raises `FencedError`."""
        fields = asdict(checkpoint) | {"created_at": checkpoint.created_at.isoformat()}
        facts = {"epoch": checkpoint.epoch, "step": checkpoint.step, "model": checkpoint.model, "metrics": checkpoint.metrics}
        return bool(int(await self._write_for(claim, "add_checkpoint", to_json(fields), checkpoint.epoch, to_json(facts))))

    async def succeed(self, claim: Claim, result: str, progress: Progress) -> Job:
        """End the job with its result, a model's id, a learngene's digest or a file; raises `FencedError`."""
        return await self._end_attempt(claim, "succeed", result, progress_text(progress))

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
        """Take jobs from silent workers and send messages again that are lost, or in the wrong lane; return the jobs concerned.

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
            _, acted = await self._scripts.run("sweep_job", job_id, job.spec.dataset, args)
            if int(acted):
                logger.warning("job %s was left behind", job_id, extra={"action": "job_swept", "job": job_id})
                touched.append(job_id)
        return touched

    async def _without_message(self, queued: Sequence[str]) -> list[str]:
        """Return those of the queued jobs whose message is not in their lane of the queue; the script looks again."""
        if not queued:
            return []
        waiting: dict[Lane, set[str]] = {}
        for lane in Lane:
            listed: Any = await self._redis.lrange(keys.queue_list(lane), 0, -1)
            known: Any = await self._redis.hkeys(keys.queue_messages(lane))
            waiting[lane] = set(listed) & set(known)
        missing = []
        for start in range(0, len(queued), _ASKED_AT_ONCE):
            chunk = queued[start : start + _ASKED_AT_ONCE]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in chunk:
                    pipeline.hget(keys.job(job_id), "message")
                messages = await pipeline.execute()
            missing += [
                job_id for job_id, message in zip(chunk, messages, strict=True) if message not in waiting[kind_of(job_id).lane]
            ]
        return missing

    async def _order(self, job_id: str, command: str) -> Job:
        job = await self.get(job_id)
        answer = await self._scripts.run("command_job", job_id, job.spec.dataset, [command])
        return _changed(answer, job_id, _PAST[command])

    async def _write_for(self, claim: Claim, what: str, *args: str | int) -> str:
        answer = await self._scripts.run(
            "write_job",
            claim.job.id,
            claim.job.spec.dataset,
            [claim.attempt, claim.worker, self._lease_us, what, *args],
            more_keys=[keys.job_checkpoints(claim.job.id)],
        )
        _check_fence(answer, claim)
        return str(answer[1])

    async def _end_attempt(self, claim: Claim, how: str, *args: str | int) -> Job:
        answer = await self._scripts.run(
            "end_attempt", claim.job.id, claim.job.spec.dataset, [claim.attempt, claim.worker, how, *args]
        )
        _check_fence(answer, claim)
        return _changed(answer, claim.job.id, how)


def _check_fence(answer: Sequence[Any], claim: Claim) -> None:
    if answer[0] == "fenced":
        raise FencedError(f"attempt {claim.attempt} of {claim.job.id} by {claim.worker} is no longer the job's")


def _changed(answer: Sequence[Any], job_id: str, wanted: str) -> Job:
    if answer[0] == "state":
        raise JobStateError(job_id, str(answer[1]), wanted)
    return job_of(pairs(answer[1]))
