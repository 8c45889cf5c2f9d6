"""When an attempt will be done, by its pace."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.worker.pace import Pace


def remaining_s(pace: Pace, step: int, steps: int) -> float:
    """Return the seconds until the finish that the pace expects."""
    finish = pace.finish(step, steps)
    assert finish is not None
    return (finish - datetime.now(UTC)).total_seconds()


def test_a_steady_pace_is_carried_on() -> None:
    """What came before the first step noted, such as the reading of the data, is not counted."""
    pace = Pace()
    for step in range(10, 31):
        pace.note(1000.0 + 2 * step, step)
    assert remaining_s(pace, 30, 100) == pytest.approx(140, abs=1)


def test_nothing_is_said_before_it_is_known() -> None:
    """One step has no pace."""
    pace = Pace()
    pace.note(5.0, 1)
    assert pace.finish(1, 100) is None


def test_what_is_long_past_says_nothing() -> None:
    """After a slow hour a fast one is believed, within minutes; and the notes do not pile up."""
    pace = Pace()
    for second in range(3600):
        pace.note(second, second)
    for tenth in range(6000):
        pace.note(3600 + tenth / 10, 3600 + tenth)
    assert remaining_s(pace, 9600, 10_600) == pytest.approx(100, abs=3)
