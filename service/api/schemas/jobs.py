"""Jobs on the wire, of any kind: what their resources have in common, and their events."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from service.domain.job import Job, JobEvent, JobKind, JobStatus, kind_of

JOB_PATHS = {JobKind.FINE_TUNE: "/fine-tunes", JobKind.TRAINING: "/learngenes/trainings", JobKind.EXPORT: "/exports"}
"""Where the jobs of each kind are."""

_ORDERS = ("events", "cancel", "pause", "resume")


class JobProgress(BaseModel):
    """How far the job is."""

    fraction: float = Field(description="Steps done of all, from 0 to 1.", examples=[0.25])
    step: int = Field(description="Steps done: of a training, updates.")
    steps: int | None = Field(description="Steps in all; null until the first attempt has started.")


class RunProgress(JobProgress):
    """How far a training is."""

    epoch: int = Field(description="Epochs done.")
    epochs: int = Field(description="Epochs in all.")


class JobFailure(BaseModel):
    """Why the job failed."""

    code: str = Field(description="For programs, such as `out_of_memory` or `worker_died`.", examples=["worker_died"])
    message: str = Field(description="For people.")


class JobResource(BaseModel):
    """A job."""

    object: str = Field(description="The kind of job.")
    id: str = Field(description="Two letters of its kind, a hyphen and 32 hex digits.")
    status: JobStatus = Field(description="queued, running, paused, cancelling, or how it ended: succeeded, failed, cancelled.")
    attempt: int = Field(description="How often a worker took it; above 1 after a pause, or where a worker ended.")
    pause_requested: bool = Field(description="Whether it is running and will be paused as soon as its state is saved.")
    progress: JobProgress = Field(description="How far it is.")
    created_at: datetime = Field(description="When it was accepted.")
    started_at: datetime | None = Field(description="When the first attempt began.")
    finished_at: datetime | None = Field(description="When it ended.")
    estimated_finish_at: datetime | None = Field(description="When it will end at this rate; null while it does not run.")
    error: JobFailure | None = Field(description="Why it failed, if it did.")
    links: dict[str, str] = Field(description="Paths on this server.")

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status.is_terminal


class RunResource(JobResource):
    """A job that trains."""

    dataset: str = Field(description="The id of the data set.")
    progress: RunProgress = Field(description="How far it is.")
    images_per_s: float | None = Field(description="Training images a second, lately; null while it does not run.")
    metrics: dict[str, float] = Field(description="The latest numbers.")


def job_path(job_id: str) -> str:
    """Return a job's path, which follows from its id."""
    return f"{JOB_PATHS[kind_of(job_id)]}/{job_id}"


def job_links(job_id: str, *more: str) -> dict[str, str]:
    """Return the paths of a job, and of what can be asked of it."""
    path = job_path(job_id)
    return {"self": path} | {name: f"{path}/{name}" for name in (*_ORDERS, *more)}


def common_fields(job: Job) -> dict[str, Any]:
    """Return what the resources of all kinds say of a job, but for its links."""
    return {
        "id": job.id,
        "status": job.status,
        "attempt": job.attempt,
        "pause_requested": job.pause_requested,
        "progress": JobProgress(fraction=_fraction(job), step=job.progress.step, steps=job.progress.steps or None),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "estimated_finish_at": job.progress.estimated_finish if _is_held(job) else None,
        "error": None if job.error is None else JobFailure(code=job.error.code, message=job.error.message),
    }


def run_fields(job: Job, *, epochs: int) -> dict[str, Any]:
    """Return what the resources of the kinds that train say of a job, but for its links."""
    common, progress = common_fields(job), job.progress
    return common | {
        "dataset": job.spec.dataset,
        "progress": RunProgress(**common["progress"].model_dump(), epoch=progress.epoch, epochs=epochs),
        "images_per_s": progress.images_per_s if _is_held(job) else None,
        "metrics": dict(progress.metrics),
    }


def _is_held(job: Job) -> bool:
    return job.status in (JobStatus.RUNNING, JobStatus.CANCELLING)


def _fraction(job: Job) -> float:
    if job.status is JobStatus.SUCCEEDED:
        return 1.0
    steps = job.progress.steps
    return min(1.0, job.progress.step / steps) if steps else 0.0


class EventResource(BaseModel):
    """Something that happened to a job."""

    seq: int = Field(description="Its number: events of a job are counted from 1 without gaps.")
    at: datetime = Field(description="When it happened.")
    kind: str = Field(
        description="`status` (the job's status changed), `progress` (training), `epoch` (an epoch is done, with the held-out "
        "metrics), `checkpoint` (there is a model of this epoch), `log` (a message for people).",
        examples=["status"],
    )
    facts: dict[str, Any] = Field(description="What is to be said of it, such as `status`, `step`, `metrics`, `message`.")

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """Describe an event."""
        return cls(seq=event.seq, at=event.at, kind=event.kind, facts=dict(event.facts))


class EventList(BaseModel):
    """A page of events, oldest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[EventResource] = Field(description="The events, oldest first.")
    has_more: bool = Field(description="Whether more are there already; pass the last `seq` as `after`.")
