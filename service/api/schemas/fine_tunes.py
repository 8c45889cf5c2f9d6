"""Fine-tunes on the wire: what a user asks for, and what a user sees of the job."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from service.api.schemas.budget import BudgetBody, DataSetName
from service.api.schemas.jobs import RunResource, job_links, run_fields
from service.domain.errors import JobNotFoundError
from service.domain.job import FineTuneSpec, Job, JobCheckpoint, JobKind
from tleg_core.budget import Objective
from tleg_core.description import Method
from tleg_core.fine_tuning import (
    AUTO,
    MAX_BATCH_SIZE,
    MAX_EPOCHS,
    MAX_NPROC,
    Augmentation,
    HeadStart,
    Precision,
    Start,
)
from tleg_core.recipe import MAX_SEED


def _which(value: object) -> str:
    return AUTO if value == AUTO else ""  # the empty tag leaves no trace in the name of a field that is not valid


ValueT = TypeVar("ValueT")
OrAuto: TypeAlias = Annotated[
    Annotated[ValueT, Tag("")] | Annotated[Literal["auto"], Tag(AUTO)],
    Discriminator(_which),
]
"""A value, or "auto": one error message, not one for each."""

_EXAMPLE_DATASET = "ds-0123456789abcdef0123456789abcdef"


class FineTuneSettingsBody(BaseModel):
    """How to fine-tune. Everything may be left out or "auto": then it is derived from the data set and the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: OrAuto[Annotated[int, Field(strict=True, ge=1, le=MAX_EPOCHS)]] = Field(
        "auto", description="Passes over the training images."
    )
    batch_size: OrAuto[Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)]] = Field(
        "auto", description="Images for one update, over all processes; not more than there are training images."
    )
    lr: OrAuto[Annotated[float, Field(strict=True, ge=1e-9, le=10, allow_inf_nan=False)]] = Field(
        "auto", description="Peak learning rate of AdamW; it is not scaled by the batch."
    )
    weight_decay: OrAuto[Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]] = Field(
        "auto", description="AdamW's weight decay; not on vectors, biases, norms and embeddings."
    )
    layer_decay: OrAuto[Annotated[float, Field(strict=True, ge=0.1, le=1, allow_inf_nan=False)]] = Field(
        "auto", description="The learning rate's factor from each layer to the one before it; 1 for none."
    )
    warmup_epochs: OrAuto[Annotated[int, Field(strict=True, ge=0, lt=MAX_EPOCHS)]] = Field(
        "auto", description="Epochs of linear warm-up, fewer than `epochs`."
    )
    augmentation: OrAuto[Augmentation] = Field(
        "auto", description="What is done to a training image: none, light (flip and shift) or rand (crops and RandAugment)."
    )
    mixup: OrAuto[Annotated[float, Field(strict=True, ge=0, le=10, allow_inf_nan=False)]] = Field(
        "auto", description="timm's mixup, parameter of the Beta distribution; 0 is off. Needs an even batch."
    )
    cutmix: OrAuto[Annotated[float, Field(strict=True, ge=0, le=10, allow_inf_nan=False)]] = Field(
        "auto", description="timm's cutmix, parameter of the Beta distribution; 0 is off. Needs an even batch."
    )
    random_erasing: OrAuto[Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]] = Field(
        "auto", description="Probability of timm's random erasing."
    )
    label_smoothing: OrAuto[Annotated[float, Field(strict=True, ge=0, le=0.9, allow_inf_nan=False)]] = Field(
        "auto", description="Share of the label that is spread over all classes."
    )
    drop_path: OrAuto[Annotated[float, Field(strict=True, ge=0, le=0.9, allow_inf_nan=False)]] = Field(
        "auto", description="Stochastic depth: the rate of the last block."
    )
    freeze: OrAuto[Annotated[int, Field(strict=True, ge=-1, le=1000)]] = Field(
        "auto",
        description="Leading blocks that are not trained, the embedding with them; 0 for none, -1 trains the head alone.",
    )
    clip_grad: OrAuto[Annotated[float, Field(strict=True, ge=1e-6, le=1e6, allow_inf_nan=False)] | None] = Field(
        "auto", description="Largest norm of the gradient; null for no limit."
    )
    precision: Precision = Field(
        Precision.AUTO,
        description="Arithmetic of the passes: bfloat16, float32, or auto for what the worker's device does best.",
    )
    compile: OrAuto[Annotated[bool, Field(strict=True)]] = Field(
        "auto", description="Whether torch.compile compiles the network; auto where it pays."
    )
    seed: OrAuto[Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)]] = Field(
        "auto",
        description="Of the order of images, the held-out part, augmentation, stochastic depth and a start from scratch.",
    )
    nproc: OrAuto[Annotated[int, Field(strict=True, ge=1, le=MAX_NPROC)]] = Field(
        "auto", description="Processes that train together; above 1 they run under torchrun."
    )
    holdout: OrAuto[Annotated[float, Field(strict=True, ge=0.01, le=0.9, allow_inf_nan=False)]] = Field(
        "auto",
        description="Share of each class that is held out for measuring, where the data set has no test split of its own.",
    )
    start: OrAuto[Start] = Field(
        "auto", description="What training starts from: the model, or the same network from scratch, as a baseline."
    )
    head: OrAuto[HeadStart] = Field(
        "auto", description="The classifier's first weights: the model's own (keep), where it has the same classes, or zero."
    )
    save_every_epochs: OrAuto[Annotated[int, Field(strict=True, ge=1, le=MAX_EPOCHS)]] = Field(
        "auto", description="Epochs from one checkpoint that is kept as a model to the next."
    )

    def requested(self) -> dict[str, Any]:
        """Return what the user set, as JSON."""
        return self.model_dump(mode="json", exclude_unset=True)


