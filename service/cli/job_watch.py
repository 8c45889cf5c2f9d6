"""A job watched live: a bar at a terminal; elsewhere a line for each status, and of what trains for each epoch."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

from rich.progress import BarColumn, Progress, TextColumn

from service.api.schemas.exports import ExportResource
from service.api.schemas.fine_tunes import FineTuneResource
from service.api.schemas.jobs import EventResource
from service.api.schemas.trainings import ALONG_PATH, AT_DEPTH, TrainingResource
from service.cli.console import err, hours_minutes_seconds, local_time, out, percent, printable
from service.client import Client, ClientError
from service.domain.job import JobStatus
from tleg_core.amount import amount

_MEMBERS_SHOWN = 3  # in one line


EntryT = TypeVar("EntryT")
AnyJob = FineTuneResource | TrainingResource | ExportResource
JobT = TypeVar("JobT", FineTuneResource, TrainingResource, ExportResource)


def watch_job(client: Client, job: JobT, *, as_json: bool = False) -> JobT:
    """Show a job's events until it has ended; return it. Of one that had ended before, people are told when, and no events.

    Raises:
        JobFailedError: It failed, or was cancelled.
        ClientError: The server stays away.
    """
    if job.is_terminal and not as_json:
        out.print(f"{job.id} has ended, {local_time(job.finished_at)}", soft_wrap=True)
    else:
        with _Display(job, quiet=as_json) as display:
            for event in client.events(job.id, on_loss=display.lose):
                if as_json:
                    out.print(event.model_dump_json(), soft_wrap=True)
                display.show(event)
    if isinstance(job, FineTuneResource):
        return client.wait_for_fine_tune(job.id)
    return client.wait_for_training(job.id) if isinstance(job, TrainingResource) else client.wait_for_export(job.id)


class _Display:
    """What is on the screen of a job: fed by its events."""

    def __init__(self, job: AnyJob, *, quiet: bool) -> None:
        self._job = job
        self._lines = not quiet and not out.is_terminal
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), _facts_column())
        self._bar = Progress(*columns, console=out, expand=True, transient=True, disable=quiet or not out.is_terminal)
        self._task = self._bar.add_task(job.status, total=None, facts="")
        self._status = str(job.status)
        self._attempt = 0
        self._is_away = False
        self._batch_size, self._epochs = _extent(job)
        self._latest: dict[str, Any] = {"epoch": 0, "step": 0, "steps": None, "images_per_s": None}
        self._metrics: dict[str, float] = {}

    def show(self, event: EventResource) -> None:
        """Show what an event says."""
        facts, self._is_away = event.facts, False
        self._latest.update({name: facts[name] for name in self._latest if name in facts})
        self._metrics.update(facts.get("metrics") or {})
        match event.kind:
            case "status":
                self._show_status(facts)
            case "epoch":
                self._latest["epoch"] = facts["epoch"]
                found = f"{_measured(self._metrics)}{_by_member(self._metrics)}"
                self._say(f"epoch {facts['epoch']}/{self._epochs}  {found}{self._rate()}")
            case "log":
                self._say(str(facts["message"]), always=True)
        self._draw()

    def lose(self, error: ClientError) -> None:
        """Show that the server is away; in lines once, until it is back."""
        if self._lines and not self._is_away:
            err.print(printable(f"waiting: {error}"), soft_wrap=True)
        self._is_away = True
        self._bar.update(self._task, description="waiting", facts=printable(str(error))[:40])

    def _show_status(self, facts: dict[str, Any]) -> None:
        before, self._status = self._status, str(facts["status"])
        self._attempt = int(facts.get("attempt") or 0)
        if self._status != JobStatus.RUNNING:
            self._latest["images_per_s"] = None
        again = self._attempt > 1 and self._status == JobStatus.RUNNING
        died = before == JobStatus.RUNNING and self._status == JobStatus.QUEUED
        why = f" ({facts['reason']})" if facts.get("reason") else ""
        if (self._lines and not JobStatus(self._status).is_terminal) or again or died:
            self._say(f"{self._status}{f', attempt {self._attempt}' if again else ''}{why}", always=True)

    def _say(self, text: str, *, always: bool = False) -> None:
        """Print a line, above the bar where there is one; there epochs need none."""
        if self._lines:
            out.print(printable(text), soft_wrap=True)
        elif always and not self._bar.disable:
            self._bar.console.print(printable(text))

    def _draw(self) -> None:
        steps, step = self._latest["steps"], self._latest["step"]
        epoch = f"{self._latest['epoch']}/{amount(self._epochs, 'epoch')}" if self._epochs else ""
        facts = "  ".join(part for part in (epoch, _measured(self._metrics), self._rate().strip(), self._left()) if part)
        self._bar.update(self._task, description=self._status, completed=step, total=steps, facts=facts)

    def _rate(self) -> str:
        rate = self._latest["images_per_s"]
        return "" if rate is None else f"  {rate:,.0f} img/s"

    def _left(self) -> str:
        """Return the time that is left at the latest rate."""
        rate, steps = self._latest["images_per_s"], self._latest["steps"]
        if not rate or steps is None:
            return ""
        return hours_minutes_seconds((steps - self._latest["step"]) * self._batch_size / rate).removeprefix("0:")

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bar.__enter__()
        self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar away."""
        self._bar.__exit__(kind, error, trace)


def _extent(job: AnyJob) -> tuple[int, int]:
    """Return the images a step and the epochs; of an export, which has none, zeros."""
    if isinstance(job, ExportResource):
        return 0, 0
    settings = job.settings if isinstance(job, FineTuneResource) else job.config["training"]
    return int(settings["batch_size"]), job.progress.epochs


def _measured(metrics: dict[str, float]) -> str:
    """Return the training loss, and the accuracy on the held-out images: what has room beside a bar."""
    parts = [f"loss {metrics['train_loss']:.3f}"] if "train_loss" in metrics else []
    parts += [f"top-1 {percent(metrics['top1'])}"] if "top1" in metrics else []
    return "  ".join(parts)


def _by_member(metrics: dict[str, float]) -> str:
    """Return a learngene's accuracy at several depths or along paths, for the end of a line."""
    depths = sorted((int(match[1]), value) for name, value in metrics.items() if (match := AT_DEPTH.fullmatch(name)))
    parts = [f"  depth {depth} {percent(value)}" for depth, value in _some(depths)]
    paths = [(match[1], value) for name, value in metrics.items() if (match := ALONG_PATH.fullmatch(name))]
    return "".join(parts + [f"  path {path} {percent(value)}" for path, value in _some(paths)])


def _some(entries: list[EntryT]) -> list[EntryT]:
    """Return the entries, or the first, the middle and the last of many."""
    return entries if len(entries) <= _MEMBERS_SHOWN else [entries[0], entries[len(entries) // 2], entries[-1]]


def _facts_column() -> TextColumn:
    return TextColumn("{task.fields[facts]}", markup=False)
