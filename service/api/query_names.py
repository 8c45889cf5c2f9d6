"""The names that a route takes in its query; others are refused, as unknown fields of bodies are.

A misspelt `?dryrun=true` would otherwise make what it was to show only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

_MOST_NAMED = 50  # of those that are refused


async def refuse_unknown_queries(request: Request) -> None:  # async, or it would be handed to a thread
    """Let requests pass whose query has names of their route's alone; a dependency of routers.

    Raises:
        RequestValidationError: There are others.
    """
    if not request.scope["query_string"]:
        return
    known = query_names(request.scope["route"])
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name), "msg": "unknown"} for name in unknown[:_MOST_NAMED]]
        )


def query_names(route: Any) -> frozenset[str]:
    """Return the names that a route and what it depends on take in the query; none of a route of another framework."""
    dependant = getattr(route, "dependant", None)
    return frozenset() if dependant is None else frozenset(_names(dependant))


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)
