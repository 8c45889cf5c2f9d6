"""The whole configuration of a training, from what a user says of it: defaults come from a recipe, the data set and its models.

Every error names its place in the body. What is checked against the configuration afterwards is `training_checks`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.api.schemas.trainings import TrainingBody
from service.domain.dataset import Dataset
from service.domain.model import Model
from tleg_core.anchor_config import AnchorRule
from tleg_core.description import Method, Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.fine_tuning import held_out_count
from tleg_core.inheritance_config import InheritanceConfig, SelectionRule, Stability
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.learngene_defaults import default_config
from tleg_core.pool_config import PoolConfig
from tleg_core.training_recipe import AnyConfig, config_kind, read_recipe, recipe_names

_Sections = dict[str, Any]

_OF_NETWORK = ("img_size", "patch_size", "class_token")  # that a pool's anchors share


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model of this server that a training begins with, and how its input is made."""

    model: Model
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What defaults follow from.

    Args:
        dataset: What is trained on.
        train_counts: Training images of each class, the held-out ones taken off.
        teacher: The ancestry model, if there is one.
        anchors: A pool's anchors that are models already, by the anchor's name.
    """

    dataset: Dataset
    train_counts: tuple[int, ...]
    teacher: KnownModel | None
    anchors: Mapping[str, KnownModel]

    @property
    def num_train(self) -> int:
        """Training images."""
        return sum(self.train_counts)


def train_counts(body: TrainingBody, dataset: Dataset) -> tuple[int, ...]:
    """Return how many images of each class are trained on."""
    if dataset.num_test:
        return tuple(dataset.train_counts)
    return tuple(count - held_out_count(count, body.holdout) for count in dataset.train_counts)


def anchor_models(body: TrainingBody) -> dict[str, str]:
    """Return the ids of models that are to be a pool's anchors, by the anchor's name; raises `ConfigError`."""
    anchors = body.config.get("anchors")
    found: dict[str, Any] = {}
    if isinstance(anchors, Mapping):
        for place, value in anchors.items():
            name, _, field_name = str(place).partition(".")
            if field_name == "model":
                found[name] = value
    elif isinstance(anchors, list):
        for at, anchor in enumerate(anchors):
            if isinstance(anchor, Mapping) and "model" in anchor:
                own_name = anchor.get("name")
                if not isinstance(own_name, str):
                    raise ConfigError(f"config.anchors.{at}.name", "must be a word")
                found[own_name] = anchor["model"]
    for name, model in found.items():
        if not isinstance(model, str):
            raise ConfigError(f"config.anchors.{name[:80]}.model", "must be the id of a model")
    return found


def resolve_config(body: TrainingBody, known: Circumstances) -> AnyConfig:
    """Return the whole configuration; raises `ConfigError` with the place in the body."""
    if body.recipe is not None and body.recipe not in recipe_names():
        raise ConfigError("recipe", f"must be one of {', '.join(recipe_names()) or 'none'}, not {body.recipe[:80]!r}")
    for section, values in body.config.items():
        if not isinstance(values, Mapping) and not (section == "anchors" and isinstance(values, list)):
            raise ConfigError(f"config.{section[:80]}", "must be an object")
    recipe = None if body.recipe is None else read_recipe(body.recipe)
    kind = config_kind(body.config) if recipe is None else type(recipe)
    try:
        if kind is PoolConfig:
            return _pool(body, known, recipe)
        if kind is InheritanceConfig:
            return _inheritance(body, known, recipe)
        return _learngene(body, known, recipe)
    except ConfigError as error:
        raise ConfigError(f"config.{error.field}", error.reason) from error
    except OverflowError as error:
        raise ConfigError("config", "holds a number that is too large") from error


def _learngene(body: TrainingBody, known: Circumstances, recipe: AnyConfig | None) -> LearngeneConfig:
    has_teacher = known.teacher is not None
    if isinstance(recipe, LearngeneConfig):
        base = recipe if has_teacher else recipe.with_changes({"distillation": {"alpha": 0.0}})
    else:
        base = _default(body, known, known.num_train)
    fitting = _copied(body.config)
    depths = fitting.get("depths", {})
    train = depths.get("train")
    if isinstance(train, int) and "train_min" not in depths:
        depths["train_min"] = max(1, base.depths.train_min * train // base.depths.train)
    if isinstance(train, int) and "offer_max" not in depths:
        depths["offer_max"] = max(base.depths.offer_max, train)
    _fit_warmup(fitting, "training", base.training.warmup_epochs)
    return base.with_changes(fitting)


def _pool(body: TrainingBody, known: Circumstances, recipe: AnyConfig | None) -> PoolConfig:
    asked = _with_model_sizes(_copied(body.config), known.anchors)
    if isinstance(recipe, PoolConfig):
        _fit_warmup(asked, "training", recipe.training.warmup_epochs)
        _fit_warmup(asked, "joint", recipe.joint.warmup_epochs)
        return recipe.with_changes(_without_teacher(recipe, asked, known))
    defaults = _default(body, known, known.num_train).to_json()
    network = {name: defaults["network"][name] for name in ("img_size", "patch_size")}
    learning: _Sections = {}
    if known.teacher is not None and asked.get("pool", {}).get("method", Method.POOL) == Method.POOL:
        learning = {"rule": AnchorRule.DISTILLED.value}
    distilled = asked.get("anchor_training", {}).get("rule", learning.get("rule")) == AnchorRule.DISTILLED
    shown = [*known.anchors.values(), *([known.teacher] if known.teacher is not None and distilled else [])]
    if shown:
        network = {name: getattr(shown[0].model.stack.first, name) for name in _OF_NETWORK}
    base = {"network": network, "training": defaults["training"], "augmentation": defaults["augmentation"]}
    base |= {"anchor_training": learning}
    if known.anchors:
        shared = shown[0].preprocessing
        base["preprocessing"] = {"mean": list(shared.mean), "std": list(shared.std)}
        base["preprocessing"] |= {"interpolation": shared.interpolation, "crop_pct": shared.crop_pct}
    if known.teacher is None:
        base["joint"] = {"alpha": 0.0}
    _fit_warmup(asked, "training", base["training"]["warmup_epochs"])
    return PoolConfig.from_json(_merged(base, asked))


def _without_teacher(recipe: PoolConfig, asked: _Sections, known: Circumstances) -> _Sections:
    """Return the changes, and that labels alone teach what the recipe has logits for, where there is no ancestry model.

    Distilled anchors cannot do without one.
    """
    if known.teacher is not None:
        return asked
    rule = asked.get("anchor_training", {}).get("rule", recipe.anchor_training.rule)
    labels: _Sections = {"joint": {"alpha": 0.0}}
    if rule == AnchorRule.ALONE:
        labels["anchor_training"] = {"alpha": 0.0}
    return _merged(labels, asked)


def _inheritance(body: TrainingBody, known: Circumstances, recipe: AnyConfig | None) -> InheritanceConfig:
    asked = _copied(body.config)
    if isinstance(recipe, InheritanceConfig):
        _fit_warmup(asked, "training", recipe.training.warmup_epochs)
        return recipe.with_changes(asked)
    rule = asked["selection"].get("rule", SelectionRule.STABILITY)
    if rule == SelectionRule.STABILITY:  # each task has its own epochs, on the images of its classes
        classes = asked.get("stability", {}).get("classes_per_task", Stability().classes_per_task)
        tasks = asked.get("stability", {}).get("num_tasks", Stability().num_tasks)
        present = sorted(count for count in known.train_counts if count)
        fewest = sum(present[: classes if isinstance(classes, int) and classes > 0 else 1]) or 1
        defaults = _default(body, known, fewest).to_json()
        epochs = max(1, defaults["training"]["epochs"] // (tasks if isinstance(tasks, int) and tasks > 0 else 1))
        defaults["training"] |= {"epochs": epochs, "warmup_epochs": epochs // 10}
    else:
        defaults = _default(body, known, known.num_train).to_json()
    base = {"training": defaults["training"], "augmentation": defaults["augmentation"]}
    _fit_warmup(asked, "training", base["training"]["warmup_epochs"])
    return InheritanceConfig.from_json(_merged(base, asked))


def _default(body: TrainingBody, known: Circumstances, num_train: int) -> LearngeneConfig:
    """Return what a basis would be trained like, so that every method's defaults are alike."""
    network = body.config.get("network", {})
    asked = network.get("img_size") if isinstance(network, Mapping) else None
    side = asked if isinstance(asked, int) and asked > 0 else known.dataset.min_side
    return default_config(num_train=num_train, min_side=side, has_teacher=known.teacher is not None, nproc=body.nproc)


