"""From a request to a job that trains a learngene: on which data set, with which models and configuration.

Everything is checked that can be: what a worker finds wrong after hours of training is too late.
"""

from __future__ import annotations

from typing import Any

from service.api.dependencies import Resources
from service.api.fine_tune_intake import find_dataset
from service.api.schemas.trainings import TrainingBody
from service.api.training_checks import check_config, check_description, check_size
from service.api.training_settings import Circumstances, KnownModel, anchor_models, resolve_config, train_counts
from service.domain.dataset import Dataset
from service.domain.errors import DatasetNotFoundError, ModelNotFoundError
from service.domain.job import Job, TrainingSpec
from service.domain.training import epochs_of
from service.storage.job_reader import IdempotencyKey
from tleg_core.errors import ConfigError
from tleg_core.fine_tuning import AUTO
from tleg_core.training_recipe import AnyConfig


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
    anchors = anchor_models(body)
    known = Circumstances(
        dataset=dataset,
        train_counts=train_counts(body, dataset),
        teacher=None if body.teacher is None else await _known_model(resources, body.teacher, dataset, where="teacher"),
        anchors={
            name: await _known_model(resources, model, dataset, where=f"config.anchors.{name[:80]}.model")
            for name, model in anchors.items()
        },
    )
    config = resolve_config(body, known)
    check_config(body, config, known)
    description = check_description(body, config, dataset, known)
    check_size(description, config, resources.learngene_limits.max_bytes)
    await resources.learngenes.check_name(body.name, replace=body.replace)
    settings = {"config": _settled(config, body), "holdout": body.holdout, "nproc": body.nproc}
    spec = TrainingSpec(
        name=body.name,
        dataset=dataset.id,
        teacher=body.teacher,
        licence=body.licence,
        replace=body.replace,
        settings=settings | {"epochs": epochs_of(config, anchors)} | ({"anchors": anchors} if anchors else {}),
        requested=body.requested(),
    )
    try:
        return (await resources.jobs.create(spec, key=key))[0]
    except DatasetNotFoundError as error:  # deleted since
        raise ConfigError("dataset", str(error)) from error


async def _known_model(resources: Resources, model_id: str, dataset: Dataset, *, where: str) -> KnownModel:
    """Return a model; raises `ConfigError` unless there is one, of the data set's classes in the same order."""
    try:
        model = (await resources.store.get(model_id)).model
    except ModelNotFoundError as error:
        raise ConfigError(where, str(error)) from error
    await resources.learngenes.provide_for(model)
    usage = resources.catalogue.usage(model)
    if usage.class_names != dataset.class_names:
        raise ConfigError(where, f"{model.id} has not the data set's classes in the same order")
    return KnownModel(model=model, preprocessing=usage.preprocessing)


def _settled(config: AnyConfig, body: TrainingBody) -> dict[str, Any]:
    """Return the configuration as JSON; where nobody asked for a precision, the worker's device decides."""
    value = config.to_json()
    if body.recipe is None and "precision" not in body.config.get("training", {}):
        value["training"]["precision"] = AUTO
    return value
