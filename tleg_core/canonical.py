"""JSON, written canonically and read strictly, and digests: one value, one sequence of bytes, one sha256.

Digests and ids are taken of these bytes, so their form is frozen: sorted keys, no spaces, ASCII, finite numbers only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"


def canonical_json(value: Json) -> bytes:
    """Return the canonical JSON of `value`; raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def strict_json(text: str) -> Any:
    """Return the value of a JSON text from outside.

    Raises:
        ValueError: It is not JSON, is nested too deeply, holds NaN or an infinity, or an object has a name twice.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return result

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256_hex(*parts: bytes | memoryview) -> str:
    """Return the sha256 of the parts' concatenation, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
