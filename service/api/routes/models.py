"""Models: a budget in, initialised weights out."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from service.api.dependencies import AfterQuery, LimitQuery, Resources, ResourcesDep
from service.api.model_file import model_file
from service.api.problems import problem_of
from service.api.schemas.files import file_responses
from service.api.schemas.models import (
    BatchBody,
    BatchList,
    BatchResult,
    CreatedModel,
    ModelList,
    ModelRequestBody,
    ModelResource,
)
from service.api.schemas.problems import problem_responses
from service.api.timm_config import timm_config
from service.domain.model import ModelKind, Selection
from tleg_core.errors import TlegError

router = APIRouter(prefix="/models", tags=["models"])

HASHED_AT_CREATION_BYTES = 32 * 1024 * 1024
"""Up to this size the sha256 is in the answer that creates a model: some 20 ms of work; above it is computed when asked for."""

ModelId = Annotated[str, Path(description="The model's id, `m-` and 32 hex digits.")]
KindQuery = Annotated[ModelKind | None, Query(description="Only models of this kind.")]
DryRun = Annotated[bool, Query(description="Only say what one would get; nothing is recorded.")]


async def _create(resources: Resources, selection: Selection) -> tuple[CreatedModel, bool]:
    """Record the model; return it, and whether it was new."""
    stored, added = await resources.store.add(selection.model)
    sha256 = stored.sha256
    if sha256 is None and selection.model.size_bytes <= HASHED_AT_CREATION_BYTES:
        sha256 = await resources.weights.sha256(selection.model)
    return CreatedModel.created(selection, created_at=stored.created_at, sha256=sha256), added


@router.post(
    "",
    status_code=201,
    summary="Create a model from a budget",
    response_model=CreatedModel,
    responses={
        200: {"model": CreatedModel, "description": "The model was there already, or this is a dry run."},
        201: {"headers": {"Location": {"description": "The model's path.", "schema": {"type": "string"}}}},
        **problem_responses(400, 413, 422, 503),
    },
)
async def create_model(resources: ResourcesDep, body: ModelRequestBody, dry_run: DryRun = False) -> Response:
    """Choose the best member within the budget and return it, initialised and ready to download.

    The same request gives the same model, here and on any other server with the same learngene: creating is idempotent.
    """
    selection = resources.catalogue.resolve(body.to_domain())
    if dry_run:
        return _json(CreatedModel.created(selection, created_at=None, sha256=None), 200)
    created, added = await _create(resources, selection)
    return _json(created, 201 if added else 200, {"Location": created.links["self"]})


@router.post("/batch", summary="Create several models", responses=problem_responses(400, 413, 422, 503))
async def create_models(resources: ResourcesDep, body: BatchBody, dry_run: DryRun = False) -> BatchList:
    """Answer several requests in one call; one that cannot be met has its own error and does not disturb the others."""
    results = []
    for request in body.requests:
        await asyncio.sleep(0)  # other requests get their turn
        try:
            selection = resources.catalogue.resolve(request.to_domain())
            if dry_run:
                model = CreatedModel.created(selection, created_at=None, sha256=None)
                results.append(BatchResult(status=200, model=model))
            else:
                model, added = await _create(resources, selection)
                results.append(BatchResult(status=201 if added else 200, model=model))
        except TlegError as error:
            problem = problem_of(error)
            results.append(BatchResult(status=problem.status, error=problem))
    return BatchList(data=results, has_more=False)


@router.get("", summary="List models", responses=problem_responses(422, 503))
async def list_models(
    resources: ResourcesDep, limit: LimitQuery = 20, after: AfterQuery = None, kind: KindQuery = None
) -> ModelList:
    """Return models, newest first."""
    page = await resources.store.page(limit=limit, after=after, kind=kind)
    return ModelList(data=[ModelResource.of(stored, resources.catalogue) for stored in page.models], has_more=page.has_more)


@router.get("/{model_id}", summary="Get a model", responses=problem_responses(404, 503))
async def get_model(resources: ResourcesDep, model_id: ModelId) -> ModelResource:
    """Return one model; its sha256 is computed now if it never was."""
    stored = await resources.store.get(model_id)
    resource = ModelResource.of(stored, resources.catalogue)
    if resource.sha256 is None:
        resource.sha256 = await resources.weights.sha256(stored.model)
    return resource


@router.head("/{model_id}/weights", summary="Size and ETag of a model's file", responses=file_responses())
@router.get("/{model_id}/weights", summary="Download a model", responses=file_responses(), response_class=Response)
async def download_model(request: Request, resources: ResourcesDep, model_id: ModelId) -> Response:
    """Return the safetensors file, whole or the range asked for; an expanded one is computed on the way out."""
    model = await resources.weights.find(model_id)
    filename = f"{model.id}.safetensors"
    return await model_file(request, resources.weights, model, etag=model.content_digest, filename=filename, immutable=True)


@router.get("/{model_id}/config.json", summary="timm's configuration of a model", responses=problem_responses(404, 503))
async def get_config(resources: ResourcesDep, model_id: ModelId) -> dict[str, Any]:
    """Return the config.json with which timm builds the network and prepares its input."""
    model = await resources.weights.find(model_id)
    return timm_config(model, resources.catalogue.usage(model))


def _json(model: CreatedModel, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return the answer without a second validation of what we just built."""
    return Response(model.model_dump_json(), status_code=status, media_type=JSONResponse.media_type, headers=headers)
