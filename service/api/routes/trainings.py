"""Trainings of learngenes: a data set in, a job that ends in a learngene which this server then serves."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from service.api.dependencies import AfterQuery, LimitQuery, ResourcesDep
from service.api.idempotency import IdempotencyHeader, idempotency_key
from service.api.job_routes import ACCEPTED_HEADERS, DatasetQuery, StatusQuery, accepted, add_job_routes
from service.api.schemas.problems import problem_responses
from service.api.schemas.trainings import TrainingBody, TrainingList, TrainingResource
from service.api.training_intake import accept_training
from service.domain.job import JobKind

router = APIRouter(prefix="/learngenes/trainings", tags=["trainings"])

TeacherQuery = Annotated[str | None, Query(max_length=64, description="Only jobs that learn from this model.")]


@router.post(
    "",
    status_code=202,
    summary="Train a learngene",
    response_model=TrainingResource,
    responses={202: {"headers": ACCEPTED_HEADERS}, **problem_responses(400, 409, 413, 503)},
)
async def create_training(resources: ResourcesDep, body: TrainingBody, idempotency: IdempotencyHeader = None) -> Response:
    """Accept a job. It is durable when the answer is sent; a worker takes it when one is free.

    What neither the recipe nor `config` says is derived from the data set; the answer has the whole configuration. The name is
    the job's own until it has ended.
    """
    job = await accept_training(resources, body, idempotency_key(idempotency, "POST /learngenes/trainings", body))
    return accepted(TrainingResource.of(job))


@router.get("", summary="List trainings", responses=problem_responses(503))
async def list_trainings(
    *,
    resources: ResourcesDep,
    limit: LimitQuery = 20,
    after: AfterQuery = None,
    status: StatusQuery = None,
    teacher: TeacherQuery = None,
    dataset: DatasetQuery = None,
) -> TrainingList:
    """Return jobs, newest first, all or those that the filters leave."""
    page = await resources.jobs.page(
        limit=limit, after=after, status=status, model=teacher, dataset=dataset, kind=JobKind.TRAINING
    )
    return TrainingList(data=[TrainingResource.of(job) for job in page.jobs], has_more=page.has_more)


add_job_routes(router, JobKind.TRAINING, TrainingResource, "a training")
