"""What is said of a value that is not valid: the checker's facts in words for whoever wrote the value.

It knows the form of pydantic's errors, and neither HTTP nor the command line.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

_MOST_CHARACTERS = 500
_LONGEST_ECHO = 40  # characters
_ECHOED = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "multiple_of",
        "finite_number",
        "enum",
        "literal_error",
    }
)


def invalid_value_message(item: Mapping[str, Any], known: Collection[str] = ()) -> str:
    """Return what is wrong, of one item of a `ValidationError`; `known` are the names of the fields where it stands."""
    message = str(item["msg"])
    if item["type"] == "extra_forbidden":
        message = unknown_name_message(str(item["loc"][-1]), known)
    elif item["type"] == "value_error":
        message = message.removeprefix("Value error, ")
    elif item["type"] in _ECHOED:
        message += _echo(item.get("input"), quoted=item["type"] in ("enum", "literal_error"))
    return message[:_MOST_CHARACTERS]


def unknown_name_message(name: str, known: Collection[str], *, noun: str = "field") -> str:
    """Return what is wrong with a name that is none of the known ones, and which of these may be meant."""
    close = get_close_matches(name[:80], known, n=1)
    return f"is no {noun} here{f'; did you mean `{close[0]}`?' if close else ''}"


def _echo(value: object, *, quoted: bool) -> str:
    """Return the value that was given, if it is a short number or text: as it was written, without control characters."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return ""
    if (isinstance(value, int) and value.bit_length() > 128) or (isinstance(value, str) and len(value) > _LONGEST_ECHO):
        return ""
    text = json.dumps(value)  # ASCII, with what is no character or moves a cursor escaped
    if isinstance(value, str):
        text = f"'{text[1:-1]}'" if quoted else text[1:-1]
    return f", not {text}" if len(text) <= _LONGEST_ECHO else ""
