"""The OpenAPI document: FastAPI's own, without the 422 that it adds by itself to every route with a parameter.

The application gives the API's routes their own 422, with the schema of a problem: each refuses parameters that it does not
know. Routes that take any query have nothing to refuse where only a path's text is read.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_ADDED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def install_document(app: FastAPI) -> None:
    """Make `app` serve the document without what the framework added; call it before the first request."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _drop_added_answers(FastAPI.openapi(app))
        return FastAPI.openapi(app)

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _drop_added_answers(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422", {})
            if "application/json" in answer.get("content", {}):
                del operation["responses"]["422"]
    for name in _ADDED_SCHEMAS:
        document["components"]["schemas"].pop(name, None)
