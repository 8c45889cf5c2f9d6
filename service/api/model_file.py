"""A model's file as a response, wherever it comes from: its weights, or an export."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from service.api.export_intake import export_file
from service.api.file_response import ComputedFileResponse, StoredFileResponse
from service.domain.errors import ExportFailedError
from service.domain.job import ExportSpec, Job
from service.domain.model import Model
from service.storage.weights import Weights


async def model_file(
    request: Request,
    weights: Weights,
    model: Model,
    *,
    etag: str,
    filename: str,
    immutable: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer to a GET or HEAD of a model's file; the arguments are `file_response`'s.

    Raises:
        LearngeneNotLoadedError: It would be computed from a learngene that is not here.
        WeightsMissingError: It should lie in the object store, and does not.
        ObjectStoreError: The object store does not answer.
    """
    tuning = model.fine_tuning
    if tuning is None:
        descendant = await weights.open_prepared(model)
        return ComputedFileResponse(
            request,
            size=descendant.size,
            blocks=descendant.blocks,
            etag=etag,
            filename=filename,
            immutable=immutable,
            headers=headers,
        )
    await weights.check_stored(model.id, tuning.weights_key, tuning.size_bytes)
    return StoredFileResponse(
        request,
        size=tuning.size_bytes,
        chunks=partial(weights.stored_chunks, model.id, tuning.weights_key),
        etag=etag,
        filename=filename,
        immutable=immutable,
        headers=headers,
    )


def exported_file(request: Request, weights: Weights, job: Job, spec: ExportSpec) -> Response:
    """Return the answer to a GET or HEAD of what an export made; it may be made again, so caches ask before they use it.

    Raises:
        ExportFailedError: The job made nothing.
    """
    if job.result is None:
        raise ExportFailedError(job, spec)
    file, key = export_file(job, spec)
    return StoredFileResponse(
        request,
        size=file.size_bytes,
        chunks=partial(weights.stored_chunks, spec.model, key),
        etag=file.sha256,
        filename=f"{spec.model}{spec.format.suffix}",
        immutable=False,
    )
