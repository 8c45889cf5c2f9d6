"""Canonical JSON and digests: one value, one sequence of bytes, one sha256.

Digests and ids are taken of these bytes, so their form is frozen: sorted keys, no spaces, ASCII, finite numbers only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"


def canonical_json(value: Json) -> bytes:
    """Return the canonical JSON of `value`; raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def sha256_hex(*parts: bytes | memoryview) -> str:
    """Return the sha256 of the parts' concatenation, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
