"""Models on the wire: what a user asks for, and what a user gets."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.budget import BudgetBody, DataSetName
from service.api.schemas.fine_tunes import FineTuneResource, FineTuneSettingsBody, model_links
from service.api.schemas.members import Costs, MeasuredAccuracy, MemberReference, cost_fields, member_fields
from service.api.schemas.problems import Problem
from service.domain.catalogue import Catalogue, ModelRequest
from service.domain.model import FineTuning, Model, ModelKind, Selection, StoredModel
from tleg_core.budget import Objective
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.family import Variation
from tleg_core.recipe import MAX_SEED, Head

MAX_BATCH_REQUESTS = 100


class FineTuneOnBody(BaseModel):
    """What to fine-tune the model on, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(max_length=64, description="The id of the data set to train on.")
    settings: FineTuneSettingsBody = Field(default_factory=FineTuneSettingsBody, description="How; all of it is optional.")


class ModelRequestBody(BaseModel):
    """What to make: a budget, and what to change of the network."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"example": {"budget": {"max_params": 3_000_000, "max_macs": 400_000_000}, "dtype": "float32"}},
    )

    budget: BudgetBody = Field(default_factory=BudgetBody, description="The limits.")
    learngene: str | None = Field(None, max_length=64, description="Choose among this learngene's members only.")
    method: Method | None = Field(None, description="Choose among learngenes of this method only.")
    objective: Objective = Field(
        Objective.ACCURACY, description="What is best among the members that fit: measured accuracy, or size."
    )
    accuracy_on: DataSetName | None = Field(
        None,
        description="The data set whose measured accuracy decides, among the members that were measured on it; by default the "
        "one on which most members that fit were measured.",
    )
    num_classes: int | None = Field(
        None, strict=True, ge=0, le=65_536, description="Outputs of the head, 0 for none; the learngene's own by default."
    )
    image_size: int | None = Field(
        None,
        strict=True,
        ge=1,
        le=4096,
        description="Side of the input image in pixels, a multiple of the patch size; the position embedding is resampled.",
    )
    head: Head | None = Field(
        None,
        description="Where the head's weights come from. By default inherited where the classes are the learngene's own, "
        "zero otherwise.",
    )
    seed: int = Field(
        0,
        strict=True,
        ge=0,
        le=MAX_SEED,
        description="Of what is drawn: a random head, and the layers that are fresh, where a member has such.",
    )
    dtype: DType = Field(DType.FLOAT32, description="Element type of the weights.")
    fine_tune: FineTuneOnBody | None = Field(
        None,
        description="Fine-tune the model on a data set, too: the answer is 202 with the job. The model then has the data set's "
        "classes by default.",
    )

    def to_domain(self) -> ModelRequest:
        """Return the domain's request."""
        return ModelRequest(
            budget=self.budget.to_domain(),
            variation=Variation(
                num_classes=self.num_classes,
                img_size=self.image_size,
                dtype=self.dtype,
                batch_size=self.budget.batch_size,
            ),
            learngene=self.learngene,
            method=self.method,
            objective=self.objective,
            accuracy_on=self.accuracy_on,
            head=self.head,
            seed=self.seed,
        )


class ModelIdentity(BaseModel):
    """What a model is."""

    object: Literal["model"] = Field("model", description="Always `model`.")
    id: str = Field(
        description="`m-` and 32 hex digits: of the recipe's sha256; for a fine-tuned model, of a digest of its parent, data "
        "set, settings, step and weights.",
        examples=["m-0123456789abcdef0123456789abcdef"],
    )
    kind: ModelKind = Field(description="`expanded` from a learngene, or `fine_tuned` from another model.")
    learngene: str = Field(description="The id of the learngene that it, or what it was fine-tuned from, is expanded from.")
    learngene_digest: str = Field(description="The learngene's digest, 64 hex digits.")
    method: str = Field(description="The learngene's method.")
    member: MemberReference = Field(description="Which member of the family.")


class FineTuningResource(BaseModel):
    """How a fine-tuned model came about."""

    parent: str = Field(description="The id of the model that training started from.")
    job: str = Field(description="The id of the job.")
    dataset: str = Field(description="The id of the data set.")
    dataset_name: str = Field(description="What its user calls it; may be empty.")
    num_classes: int = Field(description="Its classes; `config.json` has their names.")
    train_images: int = Field(description="Images that it was trained on.")
    held_out_images: int = Field(description="Images that `metrics` were measured on.")
    own_test_split: bool = Field(
        description="Whether those are the data set's own test split, not a part held out of training."
    )
    epoch: int = Field(description="Epochs done.")
    step: int = Field(description="Updates done.")
    metrics: dict[str, float] = Field(
        description="On the held-out images: `loss`, and `top1` and `top5` as fractions; and the last epoch's `train_loss`.",
        examples=[{"train_loss": 0.28, "loss": 0.31, "top1": 0.91, "top5": 0.99}],
    )
    settings: dict[str, Any] = Field(description="The settings as they were used.")

    @classmethod
    def of(cls, tuning: FineTuning) -> Self:
        """Describe a fine-tuning."""
        return cls(
            parent=tuning.parent,
            job=tuning.job,
            dataset=tuning.dataset,
            dataset_name=tuning.dataset_name,
            num_classes=len(tuning.class_names),
            train_images=tuning.train_images,
            held_out_images=tuning.images,
            own_test_split=tuning.own_test_split,
            epoch=tuning.epoch,
            step=tuning.step,
            metrics=dict(tuning.metrics),
            settings=dict(tuning.settings),
        )


