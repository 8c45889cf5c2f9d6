"""The model: a descendant as the service records it.

Everything in it follows from the recipe and the learngene; it is kept whole so that a model stays readable when its learngene
is not loaded. The measured accuracy is the learngene's to say, as long as it is (`Catalogue.current`).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from service.domain.errors import UnreadableRecordError
from tleg_core.budget import Accuracy, Choice
from tleg_core.cost import Cost, cost
from tleg_core.descendant import file_header
from tleg_core.errors import ConfigError
from tleg_core.family import Family
from tleg_core.recipe import RECIPE_FORMAT, Recipe
from tleg_core.vit import timm_architecture, timm_model_args

RECORD_VERSION = 1
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


def is_model_id(text: str) -> bool:
    """Whether `text` has the form of a model's id."""
    return _MODEL_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One descendant: its recipe, costs, measured accuracy, and how timm builds it."""

    id: str
    learngene: str
    method: str
    recipe: Recipe
    cost: Cost
    accuracy: dict[str, Accuracy]
    size_bytes: int
    architecture: str
    model_args: dict[str, Any]

    @classmethod
    def of(cls, family: Family, recipe: Recipe) -> Self:
        """Describe a recipe's file; its costs are those of one image, whatever batch the request had in mind."""
        config = family.config(num_classes=recipe.num_classes, img_size=recipe.img_size)
        costs = cost(config, recipe.member.depth, dtype=recipe.dtype)
        return cls(
            id=recipe.model_id,
            learngene=family.name,
            method=family.learngene.description.method.value,
            recipe=recipe,
            cost=costs,
            accuracy=family.accuracy_of(recipe),
            size_bytes=len(file_header(family, recipe)) + costs.weights_bytes,
            architecture=timm_architecture(config),
            model_args=timm_model_args(config, recipe.member.depth),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is stored."""
        return asdict(self) | {"version": RECORD_VERSION, "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read a stored record; raises `UnreadableRecordError` where it is damaged or of another version."""
        try:
            found = (value["version"], value["recipe"]["format"])
            if found != (RECORD_VERSION, RECIPE_FORMAT):
                raise UnreadableRecordError(f"it is of version {found[0]}, its recipe of {found[1]}")
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
