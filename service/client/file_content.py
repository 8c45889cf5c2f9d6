"""A file's content as it is sent: in chunks, and exactly as long as was promised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.client.errors import ClientError

CHUNK_BYTES = 1024 * 1024


def read_exactly(path: Path, size_bytes: int) -> Iterator[bytes]:
    """Yield the first `size_bytes` of a file; raises `ClientError` where it has become shorter or cannot be read."""
    left = size_bytes
    try:
        with path.open("rb") as file:
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise ClientError(f"{path}: cannot be read: {error.strerror}") from None
    if left:
        raise ClientError(f"{path}: became shorter while it was sent")
