"""Learngenes: what this server can expand. Those that are published join it while it runs."""

from __future__ import annotations

import logging
from bisect import bisect_right
from itertools import accumulate
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from service.api.dependencies import AfterQuery, LimitQuery, Resources, ResourcesDep
from service.api.file_response import ComputedFileResponse
from service.api.learngene_upload import check_learngene_upload, receive_learngene
from service.api.schemas.files import file_responses
from service.api.schemas.learngenes import LearngeneList, LearngeneResource
from service.api.schemas.problems import problem_responses
from service.api.upload import declared_bytes
from service.api.upload_refusal import CLIENT_CLOSED, refuse_upload
from service.domain.catalogue import Catalogue
from service.domain.errors import CursorUnknownError, StoreUnavailableError
from service.domain.published_learngene import Outcome
from tleg_core.descendant import BLOCK_BYTES
from tleg_core.errors import TlegError

logger = logging.getLogger(__name__)

PATH: Final = "/learngenes"

_MAX_LISTED = 5_000  # members and measured accuracies on a page, a quarter of a kilobyte each at most

router = APIRouter(prefix=PATH, tags=["learngenes"])

LearngeneId = Annotated[str, Path(description="The learngene's name.")]
Replace = Annotated[
    bool, Query(description="Whether it may take the place of other weights that are published under its name.")
]

_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The learngene's file, as `tleg train` writes it: safetensors. It is read as a stream.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "",
    status_code=201,
    summary="Publish a learngene",
    response_model=LearngeneResource,
    openapi_extra=_UPLOAD,
    responses={
        200: {"model": LearngeneResource, "description": "The name was there: with the same file, or with one that made way."},
        201: {"headers": {"Location": {"description": "The learngene's path.", "schema": {"type": "string"}}}},
        **problem_responses(400, 408, 409, 413, 415, 503, 507),
    },
)
async def publish_learngene(request: Request, resources: ResourcesDep, replace: Replace = False) -> Response:
    """Check a learngene's file and serve it, on this server at once and on others of the same Redis within about a second.

    Its name is the one in the file. Publishing the same file again changes nothing; one with the same weights and more
    measured accuracy takes the old one's place, and no model changes. Other weights need `replace=true`; models of the old
    ones stay as they are.
    """
    limits = resources.learngene_limits
    try:
        check_learngene_upload(request, limits)
        await resources.store.ping()  # without Redis all of it would be read for nothing
    except TlegError as error:
        return await refuse_upload(request, error, began=False)
    try:
        async with resources.ingestion.folder(declared_bytes(request)) as folder:
            await receive_learngene(request, folder.upload, limits)
            done = await resources.learngenes.publish(folder.upload, publication=folder.id, replace=replace)
        if done.record.name not in resources.catalogue:
            raise StoreUnavailableError(
                f"learngene {done.record.name} was published, and is not served: it was deleted meanwhile, or cannot be read "
                "back; publish it again"
            )
    except TlegError as error:
        return await refuse_upload(request, error)
    except ClientDisconnect:
        logger.info("the client went away", extra={"action": "upload_abandoned"})
        return Response(status_code=CLIENT_CLOSED)
    answer = await _described(resources, done.record.name)
    answer.status_code = 201 if done.outcome is Outcome.ADDED else 200
    answer.headers["Location"] = f"{PATH}/{done.record.name}"
    return answer


@router.get("", summary="List learngenes", response_model=LearngeneList)
async def list_learngenes(resources: ResourcesDep, limit: LimitQuery = 20, after: AfterQuery = None) -> Response:
    """Return the learngenes by name, each with every member's costs and measured accuracy.

    A page ends before `limit` where its learngenes have thousands of members; `has_more` says whether any follow.
    """
    catalogue = resources.catalogue
    names = sorted(family.name for family in catalogue.families)
    if after is not None and after not in names:
        raise CursorUnknownError(after)
    start = 0 if after is None else names.index(after) + 1
    sizes = list(accumulate(map(catalogue.size, names[start : start + limit])))
    count = max(bisect_right(sizes, _MAX_LISTED), 1)
    shown = names[start : start + count]

    def describe() -> Response:
        return _json(LearngeneList(data=[_describe(catalogue, name) for name in shown], has_more=start + count < len(names)))

    return await resources.long_work.do(describe, size=sum(map(catalogue.size, shown)))


@router.get(
    "/{learngene_id}", summary="Get a learngene", response_model=LearngeneResource, responses=problem_responses(404, 503)
)
async def get_learngene(resources: ResourcesDep, learngene_id: LearngeneId) -> Response:
    """Return one learngene with every member of its family."""
    await resources.learngenes.look_for(learngene_id)
    return await _described(resources, learngene_id)


@router.delete("/{learngene_id}", status_code=204, summary="Delete a learngene", responses=problem_responses(404, 409, 503))
async def delete_learngene(resources: ResourcesDep, learngene_id: LearngeneId) -> Response:
    """Delete a published learngene, and every file that was published under its name.

    Models that are expanded from it cannot be downloaded afterwards (`learngene_not_loaded`); fine-tuned ones can. A
    learngene that was shipped, or named by the operator, cannot be deleted.
    """
    await resources.learngenes.delete(learngene_id)
    return Response(status_code=204)


@router.head("/{learngene_id}/weights", summary="Size and ETag of a learngene's file", responses=file_responses())
@router.get("/{learngene_id}/weights", summary="Download a learngene", responses=file_responses(), response_class=Response)
async def download_learngene(request: Request, resources: ResourcesDep, learngene_id: LearngeneId) -> Response:
    """Return the learngene's own file, with which `tleg expand` makes the whole family without this server."""
    await resources.learngenes.look_for(learngene_id)
    catalogue = resources.catalogue
    content = catalogue.family(learngene_id).learngene.content
    return ComputedFileResponse(
        request,
        size=len(content),
        etag=catalogue.origin(learngene_id).sha256,
        blocks=lambda start, stop: (content[i : min(i + BLOCK_BYTES, stop)] for i in range(start, stop, BLOCK_BYTES)),
        immutable=False,
        filename=f"{learngene_id}.safetensors",
    )


async def _described(resources: Resources, name: str) -> Response:
    """Return one learngene as an answer; raises `LearngeneNotFoundError`."""
    catalogue = resources.catalogue
    return await resources.long_work.do(lambda: _json(_describe(catalogue, name)), size=catalogue.size(name))


def _json(content: BaseModel) -> Response:
    """Return the answer without a second validation of what we just built."""
    return Response(content.model_dump_json(), media_type=JSONResponse.media_type)


def _describe(catalogue: Catalogue, name: str) -> LearngeneResource:
    """Return one learngene on the wire; raises `LearngeneNotFoundError`."""
    return LearngeneResource.of(catalogue.family(name), catalogue.origin(name))
