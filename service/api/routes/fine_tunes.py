"""Fine-tunes: a model and a data set in, a job that ends in a model of the data set's classes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from service.api.dependencies import AfterQuery, LimitQuery, ResourcesDep
from service.api.fine_tune_intake import accept_fine_tune
from service.api.idempotency import IdempotencyHeader, idempotency_key
from service.api.job_routes import ACCEPTED_HEADERS, DatasetQuery, JobId, StatusQuery, accepted, add_job_routes, checked_id
from service.api.schemas.fine_tunes import CheckpointList, CheckpointResource, FineTuneBody, FineTuneList, FineTuneResource
from service.api.schemas.problems import problem_responses
from service.domain.job import JobKind

router = APIRouter(prefix="/fine-tunes", tags=["fine-tunes"])

ModelQuery = Annotated[str | None, Query(max_length=64, description="Only jobs that start from this model.")]


@router.post(
    "",
    status_code=202,
    summary="Fine-tune a model",
    response_model=FineTuneResource,
    responses={202: {"headers": ACCEPTED_HEADERS}, **problem_responses(400, 413, 503)},
)
async def create_fine_tune(resources: ResourcesDep, body: FineTuneBody, idempotency: IdempotencyHeader = None) -> Response:
    """Accept a job. It is durable when the answer is sent; a worker takes it when one is free.

    What is left out of `settings` is derived from the data set and the network; the answer says what.
    """
    job = await accept_fine_tune(resources, body, idempotency_key(idempotency, "POST /fine-tunes", body))
    return accepted(FineTuneResource.of(job))


@router.get("", summary="List fine-tunes", responses=problem_responses(503))
async def list_fine_tunes(
    *,
    resources: ResourcesDep,
    limit: LimitQuery = 20,
    after: AfterQuery = None,
    status: StatusQuery = None,
    model: ModelQuery = None,
    dataset: DatasetQuery = None,
) -> FineTuneList:
    """Return jobs, newest first, all or those that the filters leave."""
    page = await resources.jobs.page(
        limit=limit, after=after, status=status, model=model, dataset=dataset, kind=JobKind.FINE_TUNE
    )
    return FineTuneList(data=[FineTuneResource.of(job) for job in page.jobs], has_more=page.has_more)


add_job_routes(router, JobKind.FINE_TUNE, FineTuneResource, "a fine-tune")


@router.get("/{job_id}/checkpoints", summary="Checkpoints of a fine-tune", responses=problem_responses(404, 503))
async def list_checkpoints(resources: ResourcesDep, job_id: JobId) -> CheckpointList:
    """Return what a job has kept so far: each is a model like any other, also where the job goes on or has failed."""
    checkpoints = await resources.jobs.checkpoints(checked_id(job_id, JobKind.FINE_TUNE))
    return CheckpointList(data=[CheckpointResource.of(item) for item in checkpoints])
