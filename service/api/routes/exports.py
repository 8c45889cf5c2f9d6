"""Exports: jobs that make a file of a model which runs without this package. `POST /models/{id}/exports` queues one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import AfterQuery, LimitQuery, ResourcesDep
from service.api.job_routes import StatusQuery, add_job_routes
from service.api.schemas.exports import ExportList, ExportResource
from service.api.schemas.problems import problem_responses
from service.domain.job import JobKind

router = APIRouter(prefix="/exports", tags=["exports"])

ModelQuery = Annotated[str | None, Query(max_length=64, description="Only jobs of this model.")]


@router.get("", summary="List exports", responses=problem_responses(503))
async def list_exports(
    *,
    resources: ResourcesDep,
    limit: LimitQuery = 20,
    after: AfterQuery = None,
    status: StatusQuery = None,
    model: ModelQuery = None,
) -> ExportList:
    """Return jobs, newest first, all or those that the filters leave."""
    page = await resources.jobs.page(limit=limit, after=after, status=status, model=model, kind=JobKind.EXPORT)
    return ExportList(data=[ExportResource.of(job) for job in page.jobs], has_more=page.has_more)


add_job_routes(router, JobKind.EXPORT, ExportResource, "an export")
