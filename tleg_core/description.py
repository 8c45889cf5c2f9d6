"""What a learngene says of itself: its method, schedule, network, provenance and measured accuracy.

The description travels as one JSON object in the metadata of the learngene's file. Everything is checked on construction; the
tensors, and the digest that covers them, are `learngene`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

import numpy as np

from tleg_core.canonical import Json
from tleg_core.errors import ConfigError
from tleg_core.schedule import Polynomial, Schedule, Spline, Stagewise, schedule_from_json
from tleg_core.vit import MAX_DEPTH, VitConfig

FORMAT_VERSION = 1

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?!-)){0,61}[a-z0-9]")
"""Names become part of a Hub repository's name, which forbids `--` and a hyphen at either end."""


MAX_IMAGES = 10**12
"""Test images that a measurement may claim."""

MAX_TEXT = 4000
"""Characters that one text of a description may have."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and halves of surrogates

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")  # timm's names


class Method(StrEnum):
    """The methods whose learngenes are a basis with a schedule."""

    TLEG = "tleg"
    POLYNOMIAL = "polynomial"
    SPLINE = "spline"
    STAGEWISE = "stagewise"

    def allows(self, schedule: Schedule) -> bool:
        """Whether `schedule` is one of this method's."""
        match self:
            case Method.TLEG:
                return schedule == Polynomial(num_components=2)
            case Method.POLYNOMIAL:
                return isinstance(schedule, Polynomial)
            case Method.SPLINE:
                return isinstance(schedule, Spline)
            case Method.STAGEWISE:
                return isinstance(schedule, Stagewise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a learngene comes from, in words: enough to make it again, and to know what one may do with it."""

    data_set: str
    ancestry: str
    command: str
    version: str
    licence: str
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input: scaled to 0..1, then `(x - mean) / std` for each channel."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise ConfigError("preprocessing.interpolation", f"must be one of {', '.join(_INTERPOLATIONS)}")
        numbers = (*self.mean, *self.std, self.crop_pct)
        if any(not _is_number(number) for number in numbers) or any(number <= 0 for number in (*self.std, self.crop_pct)):
            raise ConfigError("preprocessing", "needs finite numbers, std and crop_pct above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The top-1 accuracy, a fraction, of the member of one depth on so many images of one data set."""

    depth: int
    data_set: str
    top1: float
    images: int

    def __post_init__(self) -> None:
        if not (_is_number(self.top1) and 0.0 <= self.top1 <= 1.0):
            raise ConfigError("accuracy.top1", f"must be a fraction from 0 to 1, not {self.top1!r}")
        if not _is_whole(self.images) or not 1 <= self.images <= MAX_IMAGES:
            raise ConfigError("accuracy.images", f"must be a whole number from 1 to {MAX_IMAGES}")
        if not _is_whole(self.depth) or not isinstance(self.data_set, str):
            raise ConfigError("accuracy", "needs a whole depth and the name of a data set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Everything that a learngene's file says of itself beside its tensors.

    Args:
        name: The learngene's id: lower-case letters, digits and single hyphens, 2 to 63 characters.
        method: The method that made it.
        schedule: The rule that gives each layer its coefficients.
        config: The network without its depth.
        min_depth: The smallest depth offered.
        max_depth: The largest depth offered.
        trained_depth: The depth of the auxiliary model, or None where nothing was trained.
        provenance: Data, ancestry model, command, version, licence.
        preprocessing: What the network expects of its input.
        class_names: The labels of the head, in order; may be empty.
        accuracy: The measured accuracy of members.
    """

    name: str
    method: Method
    schedule: Schedule
    config: VitConfig
    min_depth: int = 1
    max_depth: int = 12
    trained_depth: int | None
    provenance: Provenance
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    accuracy: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                "name", f"must be 2 to 63 lower-case letters, digits and single inner hyphens, not {str(self.name)[:80]!r}"
            )
        if not self.method.allows(self.schedule):
            raise ConfigError("schedule", f"{self.schedule} is not one of method {self.method}")
        low = self.schedule.min_depth
        whole = _is_whole(self.min_depth) and _is_whole(self.max_depth)
        if not (whole and low <= self.min_depth <= self.max_depth <= MAX_DEPTH):
            raise ConfigError(
                "depths", f"{self.min_depth!r}..{self.max_depth!r} must lie within {low}..{MAX_DEPTH}, the smaller first"
            )
        if self.trained_depth is not None and not (_is_whole(self.trained_depth) and 1 <= self.trained_depth <= MAX_DEPTH):
            raise ConfigError("trained_depth", f"must be from 1 to {MAX_DEPTH}, not {self.trained_depth!r}")
        if self.class_names and len(self.class_names) != self.config.num_classes:
            raise ConfigError("class_names", f"{len(self.class_names)} names for {self.config.num_classes} classes")
        data_sets = (entry.data_set for entry in self.accuracy)
        for text in (*self.class_names, *asdict(self.provenance).values(), *data_sets):
            _check_text(text)
        if not len(self.preprocessing.mean) == len(self.preprocessing.std) == self.config.in_chans:
            raise ConfigError("preprocessing", f"needs {self.config.in_chans} means and stds, one for each channel")
        if len({(entry.depth, entry.data_set) for entry in self.accuracy}) != len(self.accuracy):
            raise ConfigError("accuracy", "names a member and a data set twice")
        if any(not self.min_depth <= entry.depth <= self.max_depth for entry in self.accuracy):
            raise ConfigError("accuracy", f"is of a depth that is not offered, {self.min_depth}..{self.max_depth}")

    def core_json(self) -> dict[str, Json]:
        """Return the part that decides descendants' weights, which the digest covers."""
        return {
            "format": FORMAT_VERSION,
            "method": self.method.value,
            "schedule": self.schedule.to_json(),
            "config": self.config.to_json(),
        }

    def to_json(self, digest: str) -> dict[str, Json]:
        """Return the whole description as it stands in the file."""
        return self.core_json() | {
            "name": self.name,
            "depths": {"min": self.min_depth, "max": self.max_depth},
            "trained_depth": self.trained_depth,
            "provenance": asdict(self.provenance),
            "preprocessing": asdict(self.preprocessing),
            "class_names": list(self.class_names),
            "accuracy": [asdict(entry) for entry in self.accuracy],
            "digest": digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; a missing, extra or wrong field raises `ConfigError` naming it."""
        known = {"format", "method", "schedule", "config", "name", "depths", "trained_depth", "provenance", "preprocessing"}
        known |= {"class_names", "accuracy", "digest"}
        for name in value.keys() ^ known:
            raise ConfigError(str(name)[:80], "is missing" if name in known else "is not a known field")
        if not _is_whole(value["format"]) or value["format"] != FORMAT_VERSION:
            raise ConfigError("format", f"is version {value['format']!r}; this version of tleg reads {FORMAT_VERSION}")
        if value["method"] not in set(Method):
            raise ConfigError("method", f"{str(value['method'])[:80]!r} is not one of {', '.join(Method)}")
        depths = _object(value["depths"], "depths", {"min", "max"})
        preprocessing = _object(value["preprocessing"], "preprocessing", {item.name for item in fields(Preprocessing)})
        measured = {item.name for item in fields(Measurement)}
        return cls(
            name=value["name"],
            method=Method(value["method"]),
            schedule=schedule_from_json(value["schedule"]),
            config=VitConfig.from_json(value["config"]),
            min_depth=depths["min"],
            max_depth=depths["max"],
            trained_depth=value["trained_depth"],
            provenance=Provenance(**_object(value["provenance"], "provenance", {item.name for item in fields(Provenance)})),
            preprocessing=Preprocessing(
                mean=tuple(_list(preprocessing["mean"], "preprocessing.mean")),
                std=tuple(_list(preprocessing["std"], "preprocessing.std")),
                interpolation=preprocessing["interpolation"],
                crop_pct=preprocessing["crop_pct"],
            ),
            class_names=tuple(_list(value["class_names"], "class_names")),
            accuracy=tuple(
                Measurement(**_object(entry, "accuracy", measured)) for entry in _list(value["accuracy"], "accuracy")
            ),
        )


def _check_text(text: object) -> None:
    """Raise `ConfigError` unless `text` is a string of printable characters, of a length that a page can show."""
    if not isinstance(text, str) or len(text) > MAX_TEXT or _UNPRINTABLE.search(text):
        raise ConfigError(
            "provenance", f"its values, class names and data sets must be at most {MAX_TEXT} printable characters"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _object(value: object, name: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise ConfigError(name, f"must be an object with exactly {', '.join(sorted(keys))}")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(name, "must be a list")
    return value
