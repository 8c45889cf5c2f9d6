"""The names that a route takes in its query; others are refused, as unknown fields of bodies are, and so are repeated ones.

A misspelt `?dryrun=true` would otherwise make what it was to show only, and `?dry_run=true&dry_run=false` too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

_MOST_NAMED = 50  # of those that are refused


async def refuse_odd_queries(request: Request) -> None:  # async, or it would be handed to a thread
    """Let requests pass whose query has only names that their route knows, each once; a dependency of routers.

    Raises:
        RequestValidationError: It has others.
    """
    if not request.scope["query_string"]:
        return
    known = query_names(request.scope["route"])
    given = Counter(name for name, _ in request.query_params.multi_items())
    unknown = [(name, "extra_forbidden") for name in given if name not in known]
    repeated = [(name, "repeated") for name, times in given.items() if name in known and times > 1]
    if odd := unknown + repeated:
        raise RequestValidationError(
            [{"type": kind, "loc": ("query", name), "msg": "is given more than once"} for name, kind in odd[:_MOST_NAMED]]
        )


def query_names(route: Any) -> frozenset[str]:
    """Return the names that a route and what it depends on take in the query; none for a route that is not FastAPI's."""
    dependant = getattr(route, "dependant", None)
    return frozenset() if dependant is None else frozenset(_names(dependant))


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)
