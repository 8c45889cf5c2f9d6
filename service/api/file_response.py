"""The response that sends a file which is computed on the way out.

Blocks are computed on the event loop: one takes a fraction of a millisecond, less than handing it to a thread. After each the
loop gets its turn, so that many downloads and other requests share it. A client that goes away stops the computation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.byte_range import requested_part
from service.api.problems import plain_problem, problem_response


class ComputedFileResponse(Response):
    """A file answered whole or in part, by the request's conditions and range.

    Args:
        request: The GET or HEAD request.
        size: The file's length in bytes.
        etag: Its strong entity tag, without quotes.
        blocks: Called with start and stop, yields those bytes.
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
        blocks: Callable[[int, int], Iterator[memoryview]],
        filename: str,
        immutable: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        quoted = f'"{etag}"'
        self._part = requested_part(request.method, request.headers, size=size, etag=quoted)
        self._blocks = blocks
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
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD" and self._part.stop > self._part.start:
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                for block in self._blocks(self._part.start, self._part.stop):
                    await send({"type": "http.response.body", "body": block, "more_body": True})
                    await asyncio.sleep(0)
                    if gone.done():
                        return
            finally:
                gone.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
