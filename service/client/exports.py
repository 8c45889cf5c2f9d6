"""The verbs of exports: a model as a file that runs without this package, made by a worker, waited for and downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from service.api.schemas.exports import ExportBody, ExportList, ExportResource
from service.client.call import call, segment
from service.client.effect import Flow, Request
from service.client.errors import ClientError, ExportError
from service.client.jobs import Jobs
from service.client.transfer import Progress, RemoteFile, fetch
from service.domain.export import ExportFormat
from service.domain.job import JobKind, JobStatus

EXPORTS = Jobs(kind=JobKind.EXPORT, resource=ExportResource, page=ExportList, failure=ExportError)

_TRIES = 3  # to fetch a file that was deleted meanwhile: a server whose limit is too small deletes it each time
_SHA256 = re.compile(r"[0-9a-f]{64}")


def export_model(model_id: str, export_format: ExportFormat) -> Flow[ExportResource]:
    """Return the job of a model's export; it is queued unless the file is there or being made, or where it failed before."""
    body = ExportBody(format=export_format).model_dump(mode="json")
    return call(ExportResource, Request(method="POST", path=f"/models/{segment(model_id)}/exports", json=body))


def list_exports(
    *, limit: int = 20, after: str | None = None, status: JobStatus | None = None, model: str | None = None
) -> Flow[ExportList]:
    """Return a page of jobs, newest first: those of a status, a model."""
    return EXPORTS.list(limit=limit, after=after, status=status, model=model)


def download_export(
    model_id: str,
    path: Path,
    export_format: ExportFormat,
    *,
    progress: Progress | None = None,
    waiting: Callable[[ExportResource], None] | None = None,
    timeout_s: float | None = None,
) -> Flow[ExportResource]:
    """Download a model's export to `path` and check its digest; wait for a worker to make it where it is not there yet.

    A server deletes its oldest exports for want of room: where that happens before the file is here, another one is waited for.

    Args:
        model_id: The model's id.
        path: Where the file is to be.
        export_format: What to make of the model.
        progress: Called with the bytes that are there and the bytes in all.
        waiting: Called with the job, each time that it was looked at.
        timeout_s: How long to wait for a job at most; None for ever.

    Raises:
        ExportError: The file could not be made.
        WaitTimeoutError: It was not made in time; the job goes on.
        ClientError: It cannot be had, is deleted again and again, breaks off several times without progress, or its digest is
            wrong.
    """
    if path.is_dir():
        raise ClientError(f"{path}: is a folder")
    job = yield from export_model(model_id, export_format)
    for _ in range(_TRIES):
        job = yield from EXPORTS.wait(job.id, timeout_s=timeout_s, watch=waiting)
        file = _file_of(job, model_id, export_format)
        try:
            yield from fetch(file, path, progress=progress)
        except ClientError:
            following = yield from _following(job, model_id, export_format)
            if following is None:
                raise
            job = following
        else:
            return job
    raise ClientError(
        f"the server deleted the {export_format} file of {model_id} {_TRIES} times before it was downloaded: "
        "it has no room for its exports (TLEG_MAX_EXPORTED_BYTES)"
    )


def _file_of(job: ExportResource, model_id: str, export_format: ExportFormat) -> RemoteFile:
    """Return the file that a job has made; raises `ClientError` where its digest is none."""
    if job.result is None or not _SHA256.fullmatch(job.result.sha256):  # it becomes part of a file's name
        raise ClientError(f"the server answered for {job.id!r} with something else than tleg does")
    return RemoteFile(
        kind="export",
        path=f"/models/{segment(model_id)}/weights",
        params={"format": export_format.value},
        content=job.result.sha256[:32],
        size_bytes=job.result.size_bytes,
        sha256=job.result.sha256,
    )


def _following(job: ExportResource, model_id: str, export_format: ExportFormat) -> Flow[ExportResource | None]:
    """Return the job that is to make a job's file anew, for it is gone; None where it is there, or nobody can tell."""
    try:
        standing = yield from export_model(model_id, export_format)
    except ClientError:
        return None
    return None if standing.id == job.id else standing
