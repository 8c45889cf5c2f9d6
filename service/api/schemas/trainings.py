"""Trainings of learngenes on the wire: what a user asks for, and what a user sees of the job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.jobs import RunResource, job_links, run_fields
from service.domain.errors import JobNotFoundError
from service.domain.job import Job, JobKind, TrainingSpec
from tleg_core.fine_tuning import MAX_NPROC

AT_DEPTH = re.compile(r"top1_depth_(\d+)")
"""The names of metrics that are the accuracy of one depth."""

ALONG_PATH = re.compile(r"top1_path_([0-9._-]+)")
"""The names of metrics that are the accuracy of one path of a pool."""


class TrainingBody(BaseModel):
    """Which learngene to train on what. A name and a data set are enough; the rest has defaults for the data set."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {
                "name": "flowers",
                "dataset": "ds-0123456789abcdef0123456789abcdef",
                "config": {"training": {"epochs": 30}, "depths": {"rule": "fixed", "train": 12}},
            }
        },
    )

    name: str = Field(
        max_length=63, description="The id of the learngene to be made: lower-case letters, digits and single inner hyphens."
    )
    dataset: str = Field(max_length=64, description="The id of the data set to train on.")
    recipe: str | None = Field(
        None,
        max_length=64,
        description="The name of a recipe that comes with tleg; without one, everything follows from the data set.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields to set instead of the recipe's, by section and name as in a recipe's file; without a recipe, its "
        "sections say the method too. `network`, `schedule`, `depths`, `distillation`, `training` and `augmentation` are those "
        "of one auxiliary model (TLEG and kin). With `anchors` it is a pool (Learngene Pool, SN-Net, pretrained; with `pool`, "
        "`network`, `anchor_training`, `stitching` and `joint`): a list of objects, or over a recipe fields by name, as "
        '`{"small.depth": 6}`; an anchor\'s `model` is the id of a model of this server, which is not trained alone then. With '
        "`selection` layers of the teacher are inherited (Heur-LG, Auto-LG; with `stability` or `transfer`, and `depths`).",
    )
    teacher: str | None = Field(
        None,
        max_length=64,
        description="The id of a model of this server with the data set's classes in the same order: it is the ancestry model, "
        "whose outputs are distilled or whose layers are inherited. For distilled anchors and for layers it is a plain ViT, of "
        "the anchors' tokens. Without one the labels alone teach (`alpha` 0).",
    )
    licence: str = Field(
        "", max_length=200, description="The licence that the learngene is given; empty, as by default: none is stated."
    )
    replace: bool = Field(
        False, strict=True, description="Whether the learngene may take the place of a published one of the same name."
    )
    holdout: float = Field(
        0.2,
        strict=True,
        ge=0.01,
        le=0.9,
        allow_inf_nan=False,
        description="Share of each class that is held out for measuring, where the data set has no test split of its own.",
    )
    nproc: int = Field(
        1, strict=True, ge=1, le=MAX_NPROC, description="Processes that train together; above 1 they run under torchrun."
    )

    def requested(self) -> dict[str, Any]:
        """Return how the user wants it trained, as JSON."""
        return self.model_dump(mode="json", exclude_unset=True, include={"recipe", "config", "holdout", "nproc"})


class TrainingResult(BaseModel):
    """What came of the job: a learngene, served like any other."""

    learngene: str = Field(description="The learngene's id; another may have it by now.")
    digest: str = Field(description="The sha256 that decides the weights of every model made from it.")
    links: dict[str, str] = Field(description="Paths on this server: self and weights.")


class TrainingResource(RunResource):
    """A job that trains a learngene."""

    object: Literal["training"] = Field("training", description="Always `training`.")
    id: str = Field(description="`lt-` and 32 hex digits.", examples=["lt-0123456789abcdef0123456789abcdef"])
    name: str = Field(description="The id of the learngene to be made.")
    teacher: str | None = Field(
        description="The id of the model that is learned from, or whose layers are inherited; null where labels alone teach."
    )
    anchors: dict[str, str] = Field(
        default_factory=dict, description="The ids of models that are a pool's anchors already, by the anchor's name."
    )
    licence: str = Field(description="The licence that the learngene is given; empty where none is stated.")
    replace: bool = Field(description="Whether it may take the place of a published learngene of that name.")
    config: dict[str, Any] = Field(
        description="The whole configuration as it is used; `training.precision` is `auto` until the first attempt's worker "
        "has decided it."
    )
    holdout: float = Field(description="Share of each class that is held out where the data set has no test split of its own.")
    nproc: int = Field(description="Processes that train together.")
    requested: dict[str, Any] = Field(description="What was asked for of recipe, config, holdout and nproc.")
    metrics: dict[str, float] = Field(
        description="The latest: `train_loss` and `lr` of the training; on the held-out images `loss` and `top1` (a fraction) "
        "of the largest depth, and `top1_depth_4` of others; of a pool, those of the anchor in training, or the last one, and "
        "`top1_path_0.0-3_1.4-5` of each path."
    )
    accuracy: dict[str, float] = Field(
        description="The latest top-1 on the held-out images, a fraction, by depth, or by path in a pool."
    )
    result: TrainingResult | None = Field(description="The resulting learngene, once it succeeded.")
    links: dict[str, str] = Field(
        description="Paths on this server: self, events, cancel, pause, resume, dataset, and teacher where there is one."
    )

    @classmethod
    def of(cls, job: Job) -> Self:
        """Describe a job; raises `JobNotFoundError` where it is no training."""
        spec = job.spec
        if not isinstance(spec, TrainingSpec):
            raise JobNotFoundError(job.id, JobKind.TRAINING)
        settings = job.settings_used or spec.settings
        config = settings["config"]
        links = job_links(job.id) | {"dataset": f"/datasets/{spec.dataset}"}
        if spec.teacher is not None:
            links["teacher"] = f"/models/{spec.teacher}"
        path = f"/learngenes/{spec.name}"
        return cls(
            **run_fields(job, epochs=settings.get("epochs", config["training"]["epochs"])),
            name=spec.name,
            teacher=spec.teacher,
            anchors=dict(spec.anchors),
            licence=spec.licence,
            replace=spec.replace,
            config=config,
            holdout=settings["holdout"],
            nproc=spec.nproc,
            requested=dict(spec.requested),
            accuracy=accuracy_by_member(job.progress.metrics, largest=config.get("depths", {}).get("train")),
            result=None
            if job.result is None
            else TrainingResult(learngene=spec.name, digest=job.result, links={"self": path, "weights": f"{path}/weights"}),
            links=links,
        )


def accuracy_by_member(metrics: Mapping[str, float], *, largest: int | None) -> dict[str, float]:
    """Return the top-1 accuracies among the metrics, by depth, the smallest first, or by path, whole anchors first.

    Where there is a `largest` trained depth, `top1` is its accuracy.
    """
    found = {largest: metrics["top1"]} if largest is not None and "top1" in metrics else {}
    paths = {}
    for name, value in metrics.items():
        if match := AT_DEPTH.fullmatch(name):
            found[int(match[1])] = value
        elif match := ALONG_PATH.fullmatch(name):
            paths[match[1]] = value
    whole_first = sorted(paths, key=lambda path: (path.count("_"), path))
    return {str(depth): found[depth] for depth in sorted(found)} | {path: paths[path] for path in whole_first}


class TrainingList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[TrainingResource] = Field(description="The jobs, newest first.")
    has_more: bool = Field(description="Whether more follow; pass the last id as `after`.")
