"""The journal of a run: a progress bar and epoch lines for people, a JSONL file for machines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Journal:
    """Writes one JSON object a line, each with `event` and `time` (ISO 8601, UTC), and shows the run's progress.

    A resumed run appends: lines of steps that were taken twice stand there twice.

    Args:
        path: The JSONL file; its folder is made.
        console: Where people read along; None for nowhere.
    """

    def __init__(self, path: Path, console: Console | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._console = console or Console(quiet=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def show_step(self, step: int, total: int, state: str) -> None:
        """Move the bar to `step` of `total`, with a word on the run's state."""
        if self._task is None:
            self._task = self._progress.add_task("training", total=total, state=state)
        self._progress.update(self._task, completed=step, total=total, state=state)

    def write(self, event: str, message: str | None = None, **facts: object) -> None:
        """Append a line for machines and, with `message`, one for people."""
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if message is not None:
            self._console.print(message, highlight=False, soft_wrap=True)