def _with_model_sizes(asked: _Sections, anchors: Mapping[str, KnownModel]) -> _Sections:
    """Return the sections without the anchors' models, and with width, heads and depth of these where they are not said."""
    given = asked.get("anchors")
    if isinstance(given, Mapping):
        sizes = {f"{name}.{part}": size for name, known in anchors.items() for part, size in _sizes(known.model).items()}
        said = {place: value for place, value in given.items() if not str(place).endswith(".model")}
        return asked | {"anchors": sizes | said}
    if isinstance(given, list):
        entries = []
        for anchor in given:
            if isinstance(anchor, Mapping) and "model" in anchor:
                said = {name: value for name, value in anchor.items() if name != "model"}
                entries.append(_sizes(anchors[anchor["name"]].model) | said)
            else:
                entries.append(anchor)
        return asked | {"anchors": entries}
    return asked


def _sizes(model: Model) -> dict[str, int]:
    config = model.stack.first
    return {"embed_dim": config.embed_dim, "num_heads": config.num_heads, "depth": model.stack.depth}


def _fit_warmup(asked: _Sections, section: str, warmup_epochs: int) -> None:
    """Shorten the warm-up with the epochs, unless it is said too."""
    values = asked.get(section, {})
    epochs = values.get("epochs")
    if isinstance(epochs, int) and epochs > 0 and "warmup_epochs" not in values:
        values["warmup_epochs"] = min(warmup_epochs, epochs // 10)


def _copied(sections: Mapping[str, Any]) -> _Sections:
    return {name: dict(values) if isinstance(values, Mapping) else values for name, values in sections.items()}


def _merged(base: _Sections, asked: _Sections) -> _Sections:
    """Return sections in which what is asked for takes the place of the base's, field by field."""
    merged = dict(base)
    for name, values in asked.items():
        merged[name] = merged.get(name, {}) | values if isinstance(values, Mapping) else values
    return merged
