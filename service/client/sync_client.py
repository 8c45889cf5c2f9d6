"""The client that blocks: it does the effects of the verbs, which are in the modules beside this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_sse import EventSource, ServerSentEvent

from service.client import datasets, exports, fine_tunes, jobs, learngenes, models, trainings
from service.client import download as downloads
from service.client import events as event_streams
from service.client.connection import DOWNLOAD_CHUNK_BYTES, base_url, options
from service.client.effect import (
    Course,
    Do,
    Effect,
    Emit,
    EmittingFlow,
    Flow,
    Open,
    ReadAll,
    ReadChunk,
    ReadEvent,
    Request,
    Send,
    Sleep,
)

P = ParamSpec("P")
T = TypeVar("T")


def _verb(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[Client, P], T]:
    """Return the method that follows a flow to its result."""

    @wraps(flow)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        course: Course[None, T] = Course(flow(*args, **kwargs))
        for _ in client._follow(course):
            pass
        return course.result

    return method


def _iterator(flow: Callable[P, EmittingFlow[T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """Return the method that iterates over what a flow emits."""

    @wraps(flow)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return client._follow(Course(flow(*args, **kwargs)))

    return method


class Client:
    """A connection to one server; use it as a context manager.

    Args:
        url: The server's address, such as `http://127.0.0.1:8000`.
        transport: Another way to the server, for tests.

    Every method raises `ClientError` where the server cannot be reached or refuses; its `problem` says why.
    """

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(base_url=base_url(url), transport=transport)

    create_model = _verb(models.create_model)
    get_model = _verb(models.get_model)
    list_models = _verb(models.list_models)
    download = _verb(downloads.download)

    export_model = _verb(exports.export_model)
    get_export = _verb(exports.EXPORTS.get)
    list_exports = _verb(exports.list_exports)
    cancel_export = _verb(exports.EXPORTS.cancel)
    pause_export = _verb(exports.EXPORTS.pause)
    resume_export = _verb(exports.EXPORTS.resume)
    wait_for_export = _verb(exports.EXPORTS.wait)
    download_export = _verb(exports.download_export)

    publish_learngene = _verb(learngenes.publish_learngene)
    get_learngene = _verb(learngenes.get_learngene)
    list_learngenes = _verb(learngenes.list_learngenes)
    delete_learngene = _verb(learngenes.delete_learngene)
    download_learngene = _verb(learngenes.download_learngene)

    upload_dataset = _verb(datasets.upload_dataset)
    get_dataset = _verb(datasets.get_dataset)
    list_datasets = _verb(datasets.list_datasets)
    delete_dataset = _verb(datasets.delete_dataset)

    create_fine_tune = _verb(fine_tunes.create_fine_tune)
    get_fine_tune = _verb(fine_tunes.FINE_TUNES.get)
    list_fine_tunes = _verb(fine_tunes.list_fine_tunes)
    cancel_fine_tune = _verb(fine_tunes.FINE_TUNES.cancel)
    pause_fine_tune = _verb(fine_tunes.FINE_TUNES.pause)
    resume_fine_tune = _verb(fine_tunes.FINE_TUNES.resume)
    list_checkpoints = _verb(fine_tunes.list_checkpoints)
    wait_for_fine_tune = _verb(fine_tunes.FINE_TUNES.wait)
    download_result = _verb(fine_tunes.download_result)

    train_learngene = _verb(trainings.train_learngene)
    get_training = _verb(trainings.TRAININGS.get)
    list_trainings = _verb(trainings.list_trainings)
    cancel_training = _verb(trainings.TRAININGS.cancel)
    pause_training = _verb(trainings.TRAININGS.pause)
    resume_training = _verb(trainings.TRAININGS.resume)
    wait_for_training = _verb(trainings.TRAININGS.wait)

    list_events = _verb(jobs.list_events)
    events = _iterator(event_streams.events)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def _follow(self, course: Course[T, Any]) -> Iterator[T]:
        """Do a course's effects to its end; yield what it emits."""
        with closing(course), closing(_Wire(self._http)) as wire:
            while (effect := course.effect) is not None:
                if isinstance(effect, Emit):
                    yield effect.value
                    course.resume(None)
                    continue
                try:
                    result = wire.do(effect)
                except Exception as error:
                    course.fail(error)
                else:
                    course.resume(result)


class _Wire:
    """Does effects; holds the stream that is open."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._events: Iterator[ServerSentEvent] = iter(())

    def do(self, effect: Effect) -> object:
        """Do an effect and return its result."""
        match effect:
            case Send(request):
                return self._send(request, stream=False)
            case Open(request):
                self.close()
                self._response = self._send(request, stream=True)
                self._chunks = self._response.iter_raw(DOWNLOAD_CHUNK_BYTES)
                self._events = EventSource(self._response).iter_sse()
                return self._response
            case ReadAll():
                if self._response is not None:
                    self._response.read()
                return self._response
            case ReadChunk():
                return next(self._chunks, None)
            case ReadEvent():
                return next(self._events, None)
            case Sleep(seconds):
                time.sleep(seconds)
                return None
            case Do(function):
                return function()

    def close(self) -> None:
        """Close the stream."""
        if self._response is not None:
            self._response.close()

    def _send(self, request: Request, *, stream: bool) -> httpx.Response:
        content = None if request.upload is None else request.upload.chunks()
        return self._http.send(self._http.build_request(**options(request), content=content), stream=stream)
