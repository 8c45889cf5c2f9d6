"""A job's events as Server-Sent Events: each once and in order, whatever the connection and Redis go through.

An event's number is its `id`, so a client that lost the connection at any byte says which it had last and goes on from there.
The place in the stream is the client's and ours; nothing of it is kept in Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from fastapi.sse import format_sse_event

from service.api.schemas.jobs import EventResource
from service.domain.errors import JobNotFoundError, StoreUnavailableError
from service.domain.job import JobEvent, JobStatus
from service.storage.job_store import JobStore

logger = logging.getLogger(__name__)

_POLL_S = 0.3
_PAGE = 500  # events read at once
_RETRY = b"retry: 1000\n\n"  # milliseconds after which a browser reconnects
_KEEP_ALIVE = b": still here\n\n"


class EventStream:
    """The events of one job after number `after`, as the body of a response.

    It ends after the event with which the job ended, and when the server drains. While Redis is away it waits.

    Args:
        jobs: Where they are.
        job_id: Whose they are.
        after: The number of the last one that the client has had.
        is_draining: Whether the server is about to end.
        keep_alive_s: Silence after which a comment is sent, lest a proxy take the connection for dead.
        look_at_job_s: How often a stream without news looks whether there can be any.
    """

    def __init__(
        self,
        jobs: JobStore,
        job_id: str,
        *,
        after: int,
        is_draining: Callable[[], bool],
        keep_alive_s: float = 15.0,
        look_at_job_s: float = 5.0,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self._look_at_job_s = look_at_job_s
        self._jobs = jobs
        self._job_id = job_id
        self._after = after
        self._is_draining = is_draining
        self._looked_at = time.monotonic()

    async def is_over(self) -> bool:
        """Whether the job has ended and the client has had all of its events.

        Raises:
            JobNotFoundError: There is no such job.
            StoreUnavailableError: Redis does not answer.
        """
        if not (await self._jobs.get(self._job_id)).status.is_terminal:
            return False
        return not await self._jobs.events(self._job_id, after=self._after, limit=1)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Give the stream's bytes."""
        yield _RETRY
        sent_at = time.monotonic()
        reading = asyncio.create_task(self._read(pause_s=0.0))
        try:
            while not self._is_draining():
                await asyncio.wait({reading}, timeout=_POLL_S)
                if reading.done():
                    events = reading.result()
                    if events is None:
                        return
                    for event in events:
                        yield format_sse_event(
                            data_str=EventResource.of(event).model_dump_json(), event=event.kind, id=str(event.seq)
                        )
                        self._after = event.seq
                        sent_at = time.monotonic()
                        if event.kind == "status" and JobStatus(event.facts["status"]).is_terminal:
                            return
                    reading = asyncio.create_task(self._read(pause_s=0.0 if events else _POLL_S))
                if time.monotonic() - sent_at >= self._keep_alive_s:
                    yield _KEEP_ALIVE
                    sent_at = time.monotonic()
        finally:
            reading.cancel()

    async def _read(self, *, pause_s: float) -> list[JobEvent] | None:
        """Return the next events, none while there are none or Redis is away; None where none will ever be."""
        await asyncio.sleep(pause_s)
        try:
            events = await self._jobs.events(self._job_id, after=self._after, limit=_PAGE)
            if events or time.monotonic() - self._looked_at < self._look_at_job_s:
                return events
            self._looked_at = time.monotonic()
            return None if await self.is_over() else []
        except JobNotFoundError:
            return None
        except StoreUnavailableError as error:
            logger.warning(str(error), extra={"action": "events_wait", "job": self._job_id})
            return []
