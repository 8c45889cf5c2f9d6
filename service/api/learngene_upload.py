"""The body of a learngene's publication: a safetensors file, streamed into a file.

What is none is refused by its first bytes; what it holds is `tleg_core.learngene`'s to check, when all of it is there.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from fastapi import Request

from service.api.upload import UploadLimits, declared_bytes, watched_body, write_all
from service.domain.errors import LearngeneRefusedError, UploadTooLargeError, UploadTypeError
from service.ingest.ingestion import storage_failures
from tleg_core.tensorfile import MAX_HEADER_BYTES

_BLOCK_BYTES = 1024**2
_HEAD_BYTES = 9  # the header's length, and the brace that it begins with
_TYPES = frozenset(
    {"", "application/octet-stream", "binary/octet-stream", "application/safetensors", "application/x-safetensors"}
)
_HINT = "send a learngene's safetensors file: tleg publish FILE, or curl -T FILE -X POST"


def check_learngene_upload(request: Request, limits: UploadLimits) -> None:
    """Refuse by its headers what need not be read.

    Raises:
        UploadTooLargeError: It says that it is too long.
        UploadTypeError: It says that it is something else.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _TYPES:
        raise UploadTypeError(f"a learngene is not sent as {content_type[:100]!r}; {_HINT}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UploadTypeError("a learngene is sent without a Content-Encoding")
    if declared_bytes(request) > limits.max_bytes:
        raise UploadTooLargeError(limits.max_bytes)


async def receive_learngene(request: Request, target: Path, limits: UploadLimits) -> None:
    """Write the body into a file.

    Raises:
        UploadTooLargeError: It is too long.
        UploadTypeError: It is no safetensors file by its first bytes.
        LearngeneRefusedError: It is empty, or its header is too long.
        UploadStalledError: It paused, or trickled.
        StorageFullError: There is no room.
        starlette.requests.ClientDisconnect: The client went away.
    """
    pending, received, is_checked = bytearray(), 0, False
    with storage_failures(), target.open("wb", buffering=0) as file:
        async for chunk in watched_body(request, limits.idle_s):
            received += len(chunk)
            if received > limits.max_bytes:
                raise UploadTooLargeError(limits.max_bytes)
            pending += chunk
            if not is_checked and len(pending) >= _HEAD_BYTES:
                _check_head(bytes(pending[:_HEAD_BYTES]))
                is_checked = True
            if len(pending) >= _BLOCK_BYTES:
                await asyncio.to_thread(write_all, file, bytes(pending))
                pending.clear()
        if not is_checked:
            raise LearngeneRefusedError(f"the upload is {'cut short' if received else 'empty'}; {_HINT}")
        await asyncio.to_thread(write_all, file, bytes(pending))


def _check_head(head: bytes) -> None:
    """Refuse what is no safetensors file by its first bytes, or has too long a header."""
    if head.startswith(b"PK\x03\x04") or (head[0] == 0x80 and head[1] in range(2, 6) and head[8:9] != b"{"):
        raise UploadTypeError(f"the upload is a pickle or a zip by its first bytes, as PyTorch's checkpoints are; {_HINT}")
    if head[8:9] not in (b"{", b" "):
        raise UploadTypeError(f"the upload is no safetensors file by its first bytes; {_HINT}")
    (length,) = struct.unpack("<Q", head[:8])
    if length > MAX_HEADER_BYTES:
        raise LearngeneRefusedError(f"the file: header of {length:,} bytes is above the limit of {MAX_HEADER_BYTES:,}")
