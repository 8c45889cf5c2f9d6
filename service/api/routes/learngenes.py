"""Learngenes: what this server can expand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from service.api.dependencies import AfterQuery, LimitQuery, ResourcesDep
from service.api.file_response import ComputedFileResponse
from service.api.schemas.files import file_responses
from service.api.schemas.learngenes import LearngeneList, LearngeneResource
from service.api.schemas.problems import problem_responses
from service.domain.errors import CursorUnknownError
from tleg_core.descendant import BLOCK_BYTES

router = APIRouter(prefix="/learngenes", tags=["learngenes"])

LearngeneId = Annotated[str, Path(description="The learngene's name.")]


@router.get("", summary="List learngenes", responses=problem_responses(422))
async def list_learngenes(resources: ResourcesDep, limit: LimitQuery = 20, after: AfterQuery = None) -> LearngeneList:
    """Return the learngenes by name, each with every member's costs and measured accuracy."""
    families = sorted(resources.catalogue.families, key=lambda family: family.name)
    names = [family.name for family in families]
    if after is not None and after not in names:
        raise CursorUnknownError(after)
    start = 0 if after is None else names.index(after) + 1
    shown = families[start : start + limit]
    return LearngeneList(data=[LearngeneResource.of(family) for family in shown], has_more=start + limit < len(families))


@router.get("/{learngene_id}", summary="Get a learngene", responses=problem_responses(404))
async def get_learngene(resources: ResourcesDep, learngene_id: LearngeneId) -> LearngeneResource:
    """Return one learngene with every member of its family."""
    return LearngeneResource.of(resources.catalogue.family(learngene_id))


@router.head("/{learngene_id}/weights", summary="Size and ETag of a learngene's file", responses=file_responses())
@router.get("/{learngene_id}/weights", summary="Download a learngene", responses=file_responses(), response_class=Response)
async def download_learngene(request: Request, resources: ResourcesDep, learngene_id: LearngeneId) -> Response:
    """Return the learngene's own file, with which `tleg expand` makes the whole family without this server."""
    family = resources.catalogue.family(learngene_id)
    content = family.learngene.content
    return ComputedFileResponse(
        request,
        size=len(content),
        etag=resources.weights.learngene_etag(family),
        blocks=lambda start, stop: (content[i : min(i + BLOCK_BYTES, stop)] for i in range(start, stop, BLOCK_BYTES)),
        immutable=False,
        filename=f"{family.name}.safetensors",
    )
