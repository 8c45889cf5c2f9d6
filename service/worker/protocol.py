"""What supervisor and engine say to each other: one JSON object a line, over a unix socket.

The engine connects; the supervisor sends orders (`Setup` first), the engine reports. The supervisor alone talks to Redis, the
engine alone imports torch. Large things go through the object store; only their keys travel here.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from service.domain.export import ExportFormat

INTERNAL_ERROR: Final = "internal_error"  # the code of a failure that has no name of its own


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setup(_Message):
    """How the engine is to work: the first order, given once, before the engine is `Ready`."""

    type: Literal["setup"] = "setup"
    learngenes: list[str]  # paths of the learngene files, the shipped ones included
    store_url: str  # of the object store
    device: Literal["auto", "cpu", "cuda"]
    heartbeat_s: float  # a Beat comes four times in it
    work_dir: str  # a folder for files of the engine alone; what is in it may be deleted when no engine runs


class _Run(_Message):
    job: str
    attempt: int
    learngene_key: str | None = None  # object key of the published learngene that the model or teacher is expanded from


class _LongRun(_Run):
    dataset: dict[str, Any]  # `service.domain.dataset.Dataset.to_json`
    settings: dict[str, Any]
    resume_key: str | None  # object key of the state to go on from
    checkpoint_s: float


class FineTuneRun(_LongRun):
    """Fine-tune a model; `settings` are `tleg_core.fine_tuning.FineTuneSettings.to_json`."""

    type: Literal["fine_tune"] = "fine_tune"
    model: dict[str, Any]  # the base model's record, `service.domain.model.Model.to_json`


class AnchorModel(_Message):
    """A model that is an anchor of a pool."""

    name: str  # the anchor's
    model: dict[str, Any]  # the record
    learngene_key: str | None  # object key of the published learngene that it is expanded from


class TrainingRun(_LongRun):
    """Train a learngene; `settings` are as `service.domain.job.TrainingSpec` has them."""

    type: Literal["train"] = "train"
    name: str  # of the learngene
    licence: str
    teacher: dict[str, Any] | None  # the record of the model that is learned from
    anchors: list[AnchorModel] = []  # models that are a pool's anchors


class ExportRun(_Run):
    """Export a model."""

    type: Literal["export"] = "export"
    model: dict[str, Any]  # the model's record
    class_names: list[str]  # in label order; none where they have no names
    licence: str
    format: ExportFormat


LongRun: TypeAlias = FineTuneRun | TrainingRun
"""What has states from which another attempt goes on."""

Run: TypeAlias = LongRun | ExportRun


class Stop(_Message):
    """Save the state and stop (`save`), or stop at once."""

    type: Literal["stop"] = "stop"
    job: str
    save: bool


Order: TypeAlias = Annotated[Setup | FineTuneRun | TrainingRun | ExportRun | Stop, Field(discriminator="type")]
ORDER: TypeAdapter[Setup | FineTuneRun | TrainingRun | ExportRun | Stop] = TypeAdapter(Order)
RUN: TypeAdapter[FineTuneRun | TrainingRun | ExportRun] = TypeAdapter(
    Annotated[FineTuneRun | TrainingRun | ExportRun, Field(discriminator="type")]
)


class Ready(_Message):
    """The engine is up and waits for a job."""

    type: Literal["ready"] = "ready"
    device: str


class Beat(_Message):
    """The engine lives."""

    type: Literal["beat"] = "beat"


class Started(_Message):
    """The first step is about to be taken; `settings` are those that were used, nothing "auto" left."""

    type: Literal["started"] = "started"
    job: str
    settings: dict[str, Any]
    steps: int


class Stepped(_Message):
    """Training has come so far."""

    type: Literal["stepped"] = "stepped"
    job: str
    epoch: int
    step: int
    steps: int
    images_per_s: float | None
    metrics: dict[str, float]  # train_loss, lr


class EpochDone(_Message):
    """An epoch is done and the held-out part was classified; `weights` where a fine-tune's epoch is kept as a checkpoint."""

    type: Literal["epoch"] = "epoch"
    job: str
    epoch: int
    step: int
    metrics: dict[str, float]  # train_loss, loss, top1, and top5 or top1_depth_4
    weights: Weights | None


class Saved(_Message):
    """A state from which another attempt can go on is in the object store."""

    type: Literal["saved"] = "saved"
    job: str
    step: int
    key: str


class Finished(_Message):
    """The job is done; `weights` are a model's, or a learngene's file, or an export."""

    type: Literal["finished"] = "finished"
    job: str
    epoch: int
    step: int
    metrics: dict[str, float]
    weights: Weights


class Stopped(_Message):
    """Training was stopped as ordered."""

    type: Literal["stopped"] = "stopped"
    job: str


class Failed(_Message):
    """Training cannot be done; `code` for programs, `message` for people."""

    type: Literal["failed"] = "failed"
    job: str
    code: str
    message: str


class Note(_Message):
    """Something a person should know, such as a halved batch."""

    type: Literal["note"] = "note"
    job: str
    message: str


class Weights(_Message):
    """A file in the object store: safetensors, or an export."""

    key: str
    sha256: str
    size_bytes: int
    images: int = 0  # in the held-out part


EpochDone.model_rebuild()
Finished.model_rebuild()

Report: TypeAlias = Annotated[
    Ready | Beat | Started | Stepped | EpochDone | Saved | Finished | Stopped | Failed | Note, Field(discriminator="type")
]
REPORT: TypeAdapter[Ready | Beat | Started | Stepped | EpochDone | Saved | Finished | Stopped | Failed | Note] = TypeAdapter(
    Report
)
