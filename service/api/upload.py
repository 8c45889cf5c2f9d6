"""The body of an upload, streamed into a file: as it is, or as the one file of a form.

Its kind is told by its first bytes. It ends early where it is of no kind that is read here, grows past its limit, pauses for
too long, or trickles.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.domain.errors import DatasetRefusedError, UploadStalledError, UploadTooLargeError, UploadTypeError
from service.ingest.container import HEAD_BYTES, Container, container_of, is_known_type, may_be_sent_as
from service.ingest.ingestion import storage_failures

MIN_BYTES_PER_S = 1024
"""An upload that is slower for as long as it may pause holds a connection and gives little for it."""

_BLOCK_BYTES = 1024**2
_FORM = "multipart/form-data"
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_NAME_BYTES = 1024
_HINT = "send a zip, a tar or tar.gz, or a parquet file: curl -T FILE -X POST, or curl -F file=@FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """What the operator allows.

    Args:
        max_bytes: How long an upload may be.
        idle_s: Seconds that it may pause.
    """

    max_bytes: int
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An upload in a file.

    Args:
        container: What it is packed in.
        name: What the form calls it: its field `name`, or the file's name without its ending.
    """

    container: Container
    name: str | None


def declared_bytes(request: Request) -> int:
    """Return how long the client says that the body is; 0 if it does not say."""
    declared = request.headers.get("content-length", "")
    return int(declared[:19]) if declared.isascii() and declared.isdigit() else 0


