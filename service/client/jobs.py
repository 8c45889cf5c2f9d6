"""The verbs of jobs, whatever they make: written once, for each kind's path and schemas."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from service.api.schemas.jobs import JOB_PATHS, EventList, JobResource
from service.client.call import call, fresh_key, given, segment
from service.client.effect import Flow, Request, sleep
from service.client.errors import ClientError, JobFailedError, WaitTimeoutError
from service.client.patience import Patience
from service.domain.job import JobKind, JobStatus, kind_of

_FIRST_POLL_S = 0.1
_LONGEST_POLL_S = 2.0

JobT = TypeVar("JobT", bound=JobResource)
ListT = TypeVar("ListT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs(Generic[JobT, ListT]):
    """The verbs of one kind of job.

    Args:
        kind: The kind.
        resource: Its schema.
        page: The schema of a page of them.
        failure: What is raised of one that did not end well.
    """

    kind: JobKind
    resource: type[JobT]
    page: type[ListT]
    failure: type[JobFailedError]

    def create(self, body: BaseModel, *, idempotency_key: str | None) -> Flow[JobT]:
        """Queue a job. However often the request has to be sent, it makes one."""
        request = Request(
            method="POST",
            path=JOB_PATHS[self.kind],
            json=body.model_dump(mode="json", exclude_unset=True),
            headers={"Idempotency-Key": idempotency_key or fresh_key()},
        )
        return call(self.resource, request)

    def get(self, job_id: str) -> Flow[JobT]:
        """Return one job."""
        return call(self.resource, Request(method="GET", path=self._path(job_id)))

    def list(self, **params: str | int | None) -> Flow[ListT]:
        """Return a page of jobs, newest first."""
        return call(self.page, Request(method="GET", path=JOB_PATHS[self.kind], params=given(**params)))

    def cancel(self, job_id: str) -> Flow[JobT]:
        """Cancel a job."""
        return call(self.resource, Request(method="POST", path=f"{self._path(job_id)}/cancel"))

    def pause(self, job_id: str) -> Flow[JobT]:
        """Pause a job; it keeps its place."""
        return call(self.resource, Request(method="POST", path=f"{self._path(job_id)}/pause"))

    def resume(self, job_id: str) -> Flow[JobT]:
        """Queue a paused job again; it goes on where it was."""
        return call(self.resource, Request(method="POST", path=f"{self._path(job_id)}/resume"))

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        patience_s: float = 300.0,
        watch: Callable[[JobT], None] | None = None,
    ) -> Flow[JobT]:
        """Return a job once it has succeeded.

        Args:
            job_id: The job's id.
            timeout_s: How long to wait at most; None for ever.
            patience_s: How long to go on without an answer, once the server has given one.
            watch: Called with the job, each time that it was looked at.

        Raises:
            JobFailedError: It failed, or was cancelled.
            WaitTimeoutError: It has not ended in time; it goes on.
        """
        started = time.monotonic()
        job = yield from self.get(job_id)
        patience = Patience(patience_s)
        delay = _FIRST_POLL_S
        while not job.is_terminal:
            if watch is not None:
                watch(job)
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                raise WaitTimeoutError(job, timeout_s)
            left = delay if timeout_s is None else min(delay, max(0.0, started + timeout_s - time.monotonic()))
            yield from sleep(left)
            delay = min(delay * 1.5, _LONGEST_POLL_S)
            try:
                job = yield from self.get(job_id)
            except ClientError as error:
                patience.lose(error)
            else:
                patience.renew()
        if job.status is not JobStatus.SUCCEEDED:
            raise self.failure(job)
        return job

    def _path(self, job_id: str) -> str:
        return f"{JOB_PATHS[self.kind]}/{segment(job_id)}"


def job_path(job_id: str) -> str:
    """Return the path of a job, whatever it makes: its id says that."""
    return f"{JOB_PATHS[kind_of(job_id)]}/{segment(job_id)}"


def list_events(job_id: str, *, after: int = 0, limit: int = 100) -> Flow[EventList]:
    """Return a page of the events of any job that are there already, oldest first, after number `after`."""
    return call(EventList, Request(method="GET", path=f"{job_path(job_id)}/events", params={"after": after, "limit": limit}))