class ModelResource(Costs, ModelIdentity):
    """A model: one descendant, ready to download."""

    accuracy: dict[str, MeasuredAccuracy] = Field(
        description="Measured accuracy by data set; empty where the head or the image size is not the learngene's own. Of a "
        "fine-tuned model: on the held-out part of its data set, by its name (or id)."
    )
    size_bytes: int = Field(description="Bytes of the safetensors file, its header included.")
    sha256: str | None = Field(
        description="sha256 of the safetensors file. Null in the answer that creates a file above 32 MiB, and in lists, "
        "until it was first asked for; `GET /models/{id}` always has it."
    )
    architecture: str = Field(
        description="The timm model name; `tleg_stitched_vit` where widths change along the path, which timm knows once "
        "`tleg_core.training.stitched_vit` was imported.",
        examples=["vit_tiny_patch16_224"],
    )
    model_args: dict[str, Any] = Field(description="timm's keyword arguments beside num_classes.")
    recipe: dict[str, Any] = Field(
        description="The complete, canonical description of the file; of a fine-tuned model, of the network that training "
        "began with."
    )
    fine_tuning: FineTuningResource | None = Field(description="How it was fine-tuned; null for an expanded model.")
    created_at: datetime | None = Field(description="When it was first asked for; null on a dry run.")
    links: dict[str, str] = Field(
        description="Paths on this server: self, weights, config, and the Hub repository's name; of a fine-tuned model also "
        "parent, job and dataset."
    )

    @classmethod
    def of(cls, stored: StoredModel, catalogue: Catalogue) -> Self:
        """Describe a stored model, with the accuracy that its learngene has now."""
        return cls(**_fields(catalogue.current(stored.model)), created_at=stored.created_at, sha256=stored.sha256)


class SelectedBy(BaseModel):
    """How the member was chosen among those that fit."""

    objective: Objective = Field(description="`largest` also where no fitting member was measured.")
    data_set: str | None = Field(description="The data set whose accuracy decided; null for `largest`.")


class CreatedModel(ModelResource):
    """A model, and how its member was chosen."""

    selected_by: SelectedBy = Field(description="How the member was chosen.")
    fine_tune: FineTuneResource | None = Field(None, description="The job that fine-tunes it, where one was asked for.")

    @classmethod
    def created(
        cls,
        selection: Selection,
        *,
        created_at: datetime | None,
        sha256: str | None,
        fine_tune: FineTuneResource | None = None,
    ) -> Self:
        """Describe the answer to a request."""
        choice = selection.choice
        selected_by = SelectedBy(objective=choice.objective, data_set=choice.data_set)
        fields = _fields(selection.model)
        return cls(**fields, created_at=created_at, sha256=sha256, selected_by=selected_by, fine_tune=fine_tune)


def _fields(model: Model) -> dict[str, Any]:
    """Return the fields that a stored model and a dry run share."""
    tuning = model.fine_tuning
    made_from = {} if tuning is None else _origin(tuning)
    return {
        "id": model.id,
        "kind": model.kind,
        "learngene": model.learngene,
        "learngene_digest": model.recipe.learngene,
        "method": model.method,
        "member": member_fields(model.recipe.member),
        "accuracy": MeasuredAccuracy.table(model.accuracy),
        **cost_fields(model.cost),
        "size_bytes": model.size_bytes,
        "architecture": model.architecture,
        "model_args": model.model_args,
        "recipe": model.recipe.to_json(),
        "fine_tuning": None if tuning is None else FineTuningResource.of(tuning),
        "links": model_links(model.id) | made_from,
    }


def _origin(tuning: FineTuning) -> dict[str, str]:
    """Return the paths of what a fine-tuned model was made from."""
    return {
        "parent": f"/models/{tuning.parent}",
        "job": f"/fine-tunes/{tuning.job}",
        "dataset": f"/datasets/{tuning.dataset}",
    }


class ModelList(BaseModel):
    """A page of models, newest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[ModelResource] = Field(description="The models, newest first.")
    has_more: bool = Field(description="Whether more follow; pass the last id as `after`.")


class BatchBody(BaseModel):
    """Several requests in one call."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"requests": [{"budget": {"depth": 3}}, {"budget": {"max_params": 2_000_000}}]}},
    )

    requests: list[ModelRequestBody] = Field(
        min_length=1, max_length=MAX_BATCH_REQUESTS, description="The requests; each has its own result."
    )


class BatchResult(BaseModel):
    """The result of one request: a model, or a problem."""

    status: int = Field(description="The HTTP status that the request alone would have had.")
    model: CreatedModel | None = Field(None, description="The model, if there is one.")
    error: Problem | None = Field(None, description="What was wrong, if something was.")


class BatchList(BaseModel):
    """The results, in the order of the requests."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[BatchResult] = Field(description="One result for each request.")
    has_more: Literal[False] = Field(False, description="Always false: all of it is here.")
