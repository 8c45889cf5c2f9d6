"""The journal of a run: a progress bar and epoch lines for people, a JSONL file for machines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tleg_core.training.observer import EpochReport, StepReport

JOURNAL_NAME = "journal.jsonl"


class Journal:
    """An observer: writes one JSON object a line, each with `event` and `time` (ISO 8601, UTC), and shows the run's progress.

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

    def stepped(self, report: StepReport) -> None:
        """Move the bar."""
        rate = "" if report.images_per_s is None else f", {report.images_per_s:.0f} images/s"
        state = f"loss {report.train_loss:.4f}{rate}"
        if self._task is None:
            self._task = self._progress.add_task("training", total=report.steps, state=state)
        self._progress.update(self._task, completed=report.step, total=report.steps, state=state)

    def epoch_done(self, report: EpochReport) -> None:
        """Write a line for the epoch."""
        test_top1, test_images = report.metrics.get("top1"), report.metrics.get("images")
        self.write(
            "epoch",
            f"epoch {report.epoch}/{report.epochs}: loss {report.train_loss:.5f}, "
            + f"train top-1 {report.train_top1:.2%} (augmented)"
            + (f", test top-1 {test_top1:.2%}" if test_top1 is not None else "")
            + (f", {report.images_per_s:.0f} images/s" if report.images_per_s is not None else ""),
            epoch=report.epoch,
            step=report.step,
            loss=report.train_loss,
            train_top1=report.train_top1,
            test_top1=test_top1,
            test_images=None if test_images is None else int(test_images),
            next_lr=report.lr,
            images_per_s=None if report.images_per_s is None else round(report.images_per_s, 1),
        )

    def note(self, message: str) -> None:
        """Write a line with the message."""
        self.write("note", message, message=message)

    def write(self, event: str, words: str | None = None, **facts: object) -> None:
        """Append a line for machines and, with `words`, one for people."""
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if words is not None:
            self._console.print(words, highlight=False, soft_wrap=True)
