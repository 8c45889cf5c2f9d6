"""The events of a job as they happen: every one exactly once, in order, whatever happens to the connection.

Read as Server-Sent Events. A stream that ends or breaks is opened again after the last event that came whole
(`Last-Event-ID`); events that come twice are left out, and a number that is missing opens the stream again.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx
from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from service.api.schemas.jobs import EventResource
from service.client.call import backoff_s, is_passing, refusal, retry_after_s, unreachable
from service.client.effect import Emit, EmittingFlow, Request, open_stream, read_all, read_event, sleep
from service.client.errors import ClientError
from service.client.jobs import job_path
from service.client.patience import Patience
from service.domain.job import JobStatus

_SILENCE_S = 60.0  # after which a stream counts as dead; the server sends something every 15 seconds
_GAPS = 5  # missing events in a row after which the server is given up
_GATEWAY_STATUS = frozenset({502, 504})  # what a proxy says while the server behind it restarts
_EVENT_STREAM = "text/event-stream"


def events(
    job_id: str,
    *,
    after: int = 0,
    patience_s: float = 300.0,
    on_loss: Callable[[ClientError], None] | None = None,
) -> EmittingFlow[EventResource]:
    """Iterate over a job's events until it has ended.

    Args:
        job_id: The job's id.
        after: Begin after the event of this number.
        patience_s: How long to go on without an answer, once the server has given one.
        on_loss: Called each time that the server cannot be had, with the reason.

    Raises:
        ClientError: There is no such job, the server cannot be reached or stays away, or sends something else than events.
    """
    last, fruitless, gaps, reached = after, 0, 0, False
    patience = Patience(patience_s)
    while True:
        before, delay = last, 0.0
        loss: ClientError | None = None
        try:
            response = yield from open_stream(_request(job_id, last))
            if response.status_code == httpx.codes.NO_CONTENT:
                return  # the job has ended, and all of its events were had
            if response.is_success:
                _check(response)
                reached = True
                patience.renew()
                while (sent := (yield from read_event())) is not None:
                    event = _event(sent)
                    if event is None or event.seq <= last:
                        continue
                    if event.seq != last + 1:
                        gaps += 1
                        break
                    last, gaps = event.seq, 0
                    patience.renew()
                    yield Emit(event)
                    if event.kind == "status" and JobStatus(event.facts["status"]).is_terminal:
                        return
            else:
                error = refusal((yield from read_all()))
                if not (is_passing(response, error) or response.status_code in _GATEWAY_STATUS):
                    raise error
                loss, delay = error, retry_after_s(response)
        except httpx.TransportError as error:
            if not reached and isinstance(error, httpx.ConnectError):
                raise unreachable(error) from None
            loss = unreachable(error)
        if loss is not None:
            patience.lose(loss)
            if on_loss is not None:
                on_loss(loss)
        if gaps >= _GAPS:
            raise ClientError(f"{job_id}: the server leaves out the events after {last}")
        fruitless = 0 if last > before else fruitless + 1
        if fruitless:
            yield from sleep(max(delay, backoff_s(fruitless - 1)))


def _request(job_id: str, last: int) -> Request:
    headers = {"Accept": _EVENT_STREAM, "Accept-Encoding": "identity", "Cache-Control": "no-store", "Last-Event-ID": str(last)}
    return Request(method="GET", path=f"{job_path(job_id)}/events", headers=headers, read_timeout_s=_SILENCE_S)


def _check(response: httpx.Response) -> None:
    if response.headers.get("Content-Type", "").partition(";")[0] != _EVENT_STREAM:
        raise ClientError(f"{response.request.url} sends something else than events")


def _event(sent: ServerSentEvent) -> EventResource | None:
    """Return the event, None where what was sent holds none."""
    if not sent.data:
        return None
    try:
        event = EventResource.model_validate_json(sent.data)
        if event.kind == "status":
            JobStatus(event.facts["status"])
        return event
    except (ValidationError, KeyError, ValueError):
        raise ClientError("the server sends something else than tleg's events") from None