def check_upload(request: Request, limits: UploadLimits) -> None:
    """Refuse by its headers what need not be read.

    Raises:
        UploadTooLargeError: It says that it is too long.
        UploadTypeError: It says that it is something else.
    """
    content_type = _content_type(request)
    if content_type != _FORM and not is_known_type(content_type):
        raise UploadTypeError(f"a data set is not sent as {content_type[:100]!r}; {_HINT}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UploadTypeError("a data set is sent without a Content-Encoding")
    if declared_bytes(request) > limits.max_bytes + (_FORM_OVERHEAD_BYTES if content_type == _FORM else 0):
        raise UploadTooLargeError(limits.max_bytes)


async def receive_upload(request: Request, target: Path, limits: UploadLimits) -> Received:
    """Write an upload into a file.

    Args:
        request: The request, after `check_upload`.
        target: The file.
        limits: What the operator allows.

    Raises:
        UploadTooLargeError: It is too long.
        UploadTypeError: It is none of what is read here, or not what it is sent as.
        UploadStalledError: It paused, or trickled.
        DatasetRefusedError: It is empty, or the form is none, or has no file.
        StorageFullError: There is no room.
        starlette.requests.ClientDisconnect: The client went away.
    """
    content_type = _content_type(request)
    body = watched_body(request, limits.idle_s)
    with storage_failures(), target.open("wb", buffering=0) as file:
        sink = _Sink(file, limits.max_bytes)
        if content_type == _FORM:
            form = _Form(request.headers["content-type"])
            received = 0
            async for chunk in body:
                received += len(chunk)
                if received > limits.max_bytes + _FORM_OVERHEAD_BYTES:  # the file is counted too; this ends what is beside it
                    raise UploadTooLargeError(limits.max_bytes)
                for piece in form.pieces(chunk):
                    await sink.write(piece, form.content_type)
            form.finish()
            return Received(container=await sink.finish(form.content_type), name=form.name)
        async for chunk in body:
            await sink.write(chunk, content_type)
        return Received(container=await sink.finish(content_type), name=None)


async def drain(request: Request, *, max_bytes: int, seconds: float) -> None:
    """Read on for a while after a refusal: a client that is still sending sees the answer only if nobody hangs up on it."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                max_bytes -= len(chunk)
                if max_bytes < 0:
                    return


class _Sink:
    """The file, with its kind checked at the beginning and its length all the way."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._pending = bytearray()
        self._written = 0
        self._container: Container | None = None

    async def write(self, chunk: bytes | memoryview, content_type: str) -> None:
        """Append some bytes."""
        if self._written + len(self._pending) + len(chunk) > self._max_bytes:
            raise UploadTooLargeError(self._max_bytes)
        self._pending += chunk
        if self._container is None and len(self._pending) >= HEAD_BYTES:
            self._container = _container(self._pending, content_type)
        if len(self._pending) >= _BLOCK_BYTES:
            await self._flush()

    async def finish(self, content_type: str) -> Container:
        """Write the rest, and return what it is."""
        if self._container is None:
            self._container = _container(self._pending, content_type)
        await self._flush()
        return self._container

    async def _flush(self) -> None:
        block = bytes(self._pending)
        self._pending.clear()
        self._written += len(block)
        await asyncio.to_thread(write_all, self._file, block)


class _Form:
    """A multipart/form-data body with one field `file`, and maybe a `name`."""

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise DatasetRefusedError("the form has no boundary")
        self.name: str | None = None
        self.content_type = ""
        self._field = ""
        self._has_file = False
        self._ended = False
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[str, bytes] = {}
        self._given_name = bytearray()
        self._pieces: list[bytes] = []
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a plain dict of some of its names
        except FormParserError as error:
            raise DatasetRefusedError(f"the form cannot be read: {error}") from error

    def pieces(self, chunk: bytes) -> list[bytes]:
        """Return what the chunk holds of the file."""
        self._pieces = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise DatasetRefusedError(f"the form cannot be read: {str(error)[:200]}") from error
        return self._pieces

    def finish(self) -> None:
        """Check that the form is whole."""
        if not self._ended:
            raise DatasetRefusedError("the form is cut short")
        if not self._has_file:
            raise DatasetRefusedError("the form has no field `file`: curl -F file=@FILE")
        if self._given_name:
            self.name = self._given_name.decode(errors="replace")

    def _begin(self) -> None:
        self._headers = {}
        self._field = ""

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        options = parse_options_header(self._headers.get("content-disposition", b""))[1]
        self._field = options.get(b"name", b"").decode(errors="replace")
        if self._field == "file":
            if self._has_file:
                raise DatasetRefusedError("the form has two fields `file`; a data set is one file")
            self._has_file = True
            self.content_type = _plain(self._headers.get("content-type", b"").decode("latin-1"))
            if not is_known_type(self.content_type):
                raise UploadTypeError(f"a data set is not sent as {self.content_type[:100]!r}; {_HINT}")
            self.name = _stem(options.get(b"filename", b"").decode(errors="replace"))
        elif self._field != "name":
            raise DatasetRefusedError(f"the form has a field {self._field[:100]!r}; it may have `file` and `name`")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "file":
            self._pieces.append(data[start:end])
            return
        self._given_name += data[start:end]
        if len(self._given_name) > _MAX_NAME_BYTES:
            raise DatasetRefusedError(f"the form's `name` has more than {_MAX_NAME_BYTES:,} bytes", limit=_MAX_NAME_BYTES)

    def _end(self) -> None:
        self._ended = True


async def watched_body(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """Yield the body as it comes; time that its reader takes is not the client's."""
    stream = request.stream().__aiter__()
    waited_s, arrived = 0.0, 0
    while True:
        before = time.monotonic()
        try:
            async with asyncio.timeout(idle_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UploadStalledError(f"the upload paused for {idle_s:g} s") from None
        waited_s += time.monotonic() - before
        arrived += len(chunk)
        if waited_s >= idle_s:
            if arrived < MIN_BYTES_PER_S * waited_s:
                raise UploadStalledError(
                    f"the upload brought {arrived:,} bytes in {waited_s:.0f} s; it must bring {MIN_BYTES_PER_S:,} a second"
                )
            waited_s, arrived = 0.0, 0
        yield chunk


def _container(head: bytearray, content_type: str) -> Container:
    if not head:
        raise DatasetRefusedError(f"the upload is empty; {_HINT}")
    container = container_of(bytes(head[:HEAD_BYTES]))
    if container is None:
        raise UploadTypeError(f"the upload is none of what is read here, by its first bytes; {_HINT}")
    if not may_be_sent_as(container, content_type):
        raise UploadTypeError(
            f"the upload is sent as {content_type[:100]!r}, and is a {container.value} file by its first bytes"
        )
    return container


def _content_type(request: Request) -> str:
    return _plain(request.headers.get("content-type", ""))


def _plain(content_type: str) -> str:
    """Return a content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def _stem(filename: str) -> str | None:
    """Return a file's name without folders and ending, for display."""
    return re.split(r"[/\\]", filename)[-1].partition(".")[0] or None


def write_all(file: IO[bytes], block: bytes) -> None:
    """Write a block to the end, where the system takes less at a time."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]
