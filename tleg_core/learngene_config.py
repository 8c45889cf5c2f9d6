"""How a learngene is trained: network, schedule, depths, loss and run, as one TOML file or JSON object.

Torch-free; what it does is `training.learngene_run`'s business. Errors name the field by its place, such as `training.lr`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from tleg_core.config_section import Sectioned, check_sections, read_section
from tleg_core.description import Method, Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.schedule import Polynomial, Schedule, Spline, Stagewise
from tleg_core.training_config import Augmentation, TrainingConfig, within
from tleg_core.vit import MAX_DEPTH, VIT_SIZES, VitConfig


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
                case _:
                    raise ConfigError("method", f"{self.method} has no schedule that is trained")
        except ConfigError as error:
            raise ConfigError(error.field.removeprefix("schedule."), error.reason) from error


def read_training(value: Mapping[str, Any]) -> TrainingConfig:
    """Return the training that the sections `training` and `augmentation` say; raises `ConfigError`."""
    training = value.get("training", {})
    if isinstance(training, Mapping) and "augmentation" in training:
        raise ConfigError("training.augmentation", "is a section of its own, augmentation")
    augmentation = read_section(Augmentation, "augmentation", value.get("augmentation", {}))
    return read_section(TrainingConfig, "training", training, augmentation=augmentation)


def check_channels(preprocessing: Preprocessing) -> None:
    """Raise `ConfigError` unless it is of three channels, as every picture that is trained on has."""
    for name in ("mean", "std"):
        if len(getattr(preprocessing, name)) != _CHANNELS:
            raise ConfigError(f"preprocessing.{name}", f"must be {_CHANNELS} numbers, one for each channel")


_CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LearngeneConfig(Sectioned):
    """How a learngene is trained. The sections of its TOML file are its fields, and `augmentation` that of `training`."""

    training: TrainingConfig
    network: NetworkShape = field(default_factory=NetworkShape)
    schedule: ScheduleChoice = field(default_factory=ScheduleChoice)
    depths: Depths = field(default_factory=Depths)
    distillation: Distillation = field(default_factory=Distillation)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        check_channels(self.preprocessing)
        low = self.schedule.build().min_depth
        smallest = self.depths.train if self.depths.rule is DepthRule.FIXED else self.depths.train_min
        for name, depth in (("train", smallest), ("offer_min", self.depths.offer_min)):
            if depth < low:
                raise ConfigError(f"depths.{name}", f"must be at least {low} with this schedule, not {depth}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; what is missing has its default. Raises as `from_toml` does."""
        check_sections(value, {item.name for item in fields(cls)} | {"augmentation"})
        return cls(
            training=read_training(value),
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

    def with_seed(self, seed: int) -> Self:
        """Return this configuration with another seed."""
        return replace(self, training=replace(self.training, seed=seed))
