"""The responses that send a model's file: one is computed on the way out, one comes from the object store.

Blocks are computed on the event loop: one takes a fraction of a millisecond, less than handing it to a thread. After each the
loop gets its turn, so that many downloads and other requests share it. A client that goes away stops computation and reading.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.byte_range import requested_part
from service.api.problems import plain_problem, problem_response
from tleg_core.errors import TlegError

logger = logging.getLogger(__name__)


class _FileResponse(Response):
    """A file answered whole or in part, by the request's conditions and range.

    Args:
        request: The GET or HEAD request.
        size: The file's length in bytes.
        etag: Its strong entity tag, without quotes.
        filename: What a browser saves it as; made of our own ids only.
        immutable: Whether the path means these bytes for ever, so that caches need not ask again.
        headers: More headers.
    """

    def __init__(
        self,
        request: Request,
        *,
        size: int,
        etag: str,
        filename: str,
        immutable: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        quoted = f'"{etag}"'
        self._part = requested_part(request.method, request.headers, size=size, etag=quoted)
        lifetime = "max-age=31536000, immutable" if immutable else "no-cache"
        common = dict(headers or {}) | {
            "Accept-Ranges": "bytes",
            "ETag": quoted,
            "Content-Disposition": f'attachment; filename="{filename}"',
            "Cache-Control": f"public, {lifetime}, no-transform",
        }
        self._error: Response | None = None
        super().__init__(status_code=self._part.status, media_type="application/octet-stream")
        match self._part.status:
            case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                problem = plain_problem(416, code="range_not_satisfiable", detail=f"the file has {size} bytes")
                self._error = problem_response(problem, {"Content-Range": f"bytes */{size}", "ETag": quoted})
            case HTTPStatus.PRECONDITION_FAILED:
                problem = plain_problem(412, code="precondition_failed", detail=f"the file's tag is {quoted}")
                self._error = problem_response(problem, {"ETag": quoted})
            case HTTPStatus.NOT_MODIFIED:
                del self.headers["content-length"], self.headers["content-type"]
            case HTTPStatus.PARTIAL_CONTENT:
                common["Content-Range"] = f"bytes {self._part.start}-{self._part.stop - 1}/{size}"
        if self._error is None:
            self.headers.update(common)
            if self._part.status != HTTPStatus.NOT_MODIFIED:
                self.headers["content-length"] = str(self._part.stop - self._part.start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, and for a GET the bytes."""
        if self._error is not None:
            await self._error(scope, receive, send)
            return
        if scope["method"] == "HEAD" or self._part.stop <= self._part.start:
            await self._begin(send)
            await _end(send)
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._send(self._part.start, self._part.stop, send, gone)
        finally:
            gone.cancel()

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    @abstractmethod
    async def _send(self, start: int, stop: int, send: Send, gone: asyncio.Future[None]) -> None:
        """Send headers, the bytes `start`..`stop` and the end, unless the client is `gone` before."""


class ComputedFileResponse(_FileResponse):
    """A file that is computed; `blocks` is called with start and stop and yields those bytes."""

    def __init__(self, request: Request, *, blocks: Callable[[int, int], Iterator[memoryview]], **file: Any) -> None:
        super().__init__(request, **file)
        self._blocks = blocks

    async def _send(self, start: int, stop: int, send: Send, gone: asyncio.Future[None]) -> None:
        await self._begin(send)
        for block in self._blocks(start, stop):
            await send({"type": "http.response.body", "body": block, "more_body": True})
            await asyncio.sleep(0)
            if gone.done():
                return
        await _end(send)


class StoredFileResponse(_FileResponse):
    """A file that is read from a store; `chunks` is called with start and stop and yields those bytes.

    Headers are sent once the first chunk is there, so that its failure is answered as a problem. A later one can only cut the
    connection: the client sees a short file, and `Range` takes it up.
    """

    def __init__(
        self, request: Request, *, chunks: Callable[[int, int], AsyncGenerator[memoryview]], filename: str, **file: Any
    ) -> None:
        super().__init__(request, filename=filename, **file)
        self._chunks = chunks
        self._filename = filename

    async def _send(self, start: int, stop: int, send: Send, gone: asyncio.Future[None]) -> None:
        async with aclosing(self._chunks(start, stop)) as chunks:
            chunk: memoryview | None = await anext(chunks)
            await self._begin(send)
            while chunk is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if gone.done():
                    return
                try:
                    chunk = await anext(chunks, None)
                except TlegError as error:
                    logger.error("a download is cut: %s", error, extra={"action": "download_cut", "file": self._filename})
                    return
        await _end(send)


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
