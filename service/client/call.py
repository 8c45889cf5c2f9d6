"""One call of the API: sent, sent again where that is safe and promises something, and its answer or refusal read.

Every call may be sent twice (a creation carries an `Idempotency-Key`), so what was answered 503, or not to its end, is sent
again. A server that cannot be reached at all is said so at once.
"""

from __future__ import annotations

import secrets
import time
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from service.api.schemas.problems import Problem
from service.client.effect import Flow, Request, send, sleep
from service.client.errors import ClientError

BodyT = TypeVar("BodyT", bound=BaseModel)

PATIENCE_S = 30.0  # that a call is tried again for, beside the time that its answers take
_BROKEN_TRIES = 3  # of a call whose connection breaks
_SLOW_TRIES = 3  # of a call that takes longer than patience does, such as an upload
_LONGEST_DELAY_S = 5.0
_LASTING = frozenset({"learngene_not_loaded"})  # 503s that no waiting mends


def call(kind: type[BodyT], request: Request) -> Flow[BodyT]:
    """Make a call and return its answer; raises `ClientError`."""
    return read(kind, request, (yield from answer(request)))


def read(kind: type[BodyT], request: Request, response: httpx.Response) -> BodyT:
    """Return what a response holds; raises `ClientError` where it is something else."""
    try:
        return kind.model_validate_json(response.content)
    except ValidationError:
        raise ClientError(f"{_server(response)} answered {request} with something else than tleg does") from None


def answer(request: Request) -> Flow[httpx.Response]:
    """Make a call and return its answer if it is no refusal; raises `ClientError`."""
    started = time.monotonic()
    tries, waited_s, lost = 0, 0.0, False
    while True:
        tries += 1
        try:
            response = yield from send(request)
        except httpx.TransportError as error:
            if isinstance(error, httpx.ConnectError) or tries >= _BROKEN_TRIES:
                raise unreachable(error) from None
            delay, lost = backoff_s(tries), True
        else:
            deleted = lost and request.method == "DELETE" and response.status_code == httpx.codes.NOT_FOUND
            if response.is_success or deleted:  # the answer that was lost may have been the one of success
                return response
            refused = refusal(response)
            delay = retry_after_s(response)
            slow = tries >= _SLOW_TRIES and time.monotonic() - started > PATIENCE_S
            late = slow or waited_s + delay > PATIENCE_S
            if not is_passing(response, refused) or late:
                raise refused
        waited_s += delay
        yield from sleep(delay)


def is_passing(response: httpx.Response, error: ClientError) -> bool:
    """Whether a refusal may be gone in a while."""
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and (
        error.problem is None or error.problem.code not in _LASTING
    )


def retry_after_s(response: httpx.Response) -> float:
    """Return the seconds that the server asks to wait, within reason; 1 where it does not say."""
    text = response.headers.get("Retry-After", "")
    return min(max(float(text), 0.05), 3600.0) if text.isdecimal() else 1.0


def backoff_s(tries: int) -> float:
    """Return the seconds to wait after so many fruitless tries in a row."""
    return min(0.1 * 2.0 ** min(tries, 10), _LONGEST_DELAY_S)


def refusal(response: httpx.Response) -> ClientError:
    """Return the error that a response, read to its end, stands for."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return ClientError(f"the server answered {response.status_code} {response.reason_phrase}")
    return ClientError(problem.detail, problem)


def unreachable(error: httpx.TransportError) -> ClientError:
    """Return the error of a server that gives no answer."""
    hint = "; is it running? `tleg serve` starts one" if isinstance(error, httpx.ConnectError) else ""
    return ClientError(f"no answer from {_origin(error.request)}: {str(error) or type(error).__name__}{hint}")


def fresh_key() -> str:
    """Return an Idempotency-Key for one creation, with which sending it again makes nothing new."""
    return secrets.token_hex(16)


def segment(text: str) -> str:
    """Return text as one segment of a path."""
    return quote(text, safe="") or "-"


def given(**values: str | int | bool | None) -> dict[str, str | int | bool]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _server(response: httpx.Response) -> str:
    return _origin(response.request)


def _origin(request: httpx.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
