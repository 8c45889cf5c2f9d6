"""A model's file, in any of its forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.api.schemas.exports import ExportResource
from service.api.schemas.models import ModelResource
from service.client.effect import Flow
from service.client.errors import ClientError
from service.client.exports import download_export
from service.client.models import get_model
from service.client.transfer import Progress, RemoteFile, fetch
from service.domain.export import WeightsFormat
from service.domain.model import is_model_id


def download(
    model_id: str,
    path: Path,
    *,
    format: str = WeightsFormat.SAFETENSORS,
    progress: Progress | None = None,
    waiting: Callable[[ExportResource], None] | None = None,
    timeout_s: float | None = None,
) -> Flow[ModelResource]:
    """Download a model's weights to `path` and check their digest.

    Args:
        model_id: The model's id.
        path: Where the file is to be.
        format: `safetensors`; or `onnx` or `torch-export`, which a worker makes where nobody asked for it before.
        progress: Called with the bytes that are there and the bytes in all.
        waiting: Called with the job of the worker, each time that it was looked at.
        timeout_s: How long to wait for a job at most; None for ever.

    Raises:
        ExportError: A worker could not make the file.
        WaitTimeoutError: It was not made in time; the job goes on.
        ClientError: It cannot be had, breaks off several times without progress, or its digest is wrong.
    """
    if format not in list(WeightsFormat):
        raise ClientError(f"format: must be one of {', '.join(WeightsFormat)}, not {format[:80]!r}")
    if path.is_dir():
        raise ClientError(f"{path}: is a folder")
    model = yield from get_model(model_id)
    if model.id != model_id or not is_model_id(model.id):
        raise ClientError(f"asked for {model_id!r}, the server answered with another model")
    export_format = WeightsFormat(format).export
    if export_format is not None:
        yield from download_export(model.id, path, export_format, progress=progress, waiting=waiting, timeout_s=timeout_s)
        return model
    file = RemoteFile(
        kind="model",
        path=f"/models/{model.id}/weights",
        content=model.id,
        size_bytes=model.size_bytes,
        sha256=model.sha256,
    )
    yield from fetch(file, path, progress=progress)
    return model
