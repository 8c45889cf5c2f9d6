"""Errors on the wire: problem+json (RFC 9457), and the one table that gives each error its status and code.

Inner code raises domain errors and never names a status. The framework's own errors (404, 405, 422) take the same form.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.api.schemas.members import MemberCosts
from service.api.schemas.problems import ExceededLimit, FieldError, Problem
from service.domain.errors import (
    CursorUnknownError,
    DatasetInUseError,
    DatasetNotFoundError,
    DatasetRefusedError,
    ExportFailedError,
    FencedError,
    IdempotencyKeyReusedError,
    JobNotFoundError,
    JobStateError,
    LearngeneFixedError,
    LearngeneInTrainingError,
    LearngeneNotFoundError,
    LearngeneNotLoadedError,
    LearngeneRefusedError,
    LearngeneTakenError,
    ModelNotFoundError,
    ObjectStoreError,
    StorageFullError,
    StoreUnavailableError,
    UnreadableRecordError,
    UploadsBusyError,
    UploadStalledError,
    UploadTooLargeError,
    UploadTypeError,
    WeightsMissingError,
)
from service.domain.invalid_value import invalid_value_message
from tleg_core.errors import BudgetInfeasibleError, ConfigError, TlegError

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 1
_ERRORS_SHOWN = 50

ERROR_TABLE: Mapping[type[Exception], tuple[int, str, str]] = {  # the status, code and title of each error
    ConfigError: (422, "invalid_value", "A value is outside its limits"),
    BudgetInfeasibleError: (422, "budget_infeasible", "No member fits the budget"),
    CursorUnknownError: (422, "cursor_unknown", "The cursor names nothing in the list"),
    ModelNotFoundError: (404, "model_not_found", "No such model"),
    LearngeneNotFoundError: (404, "learngene_not_found", "No such learngene"),
    LearngeneNotLoadedError: (503, "learngene_not_loaded", "The model's learngene is not loaded on this server"),
    LearngeneRefusedError: (422, "learngene_refused", "The upload is no learngene"),
    LearngeneTakenError: (409, "learngene_taken", "The name or the weights are another learngene's"),
    LearngeneFixedError: (409, "learngene_fixed", "The learngene is one of the server's own files"),
    WeightsMissingError: (503, "weights_missing", "The model's file is not in the object store"),
    ObjectStoreError: (503, "object_store_unavailable", "The object store does not answer"),
    DatasetNotFoundError: (404, "dataset_not_found", "No such data set"),
    DatasetInUseError: (409, "dataset_in_use", "Jobs need the data set"),
    DatasetRefusedError: (422, "dataset_refused", "The upload is no data set"),
    UploadTooLargeError: (413, "upload_too_large", "The upload is too large"),
    UploadTypeError: (415, "upload_type", "The upload is of no type that is read here"),
    UploadStalledError: (408, "upload_stalled", "The upload stopped"),
    UploadsBusyError: (503, "uploads_busy", "Too many uploads are under way"),
    StorageFullError: (507, "storage_full", "There is no room for the upload"),
    JobNotFoundError: (404, "job_not_found", "No such job"),
    LearngeneInTrainingError: (409, "learngene_in_training", "A job trains a learngene of that name"),
    ExportFailedError: (409, "export_failed", "The file could not be made"),
    JobStateError: (409, "job_state", "The job's status does not allow that"),
    IdempotencyKeyReusedError: (422, "idempotency_key_reused", "The Idempotency-Key came with another request before"),
    FencedError: (409, "fenced", "The attempt is no longer the job's"),
    UnreadableRecordError: (500, "record_unreadable", "A record cannot be read"),
    StoreUnavailableError: (503, "store_unavailable", "Redis does not answer"),
}

_PLAIN_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 400: "bad_request"}


def problem_of(error: TlegError) -> Problem:
    """Return the problem that a domain error becomes."""
    status, code, title = next(
        (ERROR_TABLE[kind] for kind in type(error).__mro__ if kind in ERROR_TABLE), (500, "internal_error", "Something failed")
    )
    problem = Problem(type=_type(code), title=title, status=status, detail=str(error), code=code)
    match error:
        case DatasetRefusedError() | UploadTooLargeError():
            return problem.model_copy(update={"limit": error.limit})
        case DatasetInUseError() | LearngeneInTrainingError() | ExportFailedError():
            return problem.model_copy(update={"jobs": error.jobs})
        case ConfigError():
            return problem.model_copy(update={"errors": [FieldError(field=error.field, message=error.reason)]})
        case CursorUnknownError():
            return problem.model_copy(update={"errors": [FieldError(field="after", message="is not in the list")]})
        case IdempotencyKeyReusedError():
            reused = FieldError(field="Idempotency-Key", message="came with another request before")
            return problem.model_copy(update={"errors": [reused]})
        case BudgetInfeasibleError():
            return problem.model_copy(
                update={
                    "binding_constraint": error.binding_constraint,
                    "limit": error.limit,
                    "required": error.required,
                    "exceeded": {
                        name: ExceededLimit(limit=limit, required=error.nearest.constraint_value(name))
                        for name, limit in error.exceeded.items()
                    },
                    "nearest_feasible": MemberCosts.of(error.nearest),
                }
            )
    return problem


def plain_problem(status: int, *, code: str | None = None, detail: str | None = None) -> Problem:
    """Return the problem of a bare HTTP status."""
    code = code or _PLAIN_CODES.get(status, "http_error")
    phrase = HTTPStatus(status).phrase
    return Problem(type=_type(code), title=phrase, status=status, detail=detail or phrase, code=code)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the response of a problem; a 503 says when to try again."""
    extra = dict(headers or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    content = {name: value for name, value in problem.model_dump(mode="json").items() if value is not None}
    return JSONResponse(content, status_code=problem.status, media_type=PROBLEM_JSON, headers=extra)


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    @app.exception_handler(TlegError)
    async def on_domain_error(request: Request, error: TlegError) -> JSONResponse:
        problem = problem_of(error)
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            facts = {"action": "request_failed", "path": request.url.path, "code": problem.code}
            logger.error(problem.detail, extra=facts | ({"cause": error.__cause__} if error.__cause__ else {}))
        return problem_response(problem)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        detail = str(error.detail)
        if detail == HTTPStatus(error.status_code).phrase and error.status_code in (404, 405):
            detail = f"there is no {request.method} {request.url.path[:200]}; /docs lists what there is"
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_allowed_methods(app, request)))
        return problem_response(plain_problem(error.status_code, detail=detail), headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [_field_error(item, request) for item in error.errors()[:_ERRORS_SHOWN]]
        detail = "; ".join(f"{item.field}: {item.message}" for item in errors[:5])
        problem = plain_problem(422, code="invalid_request", detail=detail)
        return problem_response(problem.model_copy(update={"title": "The request is not valid", "errors": errors}))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error, extra={"action": "request_failed", "path": request.url.path})
        return problem_response(plain_problem(500, code="internal_error", detail="something failed; the log has the details"))


