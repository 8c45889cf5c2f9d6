"""The model: a descendant as the service records it, expanded from its learngene or fine-tuned from another model.

Everything in an expanded one follows from the recipe and the learngene; it is kept whole so that a model stays readable when
its learngene is not loaded. The measured accuracy is the learngene's to say, as long as it is (`Catalogue.current`).
A fine-tuned one has a file in the object store, and says all that its users need by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from service.domain.dataset import Dataset
from service.domain.errors import UnreadableRecordError
from tleg_core.budget import Accuracy, Choice
from tleg_core.canonical import Json, canonical_json, sha256_hex
from tleg_core.cost import Cost, stack_cost
from tleg_core.descendant import file_header
from tleg_core.description import Preprocessing
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.family import Family
from tleg_core.fine_tuning import HeadStart, Start
from tleg_core.recipe import RECIPE_FORMAT, Head, Recipe
from tleg_core.stack import Stack
from tleg_core.vit import VitConfig

RECORD_VERSION = 1
"""Of an expanded model's record."""

FINE_TUNED_RECORD_VERSION = 2
"""Of a fine-tuned model's record: another one, so that a server from before refuses it instead of expanding its recipe."""

_ID_FORMAT = 1
_WITHOUT_INFLUENCE = frozenset({"save_every_epochs"})  # settings that change no weight

_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


def is_model_id(text: str) -> bool:
    """Whether `text` has the form of a model's id."""
    return _MODEL_ID.fullmatch(text) is not None


