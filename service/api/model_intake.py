"""From a request to a recorded model, and to the job that fine-tunes it where one is asked for."""

from __future__ import annotations

from dataclasses import replace

from service.api.dependencies import Resources
from service.api.fine_tune_intake import find_dataset, resolve_settings, select_for, start_fine_tune
from service.api.schemas.fine_tunes import FineTuneResource
from service.api.schemas.models import CreatedModel, FineTuneOnBody, ModelRequestBody
from service.domain.job import FineTuneSpec, Job
from service.domain.model import Selection
from service.storage.job_reader import IdempotencyKey
from tleg_core.budget import Candidate, Choice
from tleg_core.errors import BudgetInfeasibleError, ConfigError

HASHED_AT_CREATION_BYTES = 32 * 1024 * 1024
"""Up to this size the sha256 is in the answer that creates a model: some 20 ms of work; above it is computed when asked for."""

_PLACE = "fine_tune."  # of the job's fields in the body


async def take_model_request(
    resources: Resources, body: ModelRequestBody, *, key: IdempotencyKey | None = None, dry_run: bool = False
) -> tuple[CreatedModel, int]:
    """Return what a request gets, and its HTTP status: 201, 200 where it was there or nothing is recorded, 202 with a job.

    Raises:
        ConfigError: A field is not valid, or names nothing that is here.
        BudgetInfeasibleError: Nothing fits.
        IdempotencyKeyReusedError: The key came with another request before.
    """
    job: Job | None = None
    await resources.learngenes.look_for(body.learngene)
    if body.fine_tune is None:
        selection = await resources.resolve(body.to_domain())
    elif dry_run:
        selection = await _try_fine_tune(resources, body, body.fine_tune)
    else:
        selection, job = await _fine_tune(resources, body, body.fine_tune, key)
    if dry_run:
        return CreatedModel.created(selection, created_at=None, sha256=None), 200
    stored, added = await resources.store.add(selection.model)
    sha256 = stored.sha256
    if sha256 is None and selection.model.size_bytes <= HASHED_AT_CREATION_BYTES:
        sha256 = await resources.weights.sha256(selection.model)
    fine_tune = None if job is None else FineTuneResource.of(job)
    created = CreatedModel.created(selection, created_at=stored.created_at, sha256=sha256, fine_tune=fine_tune)
    return created, 202 if job is not None else 201 if added else 200


async def _try_fine_tune(resources: Resources, body: ModelRequestBody, fine_tune: FineTuneOnBody) -> Selection:
    """Return the model that would be fine-tuned, everything checked."""
    dataset = await find_dataset(resources, fine_tune.dataset, where=_PLACE)
    selection = await select_for(resources, body.to_domain(), dataset)
    try:
        resolve_settings(resources.catalogue, selection.model, dataset, fine_tune.settings)
    except ConfigError as error:
        raise ConfigError(f"{_PLACE}{error.field}", error.reason) from error
    return selection


async def _fine_tune(
    resources: Resources, body: ModelRequestBody, fine_tune: FineTuneOnBody, key: IdempotencyKey | None
) -> tuple[Selection, Job]:
    """Return the model and its job; those of before where the key came before, whatever became of the data set."""
    request = body.to_domain()
    before = await resources.jobs.find(key) if key else None
    if before is not None and isinstance(before.spec, FineTuneSpec):  # the key's request was one for a model too
        model = resources.catalogue.current((await resources.store.get(before.spec.model)).model)
        variation = replace(request.variation, num_classes=model.recipe.num_classes)
        try:
            choice = (await resources.resolve(replace(request, variation=variation, head=model.recipe.head))).choice
        except (ConfigError, BudgetInfeasibleError):  # what the request named has gone meanwhile; the model has not
            it = Candidate(learngene=model.learngene, member=model.recipe.member, cost=model.cost, accuracy=model.accuracy)
            choice = Choice(candidate=it, objective=request.objective, data_set=request.accuracy_on)
        return Selection(model=model, choice=choice), before
    dataset = await find_dataset(resources, fine_tune.dataset, where=_PLACE)
    selection = await select_for(resources, request, dataset)
    return selection, await start_fine_tune(resources, selection.model, dataset, fine_tune.settings, key, where=_PLACE)
