"""Data sets: images in classes in, validated one by one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from service.api.dependencies import AfterQuery, LimitQuery, Resources, ResourcesDep
from service.api.schemas.datasets import DatasetList, DatasetResource, DatasetSummary
from service.api.schemas.problems import problem_responses
from service.api.upload import check_upload, declared_bytes, receive_upload
from service.api.upload_refusal import CLIENT_CLOSED, refuse_upload
from service.domain.dataset import StoredDataset
from service.domain.errors import ServiceError
from service.ingest.candidate import printable
from tleg_core.errors import ConfigError, TlegError

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

PATH: Final = "/datasets"
MAX_NAME = 128  # characters

_LOOK_S = 0.5  # between two looks whether the client is there

router = APIRouter(prefix=PATH, tags=["datasets"])

DatasetId = Annotated[str, Path(description="The data set's id, `ds-` and 32 hex digits.")]
Name = Annotated[
    str | None,
    Query(
        max_length=MAX_NAME,
        description="What to call it; by default the form's `name`, or its file's name, or else its id. For people only.",
    ),
]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A zip, a tar or a tar.gz of class folders, or a parquet file with the columns `image` (bytes and "
        "path) and `label`. Told by its content; the content type must not contradict it. It is read as a stream.",
        "content": {
            "application/zip": _BINARY,
            "application/x-tar": _BINARY,
            "application/gzip": _BINARY,
            "application/vnd.apache.parquet": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "The file."},
                        "name": {"type": "string", "description": "What to call it."},
                    },
                }
            },
        },
    }
}


@router.post(
    "",
    status_code=201,
    summary="Upload a data set",
    response_model=DatasetResource,
    openapi_extra=_UPLOAD,
    responses={
        200: {"model": DatasetResource, "description": "The same images in the same classes were there already."},
        201: {"headers": {"Location": {"description": "The data set's path.", "schema": {"type": "string"}}}},
        **problem_responses(400, 408, 413, 415, 503, 507),
    },
)
async def upload_dataset(request: Request, resources: ResourcesDep, name: Name = None) -> Response:
    """Validate every image of an upload and keep those that can be trained on; the answer counts the others, by reason.

    Images are JPEG, PNG or WebP. An archive has a folder for each class, maybe within `train/` and `test/` (or `val/`,
    `validation/`), maybe all in one folder. The answer comes when all images are validated. Uploading is idempotent.
    """
    try:
        called = _checked_name(name)
        check_upload(request, resources.upload_limits)
        await resources.store.ping()  # without Redis all of it would be read for nothing
    except TlegError as error:
        return await refuse_upload(request, error, began=False)
    try:
        stored, added = await _upload(request, resources, called)
    except TlegError as error:
        return await refuse_upload(request, error)
    except ClientDisconnect:
        logger.info("the client went away", extra={"action": "upload_abandoned"})
        return Response(status_code=CLIENT_CLOSED)
    resource = DatasetResource.of(stored)
    headers = {"Location": resource.links["self"]}
    return Response(
        resource.model_dump_json(), status_code=201 if added else 200, media_type=JSONResponse.media_type, headers=headers
    )


@router.get("", summary="List data sets", responses=problem_responses(503))
async def list_datasets(resources: ResourcesDep, limit: LimitQuery = 20, after: AfterQuery = None) -> DatasetList:
    """Return data sets, newest first, without their classes."""
    page = await resources.datasets.page(limit=limit, after=after)
    return DatasetList(data=[DatasetSummary.of(stored) for stored in page.datasets], has_more=page.has_more)


@router.get("/{dataset_id}", summary="Get a data set", responses=problem_responses(404, 503))
async def get_dataset(resources: ResourcesDep, dataset_id: DatasetId) -> DatasetResource:
    """Return one data set, with its classes."""
    return DatasetResource.of(await resources.datasets.get(dataset_id))


@router.delete("/{dataset_id}", status_code=204, summary="Delete a data set", responses=problem_responses(404, 409, 503))
async def delete_dataset(resources: ResourcesDep, dataset_id: DatasetId) -> Response:
    """Delete a data set and its images. Refused while a fine-tune that has not ended needs it; models made from it stay."""
    await resources.datasets.delete(dataset_id, resources.objects)
    return Response(status_code=204)


async def _upload(request: Request, resources: Resources, name: str) -> tuple[StoredDataset, bool]:
    """Receive, validate and store an upload; whatever happens, its folder is gone afterwards."""
    async with resources.ingestion.folder(declared_bytes(request)) as folder:
        received = await receive_upload(request, folder.upload, resources.upload_limits)
        called = name or printable(received.name or "", MAX_NAME)
        return await _while_connected(request, resources.ingestion.ingest(folder, received.container, called))


def _checked_name(name: str | None) -> str:
    if name is not None and not name.isprintable():
        raise ConfigError("name", "must be printable characters")
    return name or ""


async def _while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return the work's result; it is cancelled where the client goes away before."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_S)
            if not task.done() and await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ServiceError):
                await task
