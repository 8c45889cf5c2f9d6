"""What can be asked of one job, whatever it makes: to be shown, cancelled, paused, resumed, and its events. Routes by kind.

A job of another kind is not there. How jobs are created and listed is each kind's own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.api.dependencies import Resources, ResourcesDep
from service.api.event_stream import EventStream
from service.api.problems import RETRY_AFTER_S
from service.api.schemas.jobs import EventList, EventResource, JobResource
from service.api.schemas.problems import problem_responses
from service.domain.errors import JobNotFoundError, ObjectStoreError
from service.domain.job import Job, JobKind, JobStatus, is_job_id
from service.storage.object_store import state_folder

logger = logging.getLogger(__name__)

_MAX_SEQ = 2**53  # what JSON numbers and doubles hold exactly
_EVENT_STREAM = "text/event-stream"

JobId = Annotated[str, Path(description="The job's id.")]
StatusQuery = Annotated[JobStatus | None, Query(description="Only jobs of this status.")]
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
LastEventIdQuery = Annotated[
    int | None,
    Query(alias="lastEventId", ge=0, le=_MAX_SEQ, description="The same, from where a client can send no such header."),
]

ACCEPTED_HEADERS: dict[str, Any] = {
    "Location": {"description": "The job's path.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which it is worth to look again.", "schema": {"type": "integer"}},
}

ResourceT_co = TypeVar("ResourceT_co", bound=JobResource, covariant=True)


class Describe(Protocol[ResourceT_co]):
    """The schema of a kind's jobs."""

    def of(self, job: Job) -> ResourceT_co:
        """Describe a job."""
        ...


def accepted(job: JobResource) -> Response:
    """Return the answer that accepts a job: 202."""
    content = job.model_dump_json()
    return Response(content, status_code=202, media_type=JSONResponse.media_type, headers=accepted_headers(job))


def accepted_headers(job: JobResource) -> dict[str, str]:
    """Return the headers of an answer that accepts a job."""
    return {"Location": job.links["self"], "Retry-After": str(RETRY_AFTER_S)}


def checked_id(job_id: str, kind: JobKind) -> str:
    """Return the id if it is one of that kind; raises `JobNotFoundError`."""
    if not is_job_id(job_id, kind):
        raise JobNotFoundError(job_id, kind)
    return job_id


def add_job_routes(router: APIRouter, kind: JobKind, schema: Describe[JobResource], noun: str) -> None:
    """Give a router what can be asked of one job of its kind, which people call `noun`: `an export`."""

    async def get_job(resources: ResourcesDep, job_id: JobId) -> JobResource:
        """Return one job: where it stands, how far it is, and what came of it."""
        return schema.of(await resources.jobs.get(checked_id(job_id, kind)))

    async def cancel_job(resources: ResourcesDep, job_id: JobId) -> JobResource:
        """End a job without a result. A running one is `cancelling` until its worker has let go; its checkpoints stay."""
        job = await resources.jobs.cancel(checked_id(job_id, kind))
        await _drop_states(resources, job)
        return schema.of(job)

    async def pause_job(resources: ResourcesDep, job_id: JobId) -> JobResource:
        """Hold a job. A running one saves its state first (`pause_requested`), then is `paused`; `resume` goes on from it.

        An export has no state: it stops after its step, and begins again.
        """
        return schema.of(await resources.jobs.pause(checked_id(job_id, kind)))

    async def resume_job(resources: ResourcesDep, job_id: JobId) -> JobResource:
        """Queue a paused job again, or withdraw a pause that has not happened yet."""
        return schema.of(await resources.jobs.resume(checked_id(job_id, kind)))

    async def list_events(
        *,
        request: Request,
        resources: ResourcesDep,
        job_id: JobId,
        after: SeqQuery = 0,
        limit: EventsLimitQuery = 100,
        last_event_id: LastEventId = None,
        last_event_id_query: LastEventIdQuery = None,
    ) -> Response:
        """Return a page of a job's events, or stream them as they happen.

        With `Accept: text/event-stream` the answer is Server-Sent Events: `id` is the event's number, `event` its kind, `data`
        the same JSON as in a page. Reconnect with `Last-Event-ID` (or `after`), and every event comes exactly once, in order.
        The stream ends after the event with which the job ends; asked again after that, the answer is 204.
        """
        checked_id(job_id, kind)
        if _EVENT_STREAM in request.headers.get("accept", "").lower():
            places = (last_event_id, last_event_id_query, after)
            return await _streamed(resources, job_id, next(place for place in places if place is not None))
        events = await resources.jobs.events(job_id, after=after, limit=limit + 1)
        page = EventList(data=[EventResource.of(event) for event in events[:limit]], has_more=len(events) > limit)
        return Response(page.model_dump_json(), media_type=JSONResponse.media_type)

    router.get("/{job_id}", summary=f"Get {noun}", response_model=schema, responses=problem_responses(404, 503))(get_job)
    for order, action in (("cancel", cancel_job), ("pause", pause_job), ("resume", resume_job)):
        router.post(
            f"/{{job_id}}/{order}",
            summary=f"{order.capitalize()} {noun}",
            response_model=schema,
            responses=problem_responses(404, 409, 503),
        )(action)
    router.get(
        "/{job_id}/events",
        summary=f"Events of {noun}",
        response_model=EventList,
        responses={
            200: {
                "description": "A page of events; or the stream, where `Accept` names `text/event-stream`.",
                "content": {_EVENT_STREAM: {"schema": {"type": "string"}}},
            },
            204: {"description": "A stream was asked for, and the job has ended and has no more events: do not reconnect."},
            **problem_responses(404, 503),
        },
    )(list_events)


async def _streamed(resources: Resources, job_id: str, after: int) -> Response:
    """Return a job's events after a number as a stream; 204 where none will come."""
    stream = EventStream(resources.jobs, job_id, after=after, is_draining=lambda: resources.draining)
    if await stream.is_over():
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold events back
    return StreamingResponse(stream.blocks(), media_type=_EVENT_STREAM, headers=headers)


async def _drop_states(resources: Resources, job: Job) -> None:
    """Delete the states of a job that was cancelled while no worker held it: nobody else would."""
    if job.status is JobStatus.CANCELLED:
        states = state_folder(job.id)
        try:
            await asyncio.to_thread(resources.objects.delete_folder, states)
        except ObjectStoreError as error:  # the job is cancelled all the same
            logger.error(str(error), extra={"action": "object_left", "object": states, "job": job.id})
