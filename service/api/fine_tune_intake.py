"""From a request to a job: which model, on which data set, with which settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.api.dependencies import Resources
from service.api.schemas.fine_tunes import FineTuneBody, FineTuneSettingsBody
from service.domain.catalogue import Catalogue, ModelRequest
from service.domain.dataset import Dataset
from service.domain.errors import DatasetNotFoundError, ModelNotFoundError
from service.domain.job import FineTuneSpec, Job
from service.domain.model import Model, Selection
from service.storage.job_reader import IdempotencyKey
from tleg_core.budget import Objective
from tleg_core.errors import ConfigError
from tleg_core.family import Variation
from tleg_core.fine_tuning import NAMES, FineTuneFacts, FineTuneSettings, held_out_count
from tleg_core.recipe import Head


async def accept_fine_tune(resources: Resources, body: FineTuneBody, key: IdempotencyKey | None) -> Job:
    """Record what `POST /fine-tunes` asks for; a budget's model is recorded as `POST /models` does.

    Raises:
        ConfigError: A field is not valid, or names no model or data set.
        BudgetInfeasibleError: Nothing fits the budget.
        IdempotencyKeyReusedError: The key came with another request before.
    """
    before = await resources.jobs.find(key) if key else None
    if before is not None:
        return before
    dataset = await find_dataset(resources, body.dataset)
    if body.model is not None:
        try:
            model = (await resources.store.get(body.model)).model
        except ModelNotFoundError as error:
            raise ConfigError("model", str(error)) from error
    else:
        await resources.learngenes.look_for(body.learngene)
        model = (await select_for(resources, _model_request(body), dataset)).model
    return await start_fine_tune(resources, model, dataset, body.settings, key)


async def start_fine_tune(
    resources: Resources,
    model: Model,
    dataset: Dataset,
    settings: FineTuneSettingsBody,
    key: IdempotencyKey | None,
    *,
    where: str = "",
) -> Job:
    """Record the job that fine-tunes `model`, and the model too; `where` is the settings' place in the body, such as `a.`.

    Raises:
        ConfigError: A setting is not valid, or the data set cannot be trained on.
        IdempotencyKeyReusedError: The key came with another request before.
    """
    await resources.learngenes.provide_for(model)
    try:
        resolved = resolve_settings(resources.catalogue, model, dataset, settings)
    except ConfigError as error:
        raise ConfigError(f"{where}{error.field}", error.reason) from error
    await resources.store.add(model)
    spec = FineTuneSpec(model=model.id, dataset=dataset.id, settings=resolved.to_json(), requested=settings.requested())
    try:
        return (await resources.jobs.create(spec, key=key))[0]
    except DatasetNotFoundError as error:  # deleted since
        raise ConfigError(f"{where}dataset", str(error)) from error


async def find_dataset(resources: Resources, dataset_id: str, *, where: str = "") -> Dataset:
    """Return the data set that a body names; raises `ConfigError` where there is none, or nothing to learn from it."""
    try:
        dataset = (await resources.datasets.get(dataset_id)).dataset
    except DatasetNotFoundError as error:
        raise ConfigError(f"{where}dataset", str(error)) from error
    classes = sum(count > 0 for count in dataset.train_counts)
    if classes < 2:
        raise ConfigError(f"{where}dataset", f"{classes} of its classes have training images; at least 2 must")
    return dataset


async def select_for(resources: Resources, request: ModelRequest, dataset: Dataset) -> Selection:
    """Return the best model for a data set: with its classes, where the request names no number of its own.

    The learngene's head is inherited where the classes are the learngene's own by name, and is zero otherwise.

    Raises:
        ConfigError: No such learngene or method, or none that can be varied so.
        BudgetInfeasibleError: Nothing fits.
        LearngeneNotLoadedError: The learngene was deleted just now.
    """
    if request.head is not None or request.variation.num_classes is not None:
        return await resources.resolve(request)
    variation = replace(request.variation, num_classes=len(dataset.class_names))
    selection = await resources.resolve(replace(request, variation=variation))
    same = resources.catalogue.usage(selection.model).class_names == dataset.class_names
    if selection.model.recipe.head is Head.INHERIT and not same:
        selection = await resources.resolve(replace(request, variation=variation, head=Head.ZERO))
    return selection


def resolve_settings(catalogue: Catalogue, model: Model, dataset: Dataset, settings: FineTuneSettingsBody) -> FineTuneSettings:
    """Return every setting, decided; raises `ConfigError` with the place in the body."""
    facts = FineTuneFacts(
        num_train=dataset.num_train,
        num_classes=len(dataset.class_names),
        has_test_split=dataset.num_test > 0,
        img_size=model.recipe.img_size,
        depth=model.recipe.member.depth,
        same_classes=catalogue.usage(model).class_names == dataset.class_names,
    )
    requested: dict[str, Any] = settings.requested()
    try:
        resolved = FineTuneSettings.resolve(requested, facts)
        if not facts.has_test_split:  # the part that is held out is a setting too
            facts = replace(facts, num_train=_num_train(dataset, resolved.holdout))
            resolved = FineTuneSettings.resolve(requested, facts)
    except ConfigError as error:
        raise ConfigError(f"settings.{error.field}" if error.field in NAMES else error.field, error.reason) from error
    return resolved


def _num_train(dataset: Dataset, holdout: float) -> int:
    """Return how many images remain for training."""
    return sum(count - held_out_count(count, holdout) for count in dataset.train_counts)


def _model_request(body: FineTuneBody) -> ModelRequest:
    budget = body.budget
    if budget is None:
        raise ConfigError("budget", "is missing")
    return ModelRequest(
        budget=budget.to_domain(),
        variation=Variation(img_size=body.image_size, batch_size=budget.batch_size),
        learngene=body.learngene,
        method=body.method,
        objective=body.objective or Objective.ACCURACY,
        accuracy_on=body.accuracy_on,
    )
