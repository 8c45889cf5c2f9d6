"""How layers of an ancestry model become a learngene: the rule that chooses them, and the training that the rule looks at.

One TOML file or JSON object, as `learngene_config`'s; the section `[selection]` tells them apart. The network, its classes and
its preprocessing are the ancestry model's. Torch-free; what it does is `training.inheritance_run`'s business.

Sources: Heur-LG (arXiv 2106.06788), Auto-LG (arXiv 2305.02279).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self, TypeVar

from tleg_core.config_section import Sectioned, check_sections, read_section
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import read_training
from tleg_core.schedule import MAX_COMPONENTS
from tleg_core.training_config import Precision, TrainingConfig, within
from tleg_core.vit import MAX_DEPTH

DEFAULT_LAYERS = 6
"""Layers that are inherited where nobody says: Auto-LG's six of DINO ViT-S."""

_MANY = 1_000_000  # limit of counts of images


class SelectionRule(StrEnum):
    """How the layers are chosen."""

    STABILITY = "stability"
    """Heur-LG: those whose gradients stay small, and alike from task to task."""
    TRANSFER = "transfer"
    """Auto-LG: those that a pseudo-descendant learns most from, by meta-learned weights."""
    GIVEN = "given"
    """By hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionChoice:
    """Which layers are inherited.

    Args:
        rule: How they are chosen.
        num_layers: K, how many; 6 where nobody says.
        layers: Which ones, of the ancestry from 0, with the rule `given`: such as its first two and its last four, as in
            Auto-LG's code for DINO ViT-S.
    """

    rule: SelectionRule = SelectionRule.STABILITY
    num_layers: int | None = None
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.rule is SelectionRule.GIVEN) != (self.layers is not None):
            raise ConfigError("layers", f"are named exactly with rule {SelectionRule.GIVEN}")
        if self.layers is not None:
            if self.num_layers is not None:
                raise ConfigError("num_layers", f"is not chosen with rule {self.rule}: it is the number of layers")
            if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
                raise ConfigError("layers", f"must ascend from 0 at least, not {list(self.layers)[:20]}")
        if not 1 <= self.count <= MAX_COMPONENTS:
            raise ConfigError("num_layers", f"must be from 1 to {MAX_COMPONENTS}, not {self.count}")

    @property
    def count(self) -> int:
        """K."""
        if self.layers is not None:
            return len(self.layers)
        return DEFAULT_LAYERS if self.num_layers is None else self.num_layers


class GradientSign(StrEnum):
    """Which entries of a gradient are above the threshold."""

    ABSOLUTE = "absolute"
    """|g| > threshold."""
    POSITIVE = "positive"
    """g > threshold: the authors' code, which leaves out what is as far below zero."""


class TaskStart(StrEnum):
    """What a task of the sequence begins from."""

    PREVIOUS = "previous"
    """The weights that the task before left: one model that collects what all of them teach."""
    ANCESTRY = "ancestry"
    """A copy of the ancestry's weights: the tasks know nothing of each other."""


