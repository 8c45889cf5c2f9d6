"""The verbs of fine-tunes; their events have a module of their own."""

from __future__ import annotations

import time
from pathlib import Path

from service.api.schemas.fine_tunes import CheckpointList, FineTuneBody, FineTuneList, FineTuneResource
from service.api.schemas.jobs import EventList
from service.api.schemas.models import ModelResource
from service.client.call import call, fresh_key, given, segment
from service.client.download import Progress, download
from service.client.effect import Flow, Request, sleep
from service.client.errors import ClientError, FineTuneError, WaitTimeoutError
from service.client.patience import Patience
from service.domain.job import JobStatus

_FIRST_POLL_S = 0.1
_LONGEST_POLL_S = 2.0


def create_fine_tune(body: FineTuneBody, *, idempotency_key: str | None = None) -> Flow[FineTuneResource]:
    """Queue a fine-tune. However often the request has to be sent, it makes one job.

    Args:
        body: What to fine-tune, on what, and how.
        idempotency_key: Known to the server for a day: with the same key, the same request gives the same job. By default a
            fresh one for each call.
    """
    request = Request(
        method="POST",
        path="/fine-tunes",
        json=body.model_dump(mode="json", exclude_unset=True),
        headers={"Idempotency-Key": idempotency_key or fresh_key()},
    )
    return call(FineTuneResource, request)


def get_fine_tune(job_id: str) -> Flow[FineTuneResource]:
    """Return one job."""
    return call(FineTuneResource, Request(method="GET", path=_path(job_id)))


def list_fine_tunes(
    *,
    limit: int = 20,
    after: str | None = None,
    status: JobStatus | None = None,
    model: str | None = None,
    dataset: str | None = None,
) -> Flow[FineTuneList]:
    """Return a page of jobs, newest first: those of a status, a model, a data set."""
    params = given(limit=limit, after=after, status=status, model=model, dataset=dataset)
    return call(FineTuneList, Request(method="GET", path="/fine-tunes", params=params))


def cancel_fine_tune(job_id: str) -> Flow[FineTuneResource]:
    """Cancel a job."""
    return call(FineTuneResource, Request(method="POST", path=f"{_path(job_id)}/cancel"))


def pause_fine_tune(job_id: str) -> Flow[FineTuneResource]:
    """Pause a job; it keeps its place."""
    return call(FineTuneResource, Request(method="POST", path=f"{_path(job_id)}/pause"))


def resume_fine_tune(job_id: str) -> Flow[FineTuneResource]:
    """Queue a paused job again; it goes on where it was."""
    return call(FineTuneResource, Request(method="POST", path=f"{_path(job_id)}/resume"))


def list_checkpoints(job_id: str) -> Flow[CheckpointList]:
    """Return a job's checkpoints, oldest first; each is a model."""
    return call(CheckpointList, Request(method="GET", path=f"{_path(job_id)}/checkpoints"))


def list_events(job_id: str, *, after: int = 0, limit: int = 100) -> Flow[EventList]:
    """Return a page of the events that are there already, oldest first, after number `after`."""
    return call(EventList, Request(method="GET", path=f"{_path(job_id)}/events", params={"after": after, "limit": limit}))


def wait_for_fine_tune(job_id: str, *, timeout_s: float | None = None, patience_s: float = 300.0) -> Flow[FineTuneResource]:
    """Return a job once it has succeeded.

    Args:
        job_id: The job's id.
        timeout_s: How long to wait at most; None for ever.
        patience_s: How long to go on without an answer, once the server has given one.

    Raises:
        FineTuneError: It failed, or was cancelled.
        WaitTimeoutError: It has not ended in time; it goes on.
    """
    started = time.monotonic()
    job = yield from get_fine_tune(job_id)
    patience = Patience(patience_s)
    delay = _FIRST_POLL_S
    while not job.is_terminal:
        if timeout_s is not None and time.monotonic() - started >= timeout_s:
            raise WaitTimeoutError(job, timeout_s)
        left = delay if timeout_s is None else min(delay, max(0.0, started + timeout_s - time.monotonic()))
        yield from sleep(left)
        delay = min(delay * 1.5, _LONGEST_POLL_S)
        try:
            job = yield from get_fine_tune(job_id)
        except ClientError as error:
            patience.lose(error)
        else:
            patience.renew()
    if job.status is not JobStatus.SUCCEEDED:
        raise FineTuneError(job)
    return job


def download_result(job_id: str, path: Path, *, progress: Progress | None = None) -> Flow[ModelResource]:
    """Download the weights of a job's result to `path`, as `download` does; raises `ClientError` where there is none yet."""
    job = yield from get_fine_tune(job_id)
    if job.result is None:
        raise FineTuneError(job) if job.is_terminal else ClientError(f"{job.id} is {job.status}; it has no result yet")
    return (yield from download(job.result.model, path, progress=progress))


def _path(job_id: str) -> str:
    return f"/fine-tunes/{segment(job_id)}"
