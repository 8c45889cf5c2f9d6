"""HTTP's conditions and ranges (RFC 9110, sections 13 and 14): what part of a file a request is owed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

_RANGE = re.compile(r"bytes=(?:0*(?=\d))?(\d*)-(?:0*(?=\d))?(\d*)", re.IGNORECASE)  # leading zeros are left out
_MAX_DIGITS = 19  # of a position; a longer number lies outside any file


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The status of the answer, and which bytes it carries."""

    status: HTTPStatus
    start: int
    stop: int


def requested_part(method: str, headers: Mapping[str, str], *, size: int, etag: str) -> Part:
    """Return the part of a file of `size` bytes that a GET or HEAD with these headers is owed.

    One byte range is honoured, of a GET (for a HEAD the RFC defines none). Several ranges, other units and malformed ranges
    are ignored, as the RFC allows, and the whole file is sent. The files have no date of modification, so conditions on it
    are ignored too.

    Args:
        method: GET or HEAD.
        headers: The request's headers, by lower-case name.
        size: The file's length in bytes.
        etag: Its strong entity tag, quotes included.
    """
    whole = Part(status=HTTPStatus.OK, start=0, stop=size)
    if "if-match" in headers and not _names(headers["if-match"], etag, weak=False):
        return Part(status=HTTPStatus.PRECONDITION_FAILED, start=0, stop=0)
    if "if-none-match" in headers and _names(headers["if-none-match"], etag, weak=True):
        return Part(status=HTTPStatus.NOT_MODIFIED, start=0, stop=0)
    condition = headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return whole
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if method != "GET" or found is None or found.groups() == ("", ""):
        return whole
    first, last = (text[:_MAX_DIGITS] for text in found.groups())
    if first and last and int(last) < int(first):
        return whole  # malformed, by the RFC's words
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or (not first and int(last) == 0):
        return Part(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, start=0, stop=0)
    return Part(status=HTTPStatus.PARTIAL_CONTENT, start=start, stop=stop)


def _names(condition: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags names this one, or is `*`; a weak comparison overlooks a tag's `W/`."""
    tags = [tag.strip() for tag in condition.split(",")]
    return "*" in tags or any((tag.removeprefix("W/") if weak else tag) == etag for tag in tags)
