"""How a learngene is trained: network, schedule, depths, loss and run, as one TOML file or JSON object.

Torch-free; what it does is `training.learngene_run`'s business. Errors name the field by its place, such as `training.lr`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from types import UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from tleg_core.description import Method, Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.schedule import Polynomial, Schedule, Spline, Stagewise
from tleg_core.training_config import Augmentation, TrainingConfig, within
from tleg_core.vit import MAX_DEPTH, VIT_SIZES, VitConfig

_CHANNELS = 3  # of every picture that is trained on


class KdNormalisation(StrEnum):
    """What the summed divergence is divided by."""

    BATCHMEAN = "batchmean"
    """B: the mathematical mean over the images."""
    NUMEL = "numel"
    """B * C: the authors' (and DeiT's) choice, 1/C of `batchmean`; it makes the term negligible beside a label loss."""


class DistillationKind(StrEnum):
    """What is learned from the ancestry model."""

    SOFT = "soft"
    """Its probabilities."""
    HARD = "hard"
    """Its most probable class (DeiT, arXiv 2012.12877, equation 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How the two losses are weighed.

    Args:
        alpha: Share of the distillation term, 0..1; 1 is the published recipe, which never looks at a label.
        temperature: Both sides' logits are divided by it; 1 as published. With soft distillation.
        normalisation: See `KdNormalisation`. With soft distillation.
        kind: Soft, or hard.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    normalisation: KdNormalisation = KdNormalisation.NUMEL
    kind: DistillationKind = DistillationKind.SOFT

    def __post_init__(self) -> None:
        within("alpha", self.alpha, 0.0, 1.0)
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise ConfigError("temperature", f"must be above 0, not {self.temperature}")


class DepthRule(StrEnum):
    """Which depths an update trains."""

    FIXED = "fixed"
    """One depth, as published."""
    UNIFORM = "uniform"
    """One depth, drawn at each update."""
    SANDWICH = "sandwich"
    """The largest, the smallest and one drawn between them (universally slimmable networks, arXiv 1903.05134)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """The depths that are trained, and those that are offered.

    Args:
        rule: Which depths an update trains.
        train: The depth of the fixed rule, 12 as published; the others train from `train_min` to `train`.
        train_min: The smallest depth that the other rules train.
        offer_min: The smallest depth that the learngene offers.
        offer_max: The largest.
        self_distillation: Share, 0..1, of the smaller depths' loss that is learned from the largest depth's logits, which get
            no gradient by that; the rest is the loss that the largest depth has.
    """

    rule: DepthRule = DepthRule.FIXED
    train: int = 12
    train_min: int = 1
    offer_min: int = 1
    offer_max: int = 12
    self_distillation: float = 0.0

    def __post_init__(self) -> None:
        for low, high in (("train_min", "train"), ("offer_min", "offer_max")):
            smaller, larger = getattr(self, low), getattr(self, high)
            if not 1 <= smaller <= larger <= MAX_DEPTH:
                raise ConfigError(
                    low,
                    f"and {high} must lie within 1..{MAX_DEPTH}, the smaller first, not {smaller}, {larger}",
                )
        within("self_distillation", self.self_distillation, 0.0, 1.0)
        if self.rule is DepthRule.FIXED and self.self_distillation:
            raise ConfigError("self_distillation", "needs a rule that trains several depths")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """The network without its depth and its classes, which are the data set's.

    Args:
        size: Width and heads by name.
        embed_dim: Width, instead of the size's.
        num_heads: Attention heads, instead of the size's.
        img_size: Side of the input, in pixels.
        patch_size: Side of a patch, in pixels.
    """

    size: str = "tiny"
    embed_dim: int | None = None
    num_heads: int | None = None
    img_size: int = 224
    patch_size: int = 16

    def __post_init__(self) -> None:
        if self.size not in VIT_SIZES:
            raise ConfigError("size", f"must be one of {', '.join(VIT_SIZES)}, not {self.size!r}")
        self.vit(num_classes=1)

    def vit(self, num_classes: int) -> VitConfig:
        """Return the network's configuration for so many classes."""
        named = VIT_SIZES[self.size]
        return VitConfig(
            embed_dim=named.embed_dim if self.embed_dim is None else self.embed_dim,
            num_heads=named.num_heads if self.num_heads is None else self.num_heads,
            img_size=self.img_size,
            patch_size=self.patch_size,
            num_classes=num_classes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleChoice:
    """The method, and what its schedule needs to know.

    Args:
        method: TLEG, polynomial, spline or stage-wise.
        num_components: K, of a polynomial (default 3) or a spline (3).
        endpoint: Whether a polynomial runs to t = 1.
        stages: Lengths of the stages (default 3-3-4-3-3).
    """

    method: Method = Method.TLEG
    num_components: int | None = None
    endpoint: bool = False
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_components is not None and self.method not in (Method.POLYNOMIAL, Method.SPLINE):
            raise ConfigError("num_components", f"is not chosen with method {self.method}")
        if self.endpoint and self.method is not Method.POLYNOMIAL:
            raise ConfigError("endpoint", f"is not chosen with method {self.method}")
        if self.stages is not None and self.method is not Method.STAGEWISE:
            raise ConfigError("stages", f"is not chosen with method {self.method}")
        self.build()

    def build(self) -> Schedule:
        """Return the schedule."""
        count = 3 if self.num_components is None else self.num_components
        try:
            match self.method:
                case Method.TLEG:
                    return Polynomial()
                case Method.POLYNOMIAL:
                    return Polynomial(num_components=count, endpoint=self.endpoint)
                case Method.SPLINE:
                    return Spline(num_components=count)
                case Method.STAGEWISE:
                    return Stagewise() if self.stages is None else Stagewise(stages=self.stages)
        except ConfigError as error:
            raise ConfigError(error.field.removeprefix("schedule."), error.reason) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LearngeneConfig:
    """How a learngene is trained. The sections of its TOML file are its fields, and `augmentation` that of `training`."""

    training: TrainingConfig
    network: NetworkShape = field(default_factory=NetworkShape)
    schedule: ScheduleChoice = field(default_factory=ScheduleChoice)
    depths: Depths = field(default_factory=Depths)
    distillation: Distillation = field(default_factory=Distillation)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self.preprocessing, name)) != _CHANNELS:
                raise ConfigError(f"preprocessing.{name}", f"must be {_CHANNELS} numbers, one for each channel")
        low = self.schedule.build().min_depth
        smallest = self.depths.train if self.depths.rule is DepthRule.FIXED else self.depths.train_min
        for name, depth in (("train", smallest), ("offer_min", self.depths.offer_min)):
            if depth < low:
                raise ConfigError(f"depths.{name}", f"must be at least {low} with this schedule, not {depth}")

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a TOML file's text.

        Raises:
            ConfigError: It is no TOML, or a field is unknown, of another type, or outside its limits.
        """
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("config", f"is no TOML: {error}") from error
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; what is missing has its default. Raises as `from_toml` does."""
        sections = {item.name for item in fields(cls)} | {"augmentation"}
        for name in value:
            if name not in sections:
                raise ConfigError(str(name)[:80], f"is no section; there are {', '.join(sorted(sections))}")
        training = value.get("training", {})
        if isinstance(training, Mapping) and "augmentation" in training:
            raise ConfigError("training.augmentation", "is a section of its own, augmentation")
        augmentation = read_section(Augmentation, "augmentation", value.get("augmentation", {}))
        return cls(
            training=read_section(TrainingConfig, "training", training, augmentation=augmentation),
            network=read_section(NetworkShape, "network", value.get("network", {})),
            schedule=read_section(ScheduleChoice, "schedule", value.get("schedule", {})),
            depths=read_section(Depths, "depths", value.get("depths", {})),
            distillation=read_section(Distillation, "distillation", value.get("distillation", {})),
            preprocessing=read_section(Preprocessing, "preprocessing", value.get("preprocessing", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole configuration as a JSON object, defaults included."""
        value = asdict(self)
        value["augmentation"] = value["training"].pop("augmentation")
        for section, name in (("schedule", "stages"), ("preprocessing", "mean"), ("preprocessing", "std")):
            if value[section][name] is not None:
                value[section][name] = list(value[section][name])
        return value

    def with_changes(self, changes: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return this configuration with some fields of some sections replaced. Raises as `from_toml` does."""
        value = self.to_json()
        for section, values in changes.items():
            if not isinstance(values, Mapping):
                raise ConfigError(str(section)[:80], "must be an object")
            value[section] = value.get(section, {}) | dict(values)
        return self.from_json(value)

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """Return this configuration with `section.field=value` applied, each value in TOML or, failing that, a bare word.

        Raises:
            ConfigError: One is not of that form, or names no field, or its value cannot be.
        """
        return self.with_changes(parse_overrides(overrides))

    def with_seed(self, seed: int) -> Self:
        """Return this configuration with another seed."""
        return replace(self, training=replace(self.training, seed=seed))


def parse_overrides(overrides: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the fields that `section.field=value` texts set, by section; each value in TOML or, failing that, a bare word.

    Raises:
        ConfigError: One is not of that form.
    """
    changes: dict[str, dict[str, Any]] = {}
    for text in overrides:
        place, equals, value = text.partition("=")
        section, dot, name = place.strip().partition(".")
        if not (equals and dot and name):
            raise ConfigError("set", f"must be like training.epochs=3, not {text[:80]!r}")
        changes.setdefault(section, {})[name] = _toml_value(value.strip())
    return changes


def _toml_value(text: str) -> Any:
    if text == "none":
        return None  # TOML has no null
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_SectionT = TypeVar("_SectionT")


def read_section(kind: type[_SectionT], section: str, value: object, **given: object) -> _SectionT:
    """Return the dataclass `kind` from a mapping, strictly; every error is given its place."""
    if not isinstance(value, Mapping):
        raise ConfigError(section, "must be a table of fields")
    hints = get_type_hints(kind)
    names = hints.keys() - given.keys()
    for name in value:
        if name not in names:
            raise ConfigError(f"{section}.{str(name)[:80]}", f"is no field; there are {', '.join(sorted(names))}")
    read = {name: _typed(hints[name], f"{section}.{name}", item) for name, item in value.items()}
    try:
        return kind(**(read | given))
    except ConfigError as error:
        place = error.field if error.field.partition(".")[0] == section else f"{section}.{error.field}"
        raise ConfigError(place, error.reason) from error
    except TypeError as error:  # a field without a default is not there
        missing = sorted(names - read.keys())
        raise ConfigError(section, f"lacks {', '.join(name for name in missing if f'{name!r}' in str(error))}") from error


def _typed(hint: Any, place: str, value: object) -> Any:
    """Return `value` as the type that a field is annotated with; raises `ConfigError` where it is of another."""
    if get_origin(hint) in (UnionType, Union):
        if value is None:
            return None
        hint = next(item for item in get_args(hint) if item is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(place, f"must be a list, not {str(value)[:80]!r}")
        return tuple(_typed(get_args(hint)[0], place, item) for item in value)
    if issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in set(hint):
            raise ConfigError(place, f"must be one of {', '.join(hint)}, not {str(value)[:80]!r}")
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ConfigError(place, f"must be {words[hint]}, not {str(value)[:80]!r}")
    return value
