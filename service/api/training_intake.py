"""From a request to a job that trains a learngene: on which data set, with which teacher and configuration.

Everything is checked that can be: what a worker finds wrong after hours of training is too late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from service.api.dependencies import Resources
from service.api.fine_tune_intake import find_dataset
from service.api.schemas.trainings import TrainingBody
from service.domain.dataset import Dataset
from service.domain.errors import DatasetNotFoundError, ModelNotFoundError
from service.domain.job import Job, TrainingSpec
from service.domain.published_learngene import RESERVED_NAMES
from service.domain.training import provenance_of
from service.storage.job_reader import IdempotencyKey
from tleg_core.designs.basis import basis_shapes
from tleg_core.errors import ConfigError
from tleg_core.fine_tuning import AUTO, held_out_count
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.learngene_defaults import default_config
from tleg_core.training_description import describe_learngene
from tleg_core.training_recipe import learngene_recipe, recipe_names


async def accept_training(resources: Resources, body: TrainingBody, key: IdempotencyKey | None) -> Job:
    """Record what `POST /learngenes/trainings` asks for.

    Raises:
        ConfigError: A field is not valid, or names no recipe, model or data set.
        LearngeneTakenError: The name is another learngene's.
        LearngeneInTrainingError: A job trains a learngene of that name.
        IdempotencyKeyReusedError: The key came with another request before.
    """
    before = await resources.jobs.find(key) if key else None
    if before is not None:
        return before
    dataset = await find_dataset(resources, body.dataset)
    if body.teacher is not None:
        await _check_teacher(resources, body.teacher, dataset)
    config = resolve_config(body, dataset)
    _check_description(body, config, dataset)
    _check_size(config, dataset, resources.learngene_limits.max_bytes)
    await resources.learngenes.check_name(body.name, replace=body.replace)
    spec = TrainingSpec(
        name=body.name,
        dataset=dataset.id,
        teacher=body.teacher,
        licence=body.licence,
        replace=body.replace,
        settings={"config": _settled(config, body), "holdout": body.holdout, "nproc": body.nproc},
        requested=body.requested(),
    )
    try:
        return (await resources.jobs.create(spec, key=key))[0]
    except DatasetNotFoundError as error:  # deleted since
        raise ConfigError("dataset", str(error)) from error


async def _check_teacher(resources: Resources, teacher: str, dataset: Dataset) -> None:
    """Raise `ConfigError` unless there is such a model, of the data set's classes in the same order."""
    try:
        model = (await resources.store.get(teacher)).model
    except ModelNotFoundError as error:
        raise ConfigError("teacher", str(error)) from error
    await resources.learngenes.provide_for(model)
    if resources.catalogue.usage(model).class_names != dataset.class_names:
        raise ConfigError("teacher", f"{model.id} has not the data set's classes in the same order")


def resolve_config(body: TrainingBody, dataset: Dataset) -> LearngeneConfig:
    """Return the whole configuration; raises `ConfigError` with the place in the body."""
    if body.recipe is not None and body.recipe not in recipe_names():
        raise ConfigError("recipe", f"must be one of {', '.join(recipe_names()) or 'none'}, not {body.recipe[:80]!r}")
    num_train = dataset.num_train
    if not dataset.num_test:
        num_train = sum(count - held_out_count(count, body.holdout) for count in dataset.train_counts)
    has_teacher = body.teacher is not None
    if body.recipe is not None:
        base = learngene_recipe(body.recipe)
        if not has_teacher:
            base = base.with_changes({"distillation": {"alpha": 0.0}})
    else:
        base = default_config(num_train=num_train, min_side=_side(body, dataset), has_teacher=has_teacher, nproc=body.nproc)
    try:
        config = base.with_changes(_fitting(body.config, base))
    except ConfigError as error:
        raise ConfigError(f"config.{error.field}", error.reason) from error
    except OverflowError as error:
        raise ConfigError("config", "holds a number that is too large") from error
    training, alpha = config.training, config.distillation.alpha
    if not has_teacher and alpha:
        raise ConfigError("config.distillation.alpha", f"is {alpha:g}, but there is no teacher")
    if has_teacher and not alpha:
        raise ConfigError("config.distillation.alpha", "is 0: the teacher has no use")
    if training.batch_size > num_train:
        raise ConfigError("config.training.batch_size", f"{training.batch_size} is more than the {num_train} training images")
    if training.batch_size % body.nproc:
        raise ConfigError("config.training.batch_size", f"{training.batch_size} is not a multiple of nproc {body.nproc}")
    return config


def _side(body: TrainingBody, dataset: Dataset) -> int:
    """Return the side, in pixels, that the defaults are made for: the one that is asked for, or that of the smallest image."""
    asked = body.config.get("network", {}).get("img_size")
    return asked if isinstance(asked, int) and asked > 0 else dataset.min_side


def _fitting(changes: Mapping[str, Mapping[str, Any]], base: LearngeneConfig) -> dict[str, dict[str, Any]]:
    """Return the changes, and with fewer epochs or another depth what must follow unless it is said too."""
    fitting = {section: dict(values) for section, values in changes.items()}
    training, depths = fitting.get("training", {}), fitting.get("depths", {})
    epochs, train = training.get("epochs"), depths.get("train")
    if isinstance(epochs, int) and epochs > 0 and "warmup_epochs" not in training:
        training["warmup_epochs"] = min(base.training.warmup_epochs, epochs // 10)
    if isinstance(train, int) and "train_min" not in depths:
        depths["train_min"] = max(1, base.depths.train_min * train // base.depths.train)
    if isinstance(train, int) and "offer_max" not in depths:
        depths["offer_max"] = max(base.depths.offer_max, train)
    return fitting


def _check_description(body: TrainingBody, config: LearngeneConfig, dataset: Dataset) -> None:
    """Raise `ConfigError` unless a learngene can say all that this one will."""
    if body.name in RESERVED_NAMES:
        raise ConfigError("name", f"{body.name} is a path of this server; choose another")
    provenance = provenance_of(
        dataset, config, name=body.name, images=dataset.num_train, teacher=body.teacher, licence=body.licence
    )
    try:
        describe_learngene(body.name, config, provenance, dataset.class_names, config.preprocessing)
    except ConfigError as error:
        text = "dataset" if body.licence.isprintable() else "licence"
        places = {"name": "name", "provenance": text, "class_names": "dataset"}
        raise ConfigError(places.get(error.field, f"config.{error.field}"), error.reason) from error


def _check_size(config: LearngeneConfig, dataset: Dataset, max_bytes: int) -> None:
    """Raise `ConfigError` where the learngene would be too large to be published."""
    shapes = basis_shapes(config.network.vit(len(dataset.class_names)), config.schedule.build().num_components)
    size = 4 * sum(math.prod(shape) for shape in shapes.values())  # float32
    if size > max_bytes:
        raise ConfigError("config.network", f"makes a learngene of {size:,} bytes; this server takes {max_bytes:,}")


def _settled(config: LearngeneConfig, body: TrainingBody) -> dict[str, Any]:
    """Return the configuration as JSON; where nobody asked for a precision, the worker's device decides."""
    value = config.to_json()
    if body.recipe is None and "precision" not in body.config.get("training", {}):
        value["training"]["precision"] = AUTO
    return value
