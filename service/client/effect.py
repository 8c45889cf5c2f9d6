"""What a verb asks of its connection, one effect after the other; how they are done is the connection's business.

A verb is written once, as a generator that yields effects, is sent their results, and returns its own: no line of it knows
whether the connection behind it blocks or awaits. `sync_client` and `async_client` do the effects, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
from httpx_sse import ServerSentEvent

from tleg_core.canonical import Json

T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A request's body that is made while it is sent.

    Args:
        chunks: Makes the body, from its beginning each time that it is called.
        size_bytes: Its length.
    """

    chunks: Callable[[], Iterator[bytes]]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request.

    Args:
        method: GET, POST or DELETE.
        path: From the server's root on, quoted.
        params: The query.
        headers: Beside httpx's own.
        json: The body, as JSON.
        upload: The body, as a stream.
        read_timeout_s: Seconds that the server may be silent.
    """

    method: str
    path: str
    params: Mapping[str, str | int | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Json = None
    upload: Upload | None = None
    read_timeout_s: float = 30.0

    def __str__(self) -> str:
        """Return the request as errors name it."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the result is the answer, read to its end."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request; the result is the answer, its body yet to be read. A stream that was open is closed."""

    request: Request


class ReadAll:
    """Read the open stream to its end; the result is its response, with its content."""


class ReadChunk:
    """Read from the open stream; the result is bytes, or None at its end."""


class ReadEvent:
    """Read from the open stream; the result is a Server-Sent Event, or None at its end."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Do:
    """Call a function that may block: files and digests; the result is its own."""

    function: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Give a value to whoever iterates."""

    value: T


Effect: TypeAlias = Send | Open | ReadAll | ReadChunk | ReadEvent | Sleep | Do
Flow: TypeAlias = Generator[Effect, Any, T]
EmittingFlow: TypeAlias = Generator[Effect | Emit[T], Any, None]


def send(request: Request) -> Flow[httpx.Response]:
    """Send a request and return its answer; raises `httpx.TransportError`."""
    response: httpx.Response = yield Send(request)
    return response


def open_stream(request: Request) -> Flow[httpx.Response]:
    """Send a request and return its answer without its body; raises `httpx.TransportError`."""
    response: httpx.Response = yield Open(request)
    return response


def read_all() -> Flow[httpx.Response]:
    """Return the open stream's response with its content; raises `httpx.TransportError`."""
    response: httpx.Response = yield ReadAll()
    return response


def read_chunk() -> Flow[bytes | None]:
    """Return the next bytes of the open stream, None at its end; raises `httpx.TransportError`."""
    chunk: bytes | None = yield ReadChunk()
    return chunk


def read_event() -> Flow[ServerSentEvent | None]:
    """Return the next event of the open stream, None at its end; raises `httpx.TransportError`."""
    event: ServerSentEvent | None = yield ReadEvent()
    return event


def sleep(seconds: float) -> Flow[None]:
    """Let seconds pass."""
    yield Sleep(seconds)


def do(function: Callable[[], T]) -> Flow[T]:
    """Return what the function returns; it may block."""
    result: T = yield Do(function)
    return result


class Course(Generic[E, T]):
    """A flow on its way: the effect that it waits for, and at the end its result."""

    def __init__(self, flow: Generator[Effect | Emit[E], Any, T]) -> None:
        self._flow = flow
        self._results: list[T] = []
        self.effect: Effect | Emit[E] | None = None
        self.resume(None)

    def resume(self, answer: object) -> None:
        """Go on with an effect's result."""
        self._step(lambda: self._flow.send(answer))

    def fail(self, error: Exception) -> None:
        """Go on with an effect's error; raises it where the flow does not handle it."""
        self._step(lambda: self._flow.throw(error))

    def close(self) -> None:
        """Give it up."""
        self._flow.close()

    @property
    def result(self) -> T:
        """What the flow returned."""
        return self._results[0]

    def _step(self, step: Callable[[], Effect | Emit[E]]) -> None:
        try:
            self.effect = step()
        except StopIteration as end:
            self.effect = None
            self._results.append(end.value)
