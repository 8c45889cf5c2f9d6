"""The journal of a run: a progress bar and epoch lines for people, a JSONL file for machines, event files for TensorBoard.

At its end, and from time to time before it, the curves are drawn beside it. `run_record` reads a journal back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tleg_core.description import Measurement
from tleg_core.training.event_file import FOLDER_NAME, EventFile
from tleg_core.training.observer import EpochReport, StepReport, recent_loss

JOURNAL_NAME = "journal.jsonl"

_STEP_LINES_S = 30.0  # between two lines of steps: a day's run has some thousands
_PLOTS_S = 120.0  # between two drawings of the curves, which take about a second


class Journal:
    """An observer: writes one JSON object a line, each with `event` and `time` (ISO 8601, UTC), and shows the run's progress.

    A resumed run appends: lines of steps that were taken twice stand there twice, and the last one counts.

    Args:
        path: The JSONL file; its folder is made.
        console: Where people read along; None for nowhere.
        plots: Whether the curves are drawn.
    """

    def __init__(self, path: Path, console: Console | None = None, *, plots: bool = True) -> None:
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
        self._curves = EventFile(path.parent / FOLDER_NAME)
        self._depths: dict[str, EventFile] = {}
        self._before: StepReport | None = None
        self._step_line_s: float | None = None
        self._plot_s = time.monotonic()
        self._plots = plots
        self._undrawn = False  # something is noted that the curves do not show
        self._failed: set[str] = set()
        self._mend()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        if self._plots and self._undrawn:
            self._draw()

    def stepped(self, report: StepReport) -> None:
        """Move the bar; write a line now and then, with the first step among them, and the numbers for TensorBoard."""
        rate = "" if report.images_per_s is None else f", {report.images_per_s:.0f} images/s"
        state = f"loss {report.train_loss:.4f}{rate}"
        if self._task is None:
            self._task = self._progress.add_task("training", total=report.steps, state=state)
        self._progress.update(self._task, completed=report.step, total=report.steps, state=state)
        numbers = {"train/loss": recent_loss(self._before, report), "train/lr": report.lr}
        if report.images_per_s is not None:
            numbers["train/images_per_s"] = report.images_per_s
        self._before = report
        self._log(self._curves, report.step, numbers)
        now_s = time.monotonic()
        if self._step_line_s is None or now_s - self._step_line_s >= _STEP_LINES_S:
            self._step_line_s = now_s
            self.write(
                "step",
                epoch=report.epoch,
                epoch_steps=report.epoch_steps,
                step=report.step,
                steps=report.steps,
                loss=report.train_loss,
                next_lr=report.lr,
                images_per_s=_rounded(report.images_per_s),
            )

    def epoch_done(self, report: EpochReport) -> None:
        """Write a line for the epoch."""
        top1 = report.metrics.get("top1")
        self.write(
            "epoch",
            f"epoch {report.epoch}/{report.epochs}: loss {report.train_loss:.5f}, "
            + f"train top-1 {report.train_top1:.2%} (augmented)"
            + (f", test top-1 {top1:.2%}" if top1 is not None else "")
            + (f", {report.images_per_s:.0f} images/s" if report.images_per_s is not None else ""),
            epoch=report.epoch,
            epochs=report.epochs,
            step=report.step,
            loss=report.train_loss,
            train_top1=report.train_top1,
            metrics=dict(report.metrics),
            next_lr=report.lr,
            images_per_s=_rounded(report.images_per_s),
        )
        held_out = {f"held_out/{name}": value for name, value in report.metrics.items() if name != "images"}
        epoch = {"epoch/train_loss": report.train_loss, "epoch/train_top1": report.train_top1}
        self._log(self._curves, report.step, epoch | held_out)
        self._undrawn = True
        if self._plots and time.monotonic() - self._plot_s >= _PLOTS_S:
            self._draw()

    def measuring(self, images: int) -> Callable[[int], None]:
        """Show a bar of the images to classify after the run; return what is told how many more were."""
        task = self._progress.add_task("measuring", total=images, state="")
        return lambda count: self._progress.advance(task, count)

    def measured(self, entry: Measurement) -> None:
        """Write a line for the accuracy of one member of the result."""
        path = None if entry.path is None else str(entry.path)
        self.write(
            "measurement",
            f"{f'depth {entry.depth}' if path is None else f'path {path}'}: top-1 {entry.top1:.2%}",
            depth=entry.depth,
            **({} if path is None else {"path": path}),
            data_set=entry.data_set,
            top1=entry.top1,
            images=entry.images,
        )
        if path is not None:  # several may have one depth: they make no curve
            return
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in entry.data_set)
        events = self._depths.setdefault(name, EventFile(self._path.parent / FOLDER_NAME / f"by-depth-{name}"))
        self._log(events, entry.depth, {"held_out/top1_by_depth": entry.top1})
        self._undrawn = True

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

    def _mend(self) -> None:
        """End the last line, should a kill have cut it short."""
        if self._path.is_file() and self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n"):
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def _log(self, events: EventFile, step: int, numbers: Mapping[str, float]) -> None:
        self._try("TensorBoard files", lambda: events.add(step, numbers))

    def _draw(self) -> None:
        """Draw the curves beside the journal."""

        def draw() -> None:
            from tleg_core.plots.run_plot import plot_runs  # noqa: PLC0415 (matplotlib takes seconds to load)
            from tleg_core.training.run_record import read_run  # noqa: PLC0415 (it reads what this writes)

            run = read_run(self._path)
            for suffix in (".png", ".svg"):
                plot_runs([run], self._path.with_name(f"curves{suffix}"))

        self._try("the curves", draw)
        self._undrawn, self._plot_s = False, time.monotonic()

    def _try(self, what: str, action: Callable[[], None]) -> None:
        """Do what a run can do without; the first failure is noted, and it is not tried again."""
        if what in self._failed:
            return
        try:
            action()
        except ModuleNotFoundError as error:
            reason = f"{error.name} is not installed"
        except Exception as error:  # whatever it is, no run may end for it
            reason = str(error)
        else:
            return
        self._failed.add(what)
        self.note(f"{what} are not written: {reason}")


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)