class FineTuneBody(BaseModel):
    """What to fine-tune on what: a model that is there, or the best within a budget."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {"budget": {"max_params": 3_000_000}, "dataset": _EXAMPLE_DATASET, "settings": {"epochs": 10}}
        },
    )

    model: str | None = Field(None, max_length=64, description="The id of the model to start from; instead of `budget`.")
    budget: BudgetBody | None = Field(
        None, description="Start from the best model within these limits, with the data set's classes; instead of `model`."
    )
    learngene: str | None = Field(None, max_length=64, description="With `budget`: choose among this learngene's members only.")
    method: Method | None = Field(None, description="With `budget`: choose among learngenes of this method only.")
    objective: Objective | None = Field(
        None, description="With `budget`: what is best among the members that fit, measured accuracy (the default) or size."
    )
    accuracy_on: DataSetName | None = Field(
        None, description="With `budget`: the data set whose measured accuracy decides, by the name in `accuracy`."
    )
    image_size: int | None = Field(
        None, strict=True, ge=1, le=4096, description="With `budget`: side of the input image, a multiple of the patch size."
    )
    dataset: str = Field(max_length=64, description="The id of the data set to train on.")
    settings: FineTuneSettingsBody = Field(default_factory=FineTuneSettingsBody, description="How; all of it is optional.")

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.model is None) == (self.budget is None):
            raise PydanticCustomError("one_start", "give either `model` or `budget`")
        if self.model is not None:
            for name in ("learngene", "method", "objective", "accuracy_on", "image_size"):
                if getattr(self, name) is not None:
                    raise PydanticCustomError("with_budget", "`{name}` goes with `budget` only", {"name": name})
        return self


class FineTuneResult(BaseModel):
    """What came of the job: a model like any other."""

    model: str = Field(description="The model's id.")
    links: dict[str, str] = Field(description="Paths on this server: self, weights, config, and the Hub repository's name.")


class FineTuneResource(RunResource):
    """A fine-tuning job."""

    object: Literal["fine_tune"] = Field("fine_tune", description="Always `fine_tune`.")
    id: str = Field(description="`ft-` and 32 hex digits.", examples=["ft-0123456789abcdef0123456789abcdef"])
    model: str = Field(description="The id of the model that training starts from.")
    settings: dict[str, Any] = Field(
        description="Every setting as it is used, by the names of the request; precision and compile are `auto` until the "
        "first attempt's worker has decided them."
    )
    requested_settings: dict[str, Any] = Field(description="The settings as they were asked for.")
    metrics: dict[str, float] = Field(
        description="The latest: `train_loss` and `lr` of the training, and `loss`, `top1` and `top5` (fractions) on the "
        "held-out images."
    )
    result: FineTuneResult | None = Field(description="The resulting model, once it succeeded.")
    links: dict[str, str] = Field(
        description="Paths on this server: self, events, checkpoints, cancel, pause, resume, model and dataset."
    )

    @classmethod
    def of(cls, job: Job) -> Self:
        """Describe a job; raises `JobNotFoundError` where it is no fine-tune."""
        spec = job.spec
        if not isinstance(spec, FineTuneSpec):
            raise JobNotFoundError(job.id, JobKind.FINE_TUNE)
        settings = job.settings_used or spec.settings
        return cls(
            **run_fields(job, epochs=settings["epochs"]),
            model=spec.model,
            settings=dict(settings),
            requested_settings=dict(spec.requested),
            result=None if job.result is None else FineTuneResult(model=job.result, links=model_links(job.result)),
            links=job_links(job.id, "checkpoints") | {"model": f"/models/{spec.model}", "dataset": f"/datasets/{spec.dataset}"},
        )


def model_links(model_id: str) -> dict[str, str]:
    """Return a model's paths on this server, and its repository's name."""
    path = f"/models/{model_id}"
    return {"self": path, "weights": f"{path}/weights", "config": f"{path}/config.json", "hub": f"tleg/{model_id}"}


class FineTuneList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[FineTuneResource] = Field(description="The jobs, newest first.")
    has_more: bool = Field(description="Whether more follow; pass the last id as `after`.")


class CheckpointResource(BaseModel):
    """A state of the weights after an epoch, usable as a model."""

    epoch: int = Field(description="Epochs done.")
    step: int = Field(description="Updates done.")
    metrics: dict[str, float] = Field(description="`loss`, `top1` and `top5` on the held-out images, and `train_loss`.")
    model: str = Field(description="The id of the model.")
    created_at: datetime = Field(description="When it was made.")
    links: dict[str, str] = Field(description="Paths on this server: self, weights, config, and the Hub repository's name.")

    @classmethod
    def of(cls, checkpoint: JobCheckpoint) -> Self:
        """Describe a checkpoint."""
        return cls(
            epoch=checkpoint.epoch,
            step=checkpoint.step,
            metrics=dict(checkpoint.metrics),
            model=checkpoint.model,
            created_at=checkpoint.created_at,
            links=model_links(checkpoint.model),
        )


class CheckpointList(BaseModel):
    """A job's checkpoints, oldest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[CheckpointResource] = Field(description="The checkpoints, oldest first.")
    has_more: Literal[False] = Field(False, description="Always false: all of it is here.")
