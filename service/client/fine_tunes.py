"""The verbs of fine-tunes, beside those that all jobs have; their events have a module of their own."""

from __future__ import annotations

from pathlib import Path

from service.api.schemas.fine_tunes import CheckpointList, FineTuneBody, FineTuneList, FineTuneResource
from service.api.schemas.models import ModelResource
from service.client.call import call
from service.client.download import download
from service.client.effect import Flow, Request
from service.client.errors import ClientError, FineTuneError
from service.client.jobs import Jobs, job_path
from service.client.transfer import Progress
from service.domain.job import JobKind, JobStatus

FINE_TUNES = Jobs(kind=JobKind.FINE_TUNE, resource=FineTuneResource, page=FineTuneList, failure=FineTuneError)


def create_fine_tune(body: FineTuneBody, *, idempotency_key: str | None = None) -> Flow[FineTuneResource]:
    """Queue a fine-tune. However often the request has to be sent, it makes one job.

    Args:
        body: What to fine-tune, on what, and how.
        idempotency_key: Known to the server for a day: with the same key, the same request gives the same job. By default a
            fresh one for each call.
    """
    return FINE_TUNES.create(body, idempotency_key=idempotency_key)


def list_fine_tunes(
    *,
    limit: int = 20,
    after: str | None = None,
    status: JobStatus | None = None,
    model: str | None = None,
    dataset: str | None = None,
) -> Flow[FineTuneList]:
    """Return a page of jobs, newest first: those of a status, a model, a data set."""
    return FINE_TUNES.list(limit=limit, after=after, status=status, model=model, dataset=dataset)


def list_checkpoints(job_id: str) -> Flow[CheckpointList]:
    """Return a job's checkpoints, oldest first; each is a model."""
    return call(CheckpointList, Request(method="GET", path=f"{job_path(job_id)}/checkpoints"))


def download_result(job_id: str, path: Path, *, progress: Progress | None = None) -> Flow[ModelResource]:
    """Download the weights of a job's result to `path`, as `download` does; raises `ClientError` where there is none yet."""
    job = yield from FINE_TUNES.get(job_id)
    if job.result is None:
        raise FineTuneError(job) if job.is_terminal else ClientError(f"{job.id} is {job.status}; it has no result yet")
    return (yield from download(job.result.model, path, progress=progress))
