"""Fine-tunes: a model and a data set in, a job that ends in a model of the data set's classes."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.api.dependencies import AfterQuery, LimitQuery, Resources, ResourcesDep
from service.api.event_stream import EventStream
from service.api.fine_tune_intake import accept_fine_tune
from service.api.idempotency import IdempotencyHeader, idempotency_key
from service.api.problems import RETRY_AFTER_S
from service.api.schemas.fine_tunes import (
    CheckpointList,
    CheckpointResource,
    EventList,
    EventResource,
    FineTuneBody,
    FineTuneList,
    FineTuneResource,
)
from service.api.schemas.problems import problem_responses
from service.domain.errors import ObjectStoreError
from service.domain.job import Job, JobStatus
from service.storage.object_store import state_folder

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/fine-tunes", tags=["fine-tunes"])

_MAX_SEQ = 2**53  # what JSON numbers and doubles hold exactly
_EVENT_STREAM = "text/event-stream"

JobId = Annotated[str, Path(description="The job's id, `ft-` and 32 hex digits.")]
StatusQuery = Annotated[JobStatus | None, Query(description="Only jobs of this status.")]
ModelQuery = Annotated[str | None, Query(max_length=64, description="Only jobs that start from this model.")]
DatasetQuery = Annotated[str | None, Query(max_length=64, description="Only jobs on this data set.")]
SeqQuery = Annotated[int, Query(ge=0, le=_MAX_SEQ, description="The number of the event after which to go on.")]
EventsLimitQuery = Annotated[int, Query(ge=1, le=1000, description="Events a page.")]
LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=_MAX_SEQ,
        description="The `id` that a stream was cut after; browsers send it by themselves. It wins over `after`.",
    ),
]

ACCEPTED_HEADERS: dict[str, Any] = {
    "Location": {"description": "The job's path.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which it is worth to look again.", "schema": {"type": "integer"}},
}


@router.post(
    "",
    status_code=202,
    summary="Fine-tune a model",
    response_model=FineTuneResource,
    responses={202: {"headers": ACCEPTED_HEADERS}, **problem_responses(400, 413, 422, 503)},
)
async def create_fine_tune(resources: ResourcesDep, body: FineTuneBody, idempotency: IdempotencyHeader = None) -> Response:
    """Accept a job. It is durable when the answer is sent; a worker takes it when one is free.

    What is left out of `settings` is derived from the data set and the network; the answer says what.
    """
    job = await accept_fine_tune(resources, body, idempotency_key(idempotency, "POST /fine-tunes", body))
    resource = FineTuneResource.of(job)
    return Response(
        resource.model_dump_json(),
        status_code=202,
        media_type=JSONResponse.media_type,
        headers=accepted_headers(resource),
    )


def accepted_headers(job: FineTuneResource) -> dict[str, str]:
    """Return the headers of an answer that accepts a job."""
    return {"Location": job.links["self"], "Retry-After": str(RETRY_AFTER_S)}


@router.get("", summary="List fine-tunes", responses=problem_responses(422, 503))
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
    page = await resources.jobs.page(limit=limit, after=after, status=status, model=model, dataset=dataset)
    return FineTuneList(data=[FineTuneResource.of(job) for job in page.jobs], has_more=page.has_more)


@router.get("/{job_id}", summary="Get a fine-tune", responses=problem_responses(404, 503))
async def get_fine_tune(resources: ResourcesDep, job_id: JobId) -> FineTuneResource:
    """Return one job: where it stands, how far it is, and what came of it."""
    return FineTuneResource.of(await resources.jobs.get(job_id))


@router.post("/{job_id}/cancel", summary="Cancel a fine-tune", responses=problem_responses(404, 409, 503))
async def cancel_fine_tune(resources: ResourcesDep, job_id: JobId) -> FineTuneResource:
    """End a job without a result. A running one is `cancelling` until its worker has let go; its checkpoints stay."""
    job = await resources.jobs.cancel(job_id)
    await _drop_states(resources, job)
    return FineTuneResource.of(job)


@router.post("/{job_id}/pause", summary="Pause a fine-tune", responses=problem_responses(404, 409, 503))
async def pause_fine_tune(resources: ResourcesDep, job_id: JobId) -> FineTuneResource:
    """Hold a job. A running one saves its state first (`pause_requested`) and is `paused` then; `resume` goes on from it."""
    return FineTuneResource.of(await resources.jobs.pause(job_id))


@router.post("/{job_id}/resume", summary="Resume a fine-tune", responses=problem_responses(404, 409, 503))
async def resume_fine_tune(resources: ResourcesDep, job_id: JobId) -> FineTuneResource:
    """Queue a paused job again, or withdraw a pause that has not happened yet."""
    return FineTuneResource.of(await resources.jobs.resume(job_id))


async def _drop_states(resources: Resources, job: Job) -> None:
    """Delete the states of a job that was cancelled while no worker held it: nobody else would."""
    if job.status is JobStatus.CANCELLED:
        states = state_folder(job.id)
        try:
            await asyncio.to_thread(resources.objects.delete_folder, states)
        except ObjectStoreError as error:  # the job is cancelled all the same
            logger.error(str(error), extra={"action": "object_left", "object": states, "job": job.id})


@router.get(
    "/{job_id}/events",
    summary="Events of a fine-tune",
    response_model=EventList,
    responses={
        200: {
            "description": "A page of events; or the stream, where `Accept` names `text/event-stream`.",
            "content": {_EVENT_STREAM: {"schema": {"type": "string"}}},
        },
        204: {"description": "A stream was asked for, and the job has ended and has no more events: do not reconnect."},
        **problem_responses(404, 422, 503),
    },
)
async def list_events(
    *,
    request: Request,
    resources: ResourcesDep,
    job_id: JobId,
    after: SeqQuery = 0,
    limit: EventsLimitQuery = 100,
    last_event_id: LastEventId = None,
) -> Response:
    """Return a page of a job's events, or stream them as they happen.

    With `Accept: text/event-stream` the answer is Server-Sent Events: `id` is the event's number, `event` its kind, `data` the
    same JSON as in a page. Reconnect with `Last-Event-ID` (or `after`), and every event comes exactly once, in order. The
    stream ends after the event with which the job ends; asked again after that, the answer is 204.
    """
    if _EVENT_STREAM not in request.headers.get("accept", "").lower():
        events = await resources.jobs.events(job_id, after=after, limit=limit + 1)
        page = EventList(data=[EventResource.of(event) for event in events[:limit]], has_more=len(events) > limit)
        return Response(page.model_dump_json(), media_type=JSONResponse.media_type)
    stream = EventStream(
        resources.jobs,
        job_id,
        after=after if last_event_id is None else last_event_id,
        is_draining=lambda: resources.draining,
    )
    if await stream.is_over():
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold events back
    return StreamingResponse(stream.blocks(), media_type=_EVENT_STREAM, headers=headers)


@router.get("/{job_id}/checkpoints", summary="Checkpoints of a fine-tune", responses=problem_responses(404, 503))
async def list_checkpoints(resources: ResourcesDep, job_id: JobId) -> CheckpointList:
    """Return what a job has kept so far: each is a model like any other, also where the job goes on or has failed."""
    return CheckpointList(data=[CheckpointResource.of(item) for item in await resources.jobs.checkpoints(job_id)])
