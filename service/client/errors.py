"""What a client raises: the server cannot be reached, refuses, or a job did not end well.

TlegError
└── ClientError             the server cannot be reached, or refused; `problem` says why
    ├── JobFailedError      a job failed or was cancelled; `job` is how it ended
    │   ├── ExportError
    │   ├── FineTuneError
    │   └── TrainingError
    └── WaitTimeoutError    a job has not ended in time; it goes on
"""

from __future__ import annotations

from service.api.schemas.jobs import JobResource
from service.api.schemas.problems import Problem
from tleg_core.errors import TlegError


class ClientError(TlegError):
    """The server cannot be reached, or refused."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class JobFailedError(ClientError):
    """The job failed, or was cancelled."""

    def __init__(self, job: JobResource) -> None:
        reason = f": {job.error.message} ({job.error.code})" if job.error is not None else ""
        super().__init__(f"{job.id} {'failed' if job.status == 'failed' else f'was {job.status}'}{reason}")
        self.job = job


class ExportError(JobFailedError):
    """The export failed, or was cancelled."""


class FineTuneError(JobFailedError):
    """The fine-tune failed, or was cancelled."""


class TrainingError(JobFailedError):
    """The training failed, or was cancelled."""


class WaitTimeoutError(ClientError):
    """The job has not ended in time; it goes on."""

    def __init__(self, job: JobResource, timeout_s: float) -> None:
        super().__init__(f"{job.id} is still {job.status} after {timeout_s:g} s; it goes on")
        self.job = job
