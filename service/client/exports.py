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
from service.domain.job import JobKind

EXPORTS = Jobs(kind=JobKind.EXPORT, resource=ExportResource, page=ExportList, failure=ExportError)

_SHA256 = re.compile(r"[0-9a-f]{64}")


def export_model(model_id: str, export_format: ExportFormat) -> Flow[ExportResource]:
    """Return the job of a model's export; it is queued unless the file is there or being made, or where it failed before."""
    body = ExportBody(format=export_format).model_dump(mode="json")
    return call(ExportResource, Request(method="POST", path=f"/models/{segment(model_id)}/exports", json=body))


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

    Args:
        model_id: The model's id.
        path: Where the file is to be.
        export_format: What to make of the model.
        progress: Called with the bytes that are there and the bytes in all.
        waiting: Called with the job, each time that it was looked at.
        timeout_s: How long to wait for the job at most; None for ever.

    Raises:
        ExportError: The file could not be made.
        WaitTimeoutError: It was not made in time; the job goes on.
        ClientError: It cannot be had, breaks off several times without progress, or its digest is wrong.
    """
    if path.is_dir():
        raise ClientError(f"{path}: is a folder")
    job = yield from export_model(model_id, export_format)
    job = yield from EXPORTS.wait(job.id, timeout_s=timeout_s, watch=waiting)
    if job.result is None or not _SHA256.fullmatch(job.result.sha256):  # it becomes part of a file's name
        raise ClientError(f"the server answered for {job.id!r} with something else than tleg does")
    file = RemoteFile(
        kind="export",
        path=f"/models/{segment(model_id)}/weights",
        params={"format": export_format.value},
        content=job.result.sha256[:32],
        size_bytes=job.result.size_bytes,
        sha256=job.result.sha256,
    )
    yield from fetch(file, path, progress=progress)
    return job