class ModelKind(StrEnum):
    """How a model's weights came about."""

    EXPANDED = "expanded"
    FINE_TUNED = "fine_tuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the users of a model must know: how its input is prepared, what its outputs are called, under which licence."""

    preprocessing: Preprocessing
    class_names: tuple[str, ...]  # in label order; empty where they have no names
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How a fine-tuned model came about, and where its file is.

    Args:
        parent: The id of the model that training started from.
        job: The id of the job.
        dataset: The id of the data set.
        dataset_name: What its user calls it; may be empty.
        settings: `tleg_core.fine_tuning.FineTuneSettings` as JSON, as they were used: nothing "auto" is left.
        epoch: Epochs done.
        step: Updates done.
        metrics: Of these weights: `loss`, `top1`, `top5` on the held-out part, accuracies as fractions; and the last epoch's
            `train_loss`.
        train_images: Images of the training part.
        images: Images of the held-out part.
        own_test_split: Whether the held-out part is the data set's own test split.
        weights_sha256: Of the safetensors file.
        weights_key: Its key in the object store.
        size_bytes: Its length.
        class_names: The data set's classes, in label order.
        preprocessing: What the network expects of its input.
        licence: The base's; that of the data is not known here.
    """

    parent: str
    job: str
    dataset: str
    dataset_name: str
    settings: Mapping[str, Any]
    epoch: int
    step: int
    metrics: Mapping[str, float]
    train_images: int
    images: int
    own_test_split: bool
    weights_sha256: str
    weights_key: str
    size_bytes: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    licence: str

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        parent: str,
        usage: Usage,
        job: str,
        settings: Mapping[str, Any],
        epoch: int,
        step: int,
        metrics: Mapping[str, float],
        images: int,
        weights_sha256: str,
        weights_key: str,
        size_bytes: int,
    ) -> Self:
        """Describe weights that a job trained on `dataset`; `usage` is the parent's (`Catalogue.usage`)."""
        own = dataset.num_test > 0
        return cls(
            parent=parent,
            job=job,
            dataset=dataset.id,
            dataset_name=dataset.name,
            settings=dict(settings),
            epoch=epoch,
            step=step,
            metrics=dict(metrics),
            train_images=dataset.num_train - (0 if own else images),
            images=images,
            own_test_split=own,
            weights_sha256=weights_sha256,
            weights_key=weights_key,
            size_bytes=size_bytes,
            class_names=dataset.class_names,
            preprocessing=usage.preprocessing,
            licence=usage.licence,
        )

    @property
    def from_scratch(self) -> bool:
        """Whether the parent gave its shape only: the baseline."""
        return self.settings.get("start") == Start.SCRATCH

    @property
    def model_id(self) -> str:
        """The model's id: what decides the file, and the file itself, so that the same bytes made alike are one model."""
        settings = {name: _whole(value) for name, value in self.settings.items() if name not in _WITHOUT_INFLUENCE}
        decisive: dict[str, Json] = {
            "format": _ID_FORMAT,
            "parent": self.parent,
            "dataset": self.dataset,
            "settings": settings,
            "step": self.step,
            "weights": self.weights_sha256,
        }
        return f"m-{sha256_hex(canonical_json(decisive))[:32]}"

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self) | {"settings": dict(self.settings), "metrics": dict(self.metrics)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; raises KeyError, TypeError or `ConfigError` where it is damaged."""
        known = {item.name: value[item.name] for item in fields(cls)}
        prepared = dict(known["preprocessing"])
        prepared |= {name: tuple(prepared[name]) for name in ("mean", "std")}
        known["preprocessing"] = Preprocessing(**prepared)
        known["class_names"] = tuple(known["class_names"])
        return cls(**known)


def _whole(value: Any) -> Any:
    """Return a number such as 1.0 as 1: both are one setting, and must be one in the JSON that the id is taken of."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One descendant: its recipe, costs, measured accuracy, and how timm builds it.

    The recipe of a fine-tuned model is that of the network in which training began; its weights are the file's.
    """

    id: str
    learngene: str
    method: str
    recipe: Recipe
    cost: Cost
    accuracy: dict[str, Accuracy]
    size_bytes: int
    architecture: str
    model_args: dict[str, Any]
    fine_tuning: FineTuning | None = None

    @classmethod
    def of(cls, family: Family, recipe: Recipe) -> Self:
        """Describe a recipe's file; its costs are those of one image, whatever batch the request had in mind."""
        stack = family.stack(recipe.member, num_classes=recipe.num_classes, img_size=recipe.img_size)
        costs = stack_cost(stack, dtype=recipe.dtype)
        return cls(
            id=recipe.model_id,
            learngene=family.name,
            method=family.learngene.description.method.value,
            recipe=recipe,
            cost=costs,
            accuracy=family.accuracy_of(recipe),
            size_bytes=len(file_header(family, recipe)) + costs.weights_bytes,
            architecture=stack.architecture,
            model_args=stack.model_args,
        )

    @classmethod
    def fine_tuned(cls, base: Model, fine_tuning: FineTuning) -> Self:
        """Describe the result of a fine-tune of `base`: its network with the data set's classes, in float32.

        Raises:
            ConfigError: There are more classes than a network can have.
        """
        num_classes = len(fine_tuning.class_names)
        stack = base.stack.with_changes(num_classes=num_classes)
        kept = fine_tuning.settings.get("head") == HeadStart.KEEP and num_classes == base.recipe.num_classes
        head, seed = (base.recipe.head, base.recipe.seed) if kept else (Head.ZERO, None)
        measured: dict[str, Accuracy] = {}
        if fine_tuning.images and "top1" in fine_tuning.metrics:
            name = fine_tuning.dataset_name or fine_tuning.dataset
            measured[name] = Accuracy(top1=fine_tuning.metrics["top1"], images=fine_tuning.images)
        return cls(
            id=fine_tuning.model_id,
            learngene=base.learngene,
            method=base.method,
            recipe=replace(base.recipe, num_classes=num_classes, head=head, seed=seed, dtype=DType.FLOAT32),
            cost=stack_cost(stack),
            accuracy=measured,
            size_bytes=fine_tuning.size_bytes,
            architecture=stack.architecture,
            model_args=stack.model_args,
            fine_tuning=fine_tuning,
        )

    @property
    def kind(self) -> ModelKind:
        """How its weights came about."""
        return ModelKind.EXPANDED if self.fine_tuning is None else ModelKind.FINE_TUNED

    @property
    def stack(self) -> Stack:
        """The network."""
        return Stack.of(self.architecture, self.model_args, self.recipe.num_classes)

    @property
    def config(self) -> VitConfig:
        """The network without its depth; where widths change, that of its last stage."""
        return self.stack.config

    @property
    def content_digest(self) -> str:
        """64 hex digits that change with the file: its sha256 if it was fine-tuned, else the digest of its recipe."""
        return self.recipe.digest if self.fine_tuning is None else self.fine_tuning.weights_sha256

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is stored."""
        record = asdict(replace(self, fine_tuning=None)) | {"version": RECORD_VERSION, "recipe": self.recipe.to_json()}
        del record["fine_tuning"]
        if self.fine_tuning is not None:
            record |= {"version": FINE_TUNED_RECORD_VERSION, "fine_tuning": self.fine_tuning.to_json()}
        return record

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read a stored record; raises `UnreadableRecordError` where it is damaged or of another version."""
        try:
            version, recipe_format = value["version"], value["recipe"]["format"]
            if version not in (RECORD_VERSION, FINE_TUNED_RECORD_VERSION) or recipe_format != RECIPE_FORMAT:
                raise UnreadableRecordError(f"it is of version {version}, its recipe of {recipe_format}")
            fine_tuning = FineTuning.from_json(value["fine_tuning"]) if version == FINE_TUNED_RECORD_VERSION else None
            return cls(
                id=value["id"],
                learngene=value["learngene"],
                method=value["method"],
                recipe=Recipe.from_json(value["recipe"]),
                cost=Cost(**value["cost"]),
                accuracy={name: Accuracy(**entry) for name, entry in value["accuracy"].items()},
                size_bytes=value["size_bytes"],
                architecture=value["architecture"],
                model_args=value["model_args"],
                fine_tuning=fine_tuning,
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise UnreadableRecordError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model as it stands in the store: with its time of creation, and its file's sha256 once that was computed."""

    model: Model
    created_at: datetime
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The answer to a request: the model, and how its member was chosen."""

    model: Model
    choice: Choice
