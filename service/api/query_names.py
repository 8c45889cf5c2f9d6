"""The names that a route takes in its query; others are refused, as unknown fields of bodies are, and so are repeated ones.

A misspelt `?dryrun=true` would otherwise make what it was to show only, and `?dry_run=true&dry_run=false` too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

from service.domain.invalid_value import unknown_name_message

_MOST_NAMED = 50  # of those that are refused


async def refuse_odd_queries(request: Request) -> None:  # async, or it would be handed to a thread
    """Let requests pass whose query has only names that their route knows, each once; a dependency of routers.

    Raises:
        RequestValidationError: It has others.
    """
    if not request.scope["query_string"]:
        return
    known = set(_names(request.scope["route"].dependant))
    given = Counter(name for name, _ in request.query_params.multi_items())
    odd = [name for name, times in given.items() if name not in known or times > 1]
    if odd:
        raise RequestValidationError(
            [{"type": "odd_query", "loc": ("query", name), "msg": _reason(name, known)} for name in odd[:_MOST_NAMED]]
        )


def _reason(name: str, known: Collection[str]) -> str:
    if name in known:
        return "is given more than once"
    return unknown_name_message(name, known, noun="parameter") if name else "has a parameter without a name"


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield the names that a route and what it depends on take in the query."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)
