"""The pace of an attempt: when it will be done, from the steps that it has taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_WINDOW_S = 300.0  # what is older says little of what is to come


class Pace:
    """Steps by time; the first one noted is the start of the count, for what came before it was no training."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []  # (seconds, step), at least a hundredth of the window apart

    def note(self, now_s: float, step: int) -> None:
        """Note that `step` was reached; `now_s` is a clock that is never set back."""
        if len(self._marks) > 1 and self._marks[-1][0] - self._marks[-2][0] < _WINDOW_S / 100:
            self._marks[-1] = (now_s, step)  # the latest always is a mark
        else:
            self._marks.append((now_s, step))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > _WINDOW_S:
            del self._marks[0]

    def finish(self, step: int, steps: int) -> datetime | None:
        """Return when step `steps` will be done at this pace; None before it is known."""
        if len(self._marks) < 2:
            return None
        (from_s, from_step), (to_s, to_step) = self._marks[0], self._marks[-1]
        if to_step <= from_step:
            return None
        seconds = max(0, steps - step) * (to_s - from_s) / (to_step - from_step)
        return datetime.now(UTC) + timedelta(seconds=seconds)
