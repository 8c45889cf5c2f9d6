"""The job, of any kind: what was asked for, where it stands, and which change of status is allowed.

A fine-tune makes a model of a model, a training makes a learngene, an export makes another file of a model; everything else
about them is the same.

    queued ──▶ running ──▶ succeeded | failed
      │ ▲        │ │ ▲
      │ │        │ │ └─ (an attempt that died is followed by another: running ▶ queued ▶ running)
      ▼ │        ▼ └──▶ cancelling ──▶ cancelled
     paused ◀────┘
       └──▶ cancelled (and queued ──▶ cancelled)

A job is frozen here; every change goes through `service.storage.job_store`, one Lua script each, which is given this table.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

from service.domain.export import ExportFormat

_JOB_ID = re.compile(r"(ft|lt|ex)-[0-9a-f]{32}")


class Lane(StrEnum):
    """A line that jobs wait in. A worker takes from the first before it looks into the next."""

    EXPORTS = "exports"  # they take seconds, and do not wait for what takes hours
    TRAININGS = "fine-tunes"  # fine-tunes and trainings; in Redis it has the name that it had when it was the only one


class JobKind(StrEnum):
    """What a job makes."""

    FINE_TUNE = "fine_tune"  # a model
    TRAINING = "training"  # a learngene
    EXPORT = "export"  # a file of a model

    @property
    def prefix(self) -> str:
        """What the ids of these jobs begin with."""
        return {JobKind.FINE_TUNE: "ft-", JobKind.TRAINING: "lt-", JobKind.EXPORT: "ex-"}[self]

    @property
    def lane(self) -> Lane:
        """Where these jobs wait."""
        return Lane.EXPORTS if self is JobKind.EXPORT else Lane.TRAININGS


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.QUEUED,  # handed over: the worker drains, or died
            JobStatus.PAUSED,
            JobStatus.CANCELLING,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
        }
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.SUCCEEDED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def new_job_id(kind: JobKind = JobKind.FINE_TUNE) -> str:
    """Return a fresh id, the kind's two letters, a hyphen and 32 hex digits."""
    return f"{kind.prefix}{secrets.token_hex(16)}"


def is_job_id(text: str, kind: JobKind | None = None) -> bool:
    """Whether `text` has the form of a job's id, of that kind if one is given."""
    return _JOB_ID.fullmatch(text) is not None and (kind is None or text.startswith(kind.prefix))


def kind_of(job_id: str) -> JobKind:
    """Return the kind of a job by its id; what has the form of none counts as a fine-tune."""
    return next((kind for kind in JobKind if job_id.startswith(kind.prefix)), JobKind.FINE_TUNE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSpec:
    """What was asked for of a fine-tune; it never changes.

    Args:
        model: The id of the model that training starts from; it is recorded.
        dataset: The id of the data set.
        settings: `tleg_core.fine_tuning.FineTuneSettings` as JSON, "auto" resolved but for what the worker's device decides.
        requested: The settings as the user gave them.
    """

    kind: ClassVar[JobKind] = JobKind.FINE_TUNE

    model: str
    dataset: str
    settings: Mapping[str, Any]
    requested: Mapping[str, Any]

    @property
    def nproc(self) -> int:
        """Processes that train together."""
        return int(self.settings["nproc"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What was asked for of a learngene's training; it never changes.

    Args:
        name: Of the learngene to be made.
        dataset: The id of the data set.
        teacher: The id of the model that is learned from, or whose layers are inherited; None where the labels alone teach.
        licence: The licence that the learngene is given.
        replace: Whether a learngene of that name may be replaced.
        settings: `config` (any of `tleg_core.training_recipe`'s configurations as JSON, its precision "auto" where the worker's
            device is to decide), `holdout`, `nproc`, `epochs` of all phases, and `anchors` where some are models already.
        requested: What the user gave of them: `recipe`, `config`, `holdout`, `nproc`.
    """

    kind: ClassVar[JobKind] = JobKind.TRAINING

    name: str
    dataset: str
    teacher: str | None
    licence: str
    replace: bool
    settings: Mapping[str, Any]
    requested: Mapping[str, Any]

    @property
    def nproc(self) -> int:
        """Processes that train together."""
        return int(self.settings["nproc"])

    @property
    def anchors(self) -> Mapping[str, str]:
        """The ids of models that are a pool's anchors, by the anchor's name."""
        return dict(self.settings.get("anchors", {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """What was asked for of an export; it never changes.

    Args:
        model: The id of the model; it is recorded.
        format: What to make of it.
    """

    kind: ClassVar[JobKind] = JobKind.EXPORT
    dataset: ClassVar[str] = ""  # it needs none
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # nor has it any
    nproc: ClassVar[int] = 1

    model: str
    format: ExportFormat

    @property
    def name(self) -> str:
        """What is exported to what: one job at a time makes it."""
        return f"{self.model}.{self.format}"


JobSpec: TypeAlias = FineTuneSpec | TrainingSpec | ExportSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed: a code for programs, a message for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the current attempt is.

    Args:
        epoch: Epochs done.
        step: Updates done.
        steps: Updates in all; 0 while it is not known.
        images_per_s: Training rate of the last while; None before it is known.
        metrics: The latest of each: `train_loss`, `lr`, and on the held-out part `loss`, `top1`, `top5` of a fine-tune, `top1`
            and `top1_depth_4` of a training; `deviation` of an export.
        estimated_finish: When it will be done at this rate.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    images_per_s: float | None = None
    metrics: Mapping[str, float]
    estimated_finish: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stands in the store."""

    id: str
    spec: JobSpec
    status: JobStatus
    attempt: int
    deaths: int  # attempts that ended with their worker since the job last made progress
    progress: Progress
    pause_requested: bool
    error: JobError | None
    result: str | None  # the id of the resulting model, the digest of the learngene, or an export's file (`ExportFile`)
    worker: str | None  # of the running attempt
    settings_used: Mapping[str, Any] | None  # as the first attempt resolved them; every later one uses the same
    resume_key: str | None  # object key of the state from which the next attempt goes on
    created_at: datetime
    started_at: datetime | None  # the first attempt's
    finished_at: datetime | None

    @property
    def kind(self) -> JobKind:
        """What it makes."""
        return self.spec.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One event of a job: number `seq`, counted from 1 without gaps, with its `kind` and facts.

    Kinds: `status` (with `status`, `attempt` and, at the end, `error` or `result`), `progress` (with step, metrics), `epoch`
    (held-out metrics), `checkpoint` (with `epoch`, `model`), `log` (with `message`).
    """

    seq: int
    at: datetime
    kind: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCheckpoint:
    """A state of the weights after an epoch, usable as a model."""

    model: str
    epoch: int
    step: int
    metrics: Mapping[str, float]
    created_at: datetime
