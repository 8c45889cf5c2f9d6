"""The Idempotency-Key: the same key and the same request make one job, however often they come."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel

from service.storage.job_reader import IdempotencyKey
from tleg_core.canonical import sha256_hex

IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[ -~]+$",
        description="A key of the client's own, kept for a day: the same request with the same key makes no second job.",
    ),
]


def idempotency_key(text: str | None, route: str, body: BaseModel) -> IdempotencyKey | None:
    """Return the digests of a client's key and of what it asks for: the route, and what its body sets."""
    if text is None:
        return None
    request = json.dumps([route, body.model_dump(mode="json", exclude_unset=True)], sort_keys=True)
    return IdempotencyKey(digest=sha256_hex(text.encode()), request=sha256_hex(request.encode()))
