"""A file's content as it is sent: in chunks, and exactly as long as was promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from service.client.effect import Upload
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


def file_upload(path: Path) -> Upload:
    """Return a file's content as it is sent; raises `ClientError` where it cannot be read."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise ClientError(f"{path}: cannot be read: {error.strerror}") from None
    return Upload(chunks=lambda: read_exactly(path, size_bytes), size_bytes=size_bytes)


def reporting(upload: Upload, progress: Callable[[int, int], None]) -> Upload:
    """Return an upload that says how far it is: the bytes that were sent, and the bytes in all."""

    def chunks() -> Iterator[bytes]:
        sent = 0
        for chunk in upload.chunks():
            yield chunk
            sent += len(chunk)  # it was taken when the next one is asked for
            progress(sent, upload.size_bytes)

    return Upload(chunks=chunks, size_bytes=upload.size_bytes)
