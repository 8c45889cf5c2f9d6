"""Models: a budget in, initialised weights out; or fine-tuned ones, a job later."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from service.api.dependencies import AfterQuery, LimitQuery, ResourcesDep
from service.api.export_intake import find_export
from service.api.idempotency import IdempotencyHeader, idempotency_key
from service.api.job_routes import ACCEPTED_HEADERS, accepted, accepted_headers
from service.api.model_file import exported_file, model_file
from service.api.model_intake import take_model_request
from service.api.problems import problem_of
from service.api.schemas.exports import ExportBody, ExportResource
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
from service.domain.export import WeightsFormat
from service.domain.job import ExportSpec
from service.domain.model import ModelKind
from tleg_core.errors import TlegError

router = APIRouter(prefix="/models", tags=["models"])

_WEIGHTS_ANSWERS: dict[int | str, dict[str, Any]] = file_responses() | {
    202: {"model": ExportResource, "description": "A worker makes the file; this is the job.", "headers": ACCEPTED_HEADERS},
    **problem_responses(409),
}

FormatQuery = Annotated[WeightsFormat, Query(alias="format", description="The form of the file.")]
ModelId = Annotated[str, Path(description="The model's id, `m-` and 32 hex digits.")]
KindQuery = Annotated[ModelKind | None, Query(description="Only models of this kind.")]
DryRun = Annotated[bool, Query(description="Only say what one would get; nothing is recorded.")]


@router.post(
    "",
    status_code=201,
    summary="Create a model from a budget",
    response_model=CreatedModel,
    responses={
        200: {"model": CreatedModel, "description": "The model was there already, or this is a dry run."},
        201: {"headers": {"Location": {"description": "The model's path.", "schema": {"type": "string"}}}},
        202: {
            "model": CreatedModel,
            "description": "The model is recorded, and `fine_tune` is the job that fine-tunes it.",
            "headers": ACCEPTED_HEADERS,
        },
        **problem_responses(400, 413, 503),
    },
)
async def create_model(
    resources: ResourcesDep, body: ModelRequestBody, dry_run: DryRun = False, idempotency: IdempotencyHeader = None
) -> Response:
    """Choose the best member within the budget and return it, initialised and ready to download.

    The same request gives the same model, here and on any other server with the same learngene: creating is idempotent.
    With `fine_tune` it also queues a job, each time, unless it comes with the same `Idempotency-Key` again.
    """
    key = idempotency_key(idempotency, "POST /models", body)
    created, status = await take_model_request(resources, body, key=key, dry_run=dry_run)
    if dry_run:
        return _json(created, status)
    if created.fine_tune is not None:
        return _json(created, status, accepted_headers(created.fine_tune))
    return _json(created, status, {"Location": created.links["self"]})


@router.post("/batch", summary="Create several models", responses=problem_responses(400, 413, 503))
async def create_models(
    resources: ResourcesDep, body: BatchBody, dry_run: DryRun = False, idempotency: IdempotencyHeader = None
) -> BatchList:
    """Answer several requests in one call; one that cannot be met has its own error and does not disturb the others."""
    results = []
    for index, request in enumerate(body.requests):
        await asyncio.sleep(0)  # other requests get their turn
        try:
            own_key = None if idempotency is None else f"{idempotency}\n{index}"  # a line break is in no client's key
            key = idempotency_key(own_key, "POST /models/batch", request)
            model, status = await take_model_request(resources, request, key=key, dry_run=dry_run)
            results.append(BatchResult(status=status, model=model))
        except TlegError as error:
            problem = problem_of(error)
            results.append(BatchResult(status=problem.status, error=problem))
    return BatchList(data=results, has_more=False)


@router.get("", summary="List models", responses=problem_responses(503))
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


@router.head("/{model_id}/weights", summary="Size and ETag of a model's file", responses=_WEIGHTS_ANSWERS)
@router.get("/{model_id}/weights", summary="Download a model", responses=_WEIGHTS_ANSWERS, response_class=Response)
async def download_model(
    *, request: Request, resources: ResourcesDep, model_id: ModelId, weights_format: FormatQuery = WeightsFormat.SAFETENSORS
) -> Response:
    """Return the safetensors file, whole or the range asked for; an expanded one is computed on the way out.

    ONNX and `torch.export` programs are made by a worker when they are first asked for, and kept: until then the answer is 202
    with the job. Where that failed the answer is 409, and `POST /models/{id}/exports` tries again.
    """
    model = await resources.weights.find(model_id)
    export_format = weights_format.export
    if export_format is None:
        filename = f"{model.id}.safetensors"
        return await model_file(request, resources.weights, model, etag=model.content_digest, filename=filename, immutable=True)
    job = await find_export(resources, model, export_format)
    if not job.status.is_terminal:
        return accepted(ExportResource.of(job))
    return exported_file(request, resources.weights, job, ExportSpec(model=model.id, format=export_format))


@router.post(
    "/{model_id}/exports",
    status_code=202,
    summary="Export a model",
    response_model=ExportResource,
    responses={
        200: {"model": ExportResource, "description": "The file is there already, and `result` describes it."},
        202: {"headers": ACCEPTED_HEADERS},
        **problem_responses(400, 404, 413, 503),
    },
)
async def export_model(resources: ResourcesDep, model_id: ModelId, body: ExportBody) -> Response:
    """Make a file of a model that runs without this package, unless it is there or being made; try again what failed.

    A worker exports the network in float32, with the weights as the model's dtype rounded them, and keeps the file if its
    logits are those of the network.
    """
    job = await find_export(resources, await resources.weights.find(model_id), body.format, again=True)
    resource = ExportResource.of(job)
    if resource.is_terminal:
        return Response(resource.model_dump_json(), media_type=JSONResponse.media_type)
    return accepted(resource)


@router.get("/{model_id}/config.json", summary="timm's configuration of a model", responses=problem_responses(404, 503))
async def get_config(resources: ResourcesDep, model_id: ModelId) -> dict[str, Any]:
    """Return the config.json with which timm builds the network and prepares its input."""
    model = await resources.weights.find(model_id)
    return timm_config(model, resources.catalogue.usage(model))


def _json(model: CreatedModel, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return the answer without a second validation of what we just built."""
    return Response(model.model_dump_json(), status_code=status, media_type=JSONResponse.media_type, headers=headers)
