"""What the tests of the command line look at: a command's output and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from service.cli import job_commands
from service.cli.job_watch import watch_job


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


Tleg = Callable[..., Outcome]


def assert_fits(text: str, columns: int = 80) -> None:
    """No line is wider than a terminal."""
    assert [line for line in text.splitlines() if len(line) > columns] == []


def assert_one_line_error(outcome: Outcome, *parts: str) -> None:
    """Exit code 1, nothing on the output, one line on the error stream that says what it must."""
    assert outcome.code == 1, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err


def work_before_events(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Have a job that has not ended when `watch` asks for it do its work before its events are read."""

    def watch(client: Any, job: Any, **options: Any) -> Any:
        work()
        return watch_job(client, job, **options)

    monkeypatch.setattr(job_commands, "watch_job", watch)
