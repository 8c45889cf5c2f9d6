"""What a client raises: the server cannot be reached, refuses, or a fine-tune did not end well.

TlegError
└── ClientError             the server cannot be reached, or refused; `problem` says why
    ├── FineTuneError       a fine-tune failed or was cancelled; `job` is how it ended
    └── WaitTimeoutError    a fine-tune has not ended in time; it goes on
"""

from __future__ import annotations

from service.api.schemas.fine_tunes import FineTuneResource
from service.api.schemas.problems import Problem
from tleg_core.errors import TlegError


class ClientError(TlegError):
    """The server cannot be reached, or refused."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class FineTuneError(ClientError):
    """The fine-tune failed, or was cancelled."""

    def __init__(self, job: FineTuneResource) -> None:
        reason = f": {job.error.message} ({job.error.code})" if job.error is not None else ""
        super().__init__(f"{job.id} {'failed' if job.status == 'failed' else f'was {job.status}'}{reason}")
        self.job = job


class WaitTimeoutError(ClientError):
    """The fine-tune has not ended in time; it goes on."""

    def __init__(self, job: FineTuneResource, timeout_s: float) -> None:
        super().__init__(f"{job.id} is still {job.status} after {timeout_s:g} s; it goes on")
        self.job = job