class CarriedWeights(StrEnum):
    """Whose weights the learngene has."""

    COLLECTIVE = "collective"
    """Those after the last task, as in the paper."""
    ANCESTRY = "ancestry"
    """The ancestry's, as they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """Heur-LG's sequence of tasks; each is trained as `[training]` says, for its number of epochs.

    Args:
        num_tasks: Tasks, one after the other.
        classes_per_task: Classes of the data set that a task tells apart, drawn by the seed for each.
        windows: Equal parts of a task, for each of which a layer has a rate of its own.
        threshold: What a gradient's entry is compared with, as it is; None to take it from the gradients themselves.
        threshold_quantile: With threshold None: the quantile, 0..1, of the ancestry's |g| over all layers on the first batch of
            the first task, fixed from there on. The authors' 5e-10 lies below almost every entry of a ViT's gradients, and
            would tell no layer from another.
        sign: Which entries count.
        start: What each task begins from.
        weights: Whose weights the learngene has.
        ewc_lambda: Weight of elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796), which holds weights that
            earlier tasks needed; 0 for none. 40 is the authors', whose own penalty is 0 by a defect.
        fisher_images: Images of a task that its Fisher information is estimated from.
    """

    num_tasks: int = 5
    classes_per_task: int = 5
    windows: int = 4
    threshold: float | None = None
    threshold_quantile: float = 0.5
    sign: GradientSign = GradientSign.ABSOLUTE
    start: TaskStart = TaskStart.PREVIOUS
    weights: CarriedWeights = CarriedWeights.COLLECTIVE
    ewc_lambda: float = 40.0
    fisher_images: int = 128

    def __post_init__(self) -> None:
        within("num_tasks", self.num_tasks, 1, 1000)
        within("classes_per_task", self.classes_per_task, 2, 65_536)
        within("windows", self.windows, 1, 100)
        if self.threshold is not None:
            within("threshold", self.threshold, 0.0, 1e6)
        within("threshold_quantile", self.threshold_quantile, 0.0, 1.0)
        within("ewc_lambda", self.ewc_lambda, 0.0, 1e12)
        within("fisher_images", self.fisher_images, 1, _MANY)
        if self.start is TaskStart.ANCESTRY:
            if self.weights is CarriedWeights.COLLECTIVE:
                raise ConfigError("weights", f"must be {CarriedWeights.ANCESTRY} where each task starts from the ancestry")
            if self.ewc_lambda:
                raise ConfigError("ewc_lambda", "must be 0 where each task starts from the ancestry: nothing can be forgotten")

    def lacking_updates(self, updates: int, whose: str) -> str:
        """Return the words for fewer updates than windows, and what to do; `whose` is such as `task 0 has`."""
        return (
            f"{self.windows} is more than the {updates} update{'' if updates == 1 else 's'} that {whose}: take a smaller "
            "training.batch_size, more training.epochs, fewer stability.windows or more images"
        )


class MatchCriterion(StrEnum):
    """How far two features are from each other: the mean over tokens and channels."""

    ABSOLUTE = "absolute"
    """Of |s - t|: Auto-LG's for ViTs."""
    SQUARED = "squared"
    """Of (s - t)^2: its and Jang et al.'s for convolutional networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Auto-LG's bilevel training of a pseudo-descendant; its own training is as `[training]` says.

    Args:
        depth: Layers of the pseudo-descendant, 6 in the paper.
        inner_steps: T, steps on the matching loss alone in the look-ahead; 2 in the paper for ViTs.
        inner_lr: Learning rate of the look-ahead's plain gradient descent.
        match_weight: Weight of the matching loss beside the cross-entropy, 0.1 in the paper for ViTs.
        meta_lr: Learning rate of the lambda nets (Adam).
        criterion: How features are compared.
        meta_images: Images of the one batch that the look-ahead's matching is computed on.
        score_images: Images that the scores are the mean over.
    """

    depth: int = 6
    inner_steps: int = 2
    inner_lr: float = 0.1
    match_weight: float = 0.1
    meta_lr: float = 1e-4
    criterion: MatchCriterion = MatchCriterion.ABSOLUTE
    meta_images: int = 64
    score_images: int = 1000

    def __post_init__(self) -> None:
        within("depth", self.depth, 1, MAX_DEPTH)
        within("inner_steps", self.inner_steps, 1, 20)
        for name in ("inner_lr", "meta_lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigError(name, f"must be a finite number above 0, not {value}")
        within("match_weight", self.match_weight, 0.0, 1e6)
        within("meta_images", self.meta_images, 1, _MANY)
        within("score_images", self.score_images, 1, _MANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedDepths:
    """The depths of the descendants that are offered; in each, the layers that are not inherited are fresh.

    Args:
        offer_min: The smallest; None for the number of inherited layers.
        offer_max: The largest.
    """

    offer_min: int | None = None
    offer_max: int = 12

    def __post_init__(self) -> None:
        if not 1 <= (self.offer_min or 1) <= self.offer_max <= MAX_DEPTH or self.offer_min == 0:
            raise ConfigError(
                "offer_min",
                f"and offer_max must lie within 1..{MAX_DEPTH}, the smaller first, not {self.offer_min}, {self.offer_max}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritanceConfig(Sectioned):
    """How layers are chosen and inherited. The sections of its TOML file are its fields, and `augmentation` that of `training`.

    `stability` is there exactly with that rule, and `transfer` with that one.
    """

    training: TrainingConfig
    selection: SelectionChoice = field(default_factory=SelectionChoice)
    stability: Stability | None = None
    transfer: Transfer | None = None
    depths: OfferedDepths = field(default_factory=OfferedDepths)

    def __post_init__(self) -> None:
        rule = self.selection.rule
        for section in (SelectionRule.STABILITY, SelectionRule.TRANSFER):
            if (getattr(self, section.value) is not None) != (rule is section):
                raise ConfigError(section.value, f"is a section of rule {section} alone; selection.rule is {rule}")
        if self.min_depth > self.depths.offer_max or self.min_depth < self.selection.count:
            raise ConfigError(
                "depths.offer_min",
                f"and offer_max must be at least {self.selection.count}, one layer for each inherited one, not "
                f"{self.depths.offer_min}, {self.depths.offer_max}",
            )
        if rule is not SelectionRule.GIVEN:
            self._check_training(rule)

    def _check_training(self, rule: SelectionRule) -> None:
        """Raise `ConfigError` where the training is one that the rule cannot look at."""
        training = self.training
        refused = [
            ("ema_decay", training.ema_decay is not None, "must be left out: the rule looks at the weights that are trained"),
            ("layer_decay", training.layer_decay != 1.0, "must be 1: layers that are trained alike are compared"),
            ("compile", training.compile, "is not done here"),
            ("precision", training.precision is Precision.FLOAT16, "must be another: float16's gradients are scaled"),
        ]
        if rule is SelectionRule.TRANSFER:
            checkpointed = training.grad_checkpointing
            refused.append(("grad_checkpointing", checkpointed, "is not done here: gradients of gradients are needed"))
        for name, is_so, reason in refused:
            if is_so:
                raise ConfigError(f"training.{name}", reason)

    @property
    def min_depth(self) -> int:
        """The smallest depth offered."""
        return self.selection.count if self.depths.offer_min is None else self.depths.offer_min

    @property
    def total_epochs(self) -> int:
        """Epochs of all that is trained."""
        if self.selection.rule is SelectionRule.GIVEN:
            return 0
        return self.training.epochs * (1 if self.stability is None else self.stability.num_tasks)

    def check_ancestry(self, depth: int) -> None:
        """Raise `ConfigError` where an ancestry of `depth` layers has fewer than are to be inherited."""
        choice = self.selection
        if choice.layers is not None and choice.layers[-1] >= depth:
            raise ConfigError("selection.layers", f"must be below the ancestry's {depth} layers, not {choice.layers[-1]}")
        if choice.count > depth:
            raise ConfigError("selection.num_layers", f"must be at most the ancestry's {depth} layers, not {choice.count}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; what is missing has its default. Raises as `from_toml` does."""
        check_sections(value, {item.name for item in fields(cls)} | {"augmentation"})
        selection = read_section(SelectionChoice, "selection", value.get("selection", {}))
        training = value.get("training", {})
        if isinstance(training, Mapping) and selection.rule is SelectionRule.GIVEN:
            value = {**value, "training": {"epochs": 1, **training}}  # nothing is trained
        return cls(
            training=read_training(value),
            selection=selection,
            stability=_of_rule(Stability, SelectionRule.STABILITY, selection.rule, value),
            transfer=_of_rule(Transfer, SelectionRule.TRANSFER, selection.rule, value),
            depths=read_section(OfferedDepths, "depths", value.get("depths", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole configuration as a JSON object, defaults included."""
        value = {name: section for name, section in asdict(self).items() if section is not None}
        value["augmentation"] = value["training"].pop("augmentation")
        if value["selection"]["layers"] is not None:
            value["selection"]["layers"] = list(value["selection"]["layers"])
        return value

    def with_seed(self, seed: int) -> Self:
        """Return this configuration with another seed."""
        return replace(self, training=replace(self.training, seed=seed))


_SectionT = TypeVar("_SectionT")


def _of_rule(kind: type[_SectionT], section: SelectionRule, rule: SelectionRule, value: Mapping[str, Any]) -> _SectionT | None:
    """Return the section of a rule: with its defaults where that rule is chosen, None where it is neither chosen nor given."""
    if rule is section or section.value in value:
        return read_section(kind, section.value, value.get(section.value, {}))
    return None
