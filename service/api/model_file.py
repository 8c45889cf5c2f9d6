"""A model's safetensors file as a response, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from service.api.file_response import ComputedFileResponse, StoredFileResponse
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
    await weights.check_stored(model.id, tuning)
    return StoredFileResponse(
        request,
        size=tuning.size_bytes,
        chunks=partial(weights.stored_chunks, model.id, tuning),
        etag=etag,
        filename=filename,
        immutable=immutable,
        headers=headers,
    )