def _allowed_methods(app: FastAPI, request: Request) -> set[str]:
    """Return the methods of every route that the path matches; the framework names those of the first."""
    allowed = set()
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        scope = dict(request.scope) | {"method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.router.routes):
            allowed.add(method)
    return allowed


def _type(code: str) -> str:
    return f"urn:tleg:problem:{code}"


def _field_error(item: Mapping[str, Any], request: Request) -> FieldError:
    """Name the field as the user wrote it: the place in the body or the query, without the framework's prefix."""
    location = [str(part)[:80] for part in item["loc"] if part != ""]
    if item["type"] == "json_invalid":
        return FieldError(field="body", message=f"is not JSON: {item.get('ctx', {}).get('error', item['msg'])}")
    if location == ["body"] and "json" not in request.headers.get("content-type", ""):
        return FieldError(field="body", message="must be a JSON object, sent with Content-Type: application/json")
    inner = location[1:] if location[0] in ("body", "query", "path", "header") else location
    known = _fields_beside(request, item["loc"]) if item["type"] == "extra_forbidden" else ()
    return FieldError(field=".".join(inner) or location[0], message=invalid_value_message(item, known))


def _fields_beside(request: Request, location: Sequence[int | str]) -> list[str]:
    """Return the names of the body's fields where an unknown one stands at `location`."""
    body = getattr(request.scope.get("route"), "body_field", None)
    kinds = [] if body is None else [body.field_info.annotation]
    for part in location[1:-1]:
        if not isinstance(part, int):
            kinds = [model.model_fields[part].annotation for model in _models(kinds) if part in model.model_fields]
    return [name for model in _models(kinds) for name in model.model_fields]


def _models(kinds: Iterable[Any]) -> Iterator[type[BaseModel]]:
    """Return the models among types, and in their unions and lists."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        else:
            yield from _models(get_args(kind))
