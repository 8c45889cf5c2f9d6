"""File answers in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.api.schemas.problems import problem_responses

_HEADERS = {
    "ETag": {"description": "Strong: it changes if a single byte does.", "schema": {"type": "string"}},
    "Accept-Ranges": {"description": "`bytes`.", "schema": {"type": "string"}},
    "Content-Length": {"description": "Bytes of the answer.", "schema": {"type": "integer"}},
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def file_responses() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a file's answers: whole, part, unchanged, and errors."""
    return {
        200: {"description": "The file.", "content": _BINARY, "headers": _HEADERS},
        206: {"description": "The bytes that `Range` asks for.", "content": _BINARY, "headers": _HEADERS},
        304: {"description": "`If-None-Match` names the file as it is."},
        **problem_responses(404, 412, 416, 503),
    }
