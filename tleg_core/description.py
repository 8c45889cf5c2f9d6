"""What a learngene says of itself: its method, design, provenance and measured accuracy.

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
from tleg_core.designs.basis import Basis
from tleg_core.designs.design import Design
from tleg_core.designs.pool import Pool
from tleg_core.designs.scratch import Scratch
from tleg_core.errors import ConfigError
from tleg_core.path import Path
from tleg_core.recipe import Member
from tleg_core.schedule import Inherited, Polynomial, Spline, Stagewise, schedule_from_json
from tleg_core.selection import Selection
from tleg_core.vit import VitConfig

FORMAT_VERSION = 1

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?!-)){0,61}[a-z0-9]")
"""Names become part of a Hub repository's name, which forbids `--` and a hyphen at either end."""


MAX_IMAGES = 10**12
"""Test images that a measurement may claim."""

MAX_DATA_SETS = 64
"""Data sets that members may have been measured on."""

MAX_TEXT = 4000
"""Characters that one text of a description may have."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and halves of surrogates

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")  # timm's names


class Method(StrEnum):
    """The methods that make a learngene."""

    TLEG = "tleg"
    POLYNOMIAL = "polynomial"
    SPLINE = "spline"
    STAGEWISE = "stagewise"
    LEARNGENE = "learngene"
    """Layers of an ancestry model, chosen by a rule, among fresh ones (Heur-LG, Auto-LG)."""
    POOL = "pool"
    """Small networks distilled from one ancestry model, stitched."""
    SN_NET = "sn-net"
    """Networks trained alone, stitched."""
    PRETRAINED = "pretrained"
    """Networks trained alone, as they are: the expensive baseline."""
    SCRATCH = "scratch"
    """Nothing is stored, everything drawn: the cheap one."""

    def allows(self, design: Design) -> bool:
        """Whether `design` is one of this method's."""
        if isinstance(design, Basis):
            kinds = {
                Method.POLYNOMIAL: Polynomial,
                Method.SPLINE: Spline,
                Method.STAGEWISE: Stagewise,
                Method.LEARNGENE: Inherited,
            }
            linear = self is Method.TLEG and design.schedule == Polynomial(num_components=2)
            return linear or (self in kinds and isinstance(design.schedule, kinds[self]))
        if isinstance(design, Pool):
            return (self is Method.PRETRAINED and not design.stitches) or self in (Method.POOL, Method.SN_NET)
        return self is Method.SCRATCH and isinstance(design, Scratch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a learngene comes from, in words: enough to make it again, and to know what one may do with it."""

    data_set: str
    ancestry: str
    command: str
    version: str
    licence: str
    """Empty where none is stated."""
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
    """The top-1 accuracy, a fraction, of one member on so many images of one data set: of a depth, or along a path."""

    depth: int
    data_set: str
    top1: float
    images: int
    path: Path | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.top1) and 0.0 <= self.top1 <= 1.0):
            raise ConfigError("accuracy.top1", f"must be a fraction from 0 to 1, not {self.top1!r}")
        if not _is_whole(self.images) or not 1 <= self.images <= MAX_IMAGES:
            raise ConfigError("accuracy.images", f"must be a whole number from 1 to {MAX_IMAGES}")
        if not _is_whole(self.depth) or not isinstance(self.data_set, str):
            raise ConfigError("accuracy", "needs a whole depth and the name of a data set")

    @classmethod
    def of(cls, member: Member, *, data_set: str, top1: float, images: int) -> Self:
        """Return the measurement of a member."""
        return cls(depth=member.depth, path=member.path, data_set=data_set, top1=top1, images=images)

    @property
    def member(self) -> Member:
        """The member that was measured."""
        return Member(depth=self.depth, path=self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as a JSON object."""
        return self.member.to_json() | {"data_set": self.data_set, "top1": self.top1, "images": self.images}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read `to_json`'s object; raises `ConfigError` where it is another."""
        member_fields = {"path"} if isinstance(value, dict) and "path" in value else {"depth"}
        known = _object(value, "accuracy", {"data_set", "top1", "images"} | member_fields)
        member = Member.from_json({name: known.pop(name) for name in member_fields})
        return cls.of(member, **known)


def check_name(name: object) -> None:
    """Raise `ConfigError` where a learngene cannot be called so."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            "name", f"must be 2 to 63 lower-case letters, digits and single inner hyphens, not {str(name)[:80]!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Everything that a learngene's file says of itself beside its tensors.

    Args:
        name: The learngene's id: lower-case letters, digits and single hyphens, 2 to 63 characters.
        method: The method that made it.
        design: What the file holds, and which members are made of it.
        provenance: Data, ancestry model, command, version, licence.
        preprocessing: What the network expects of its input.
        class_names: The labels of the head, in order; may be empty.
        accuracy: The measured accuracy of members.
        selection: How the layers that are inherited were chosen, where some were.
    """

    name: str
    method: Method
    design: Design
    provenance: Provenance
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    accuracy: tuple[Measurement, ...] = ()
    selection: Selection | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.method.allows(self.design):
            if isinstance(self.design, Basis):
                raise ConfigError("schedule", f"{self.design.schedule} is not one of method {self.method}")
            raise ConfigError("method", f"{self.method} does not make a {type(self.design).__name__.lower()}")
        if self.class_names and len(self.class_names) != self.config.num_classes:
            raise ConfigError("class_names", f"{len(self.class_names)} names for {self.config.num_classes} classes")
        data_sets = dict.fromkeys(entry.data_set for entry in self.accuracy)
        if len(data_sets) > MAX_DATA_SETS:
            raise ConfigError("accuracy", f"is of {len(data_sets)} data sets, more than {MAX_DATA_SETS}")
        for text in (*self.class_names, *asdict(self.provenance).values(), *data_sets):
            _check_text(text)
        if not len(self.preprocessing.mean) == len(self.preprocessing.std) == self.config.in_chans:
            raise ConfigError("preprocessing", f"needs {self.config.in_chans} means and stds, one for each channel")
        if len({(entry.member, entry.data_set) for entry in self.accuracy}) != len(self.accuracy):
            raise ConfigError("accuracy", "names a member and a data set twice")
        for entry in self.accuracy:
            try:
                self.design.check(entry.member)
            except ConfigError as error:
                raise ConfigError("accuracy", f"is of a member that is not offered: {error}") from error
        if self.selection is not None and self.method is not Method.LEARNGENE:
            raise ConfigError("selection", f"is not made by method {self.method}")
        if self.selection is not None and isinstance(self.basis.schedule, Inherited):
            layers, of = self.basis.schedule.layers, self.basis.schedule.of
            if (self.selection.chosen, len(self.selection.scores)) != (layers, of):
                raise ConfigError("selection", f"must be of the schedule's {self.basis.schedule}")

    @property
    def config(self) -> VitConfig:
        """The network without its depth: the widest one, where widths change."""
        return self.design.config

    @property
    def trained_depth(self) -> int | None:
        """The depth of the auxiliary model, or None where there was none."""
        return self.design.trained_depth if isinstance(self.design, Basis) else None

    @property
    def basis(self) -> Basis:
        """The design, where it is a basis; raises `ConfigError` where it is another."""
        if not isinstance(self.design, Basis):
            raise ConfigError("learngene", f"{self.name} is of method {self.method}, which has no schedule")
        return self.design

    @property
    def pool(self) -> Pool:
        """The design, where it is a pool; raises `ConfigError` where it is another."""
        if not isinstance(self.design, Pool):
            raise ConfigError("learngene", f"{self.name} is of method {self.method}, which has no anchors")
        return self.design

    def core_json(self) -> dict[str, Json]:
        """Return the part that decides descendants' weights, which the digest covers."""
        return {"format": FORMAT_VERSION, "method": self.method.value} | self.design.core_json()

    def to_json(self, digest: str) -> dict[str, Json]:
        """Return the whole description as it stands in the file."""
        selection = {} if self.selection is None else {"selection": self.selection.to_json()}
        return (
            self.core_json()
            | self.design.rest_json()
            | selection
            | {
                "name": self.name,
                "provenance": asdict(self.provenance),
                "preprocessing": asdict(self.preprocessing),
                "class_names": list(self.class_names),
                "accuracy": [entry.to_json() for entry in self.accuracy],
                "digest": digest,
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; a missing, extra or wrong field raises `ConfigError` naming it."""
        known = {"format", "method", "name", "provenance", "preprocessing", "class_names", "accuracy", "digest"}
        known |= _design_fields(value) | (value.keys() & {"selection"})
        for name in value.keys() ^ known:
            raise ConfigError(str(name)[:80], "is missing" if name in known else "is not a known field")
        if not _is_whole(value["format"]) or value["format"] != FORMAT_VERSION:
            raise ConfigError("format", f"is version {value['format']!r}; this version of tleg reads {FORMAT_VERSION}")
        if value["method"] not in set(Method):
            raise ConfigError("method", f"{str(value['method'])[:80]!r} is not one of {', '.join(Method)}")
        preprocessing = _object(value["preprocessing"], "preprocessing", {item.name for item in fields(Preprocessing)})
        return cls(
            name=value["name"],
            method=Method(value["method"]),
            design=_design(value),
            provenance=Provenance(**_object(value["provenance"], "provenance", {item.name for item in fields(Provenance)})),
            preprocessing=Preprocessing(
                mean=tuple(_list(preprocessing["mean"], "preprocessing.mean")),
                std=tuple(_list(preprocessing["std"], "preprocessing.std")),
                interpolation=preprocessing["interpolation"],
                crop_pct=preprocessing["crop_pct"],
            ),
            class_names=tuple(_list(value["class_names"], "class_names")),
            accuracy=tuple(Measurement.from_json(entry) for entry in _list(value["accuracy"], "accuracy")),
            selection=Selection.from_json(value["selection"]) if "selection" in value else None,
        )


def _design_fields(value: Mapping[str, Any]) -> set[str]:
    """Return the fields in which a description says its design."""
    if "pool" in value:
        return {"pool"}
    return {"config", "depths"} | (set() if value.get("method") == Method.SCRATCH else {"schedule", "trained_depth"})


def _design(value: Mapping[str, Any]) -> Design:
    """Return the design that a description says."""
    if "pool" in value:
        return Pool.from_json(value["pool"])
    config = VitConfig.from_json(value["config"])
    depths = _object(value["depths"], "depths", {"min", "max"})
    if value["method"] == Method.SCRATCH:
        return Scratch(config=config, min_depth=depths["min"], max_depth=depths["max"])
    return Basis(
        schedule=schedule_from_json(value["schedule"]),
        config=config,
        min_depth=depths["min"],
        max_depth=depths["max"],
        trained_depth=value["trained_depth"],
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
