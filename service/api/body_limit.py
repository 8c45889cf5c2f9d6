"""The limit of request bodies: a larger one is refused before it is read.

Starlette has such a middleware since 1.10; it answers text/plain where a route never reads the body, and here every error is a
problem.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import plain_problem, problem_response

_WITHOUT_BODY = ("GET", "HEAD")  # nothing here reads a body of theirs, so none is kept, however long


class BodyLimit:
    """ASGI middleware that answers 413 to a body above `max_bytes`, declared or streamed.

    Args:
        app: The application.
        max_bytes: The limit.
        unlimited: Method and path of what counts its body itself.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, unlimited: Collection[tuple[str, str]] = ()) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._unlimited = frozenset(unlimited)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY or (scope["method"], scope["path"]) in self._unlimited:
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:19]) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received = 0
        started = False

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise _TooLargeError
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted_receive, watched_send)
        except _TooLargeError:
            if started:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = plain_problem(413, detail=f"the body is larger than {self._max_bytes:,} bytes")
        await problem_response(problem, {"Connection": "close"})(scope, receive, send)


class _TooLargeError(BaseException):
    """The body outgrew its limit; a BaseException, so that no handler between here and the middleware takes it for its own."""
