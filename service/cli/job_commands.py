"""What can be asked of jobs on the command line, whatever they make: get, watch, cancel, pause, resume; and pages of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Protocol, TypeVar

import typer

from service.api.schemas.jobs import JobResource, RunResource
from service.cli import budget_options as options
from service.cli.console import compact, err, local_time, out, percent, print_facts, print_json, print_table
from service.cli.job_watch import JobT, watch_job
from service.cli.models import Url
from service.client import Client, ClientError
from service.domain.job import JobStatus
from tleg_core.amount import amount

_INTERRUPTED = 130  # as shells count a program that Ctrl-C ended

JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]
StatusOption = Annotated[
    JobStatus | None, typer.Option(metavar="STATUS", help=f"Only jobs of this status: {', '.join(JobStatus)}.")
]
LimitOption = Annotated[int, typer.Option(min=1, max=100, help="Jobs a page.")]
JobT_co = TypeVar("JobT_co", bound=JobResource, covariant=True)


class JobPage(Protocol[JobT_co]):
    """A page of jobs of one kind, as the client returns it."""

    @property
    def data(self) -> Sequence[JobT_co]:
        """The jobs, newest first."""

    @property
    def has_more(self) -> bool:
        """Whether more follow."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the page as JSON."""


@dataclass(frozen=True, kw_only=True)
class JobCommands(Generic[JobT]):
    """The commands of one kind of job.

    Args:
        name: What the commands stand under, as `fine-tunes`.
        noun: What people call one.
        trains: Whether it trains: it has settings then, and saves its state.
        get: The client's verb, and the next ones too.
        cancel: Ends a job.
        pause: Holds a job.
        resume: Goes on with it.
        facts: What `get` shows of a job.
        columns: What `list` shows of jobs.
        row: A job's cells in them; the one at 1 is folded where there is too little room.
        print_result: Says what came of a job that has succeeded.
    """

    name: str
    noun: str
    trains: bool
    get: Callable[[Client, str], JobT]
    cancel: Callable[[Client, str], JobT]
    pause: Callable[[Client, str], JobT]
    resume: Callable[[Client, str], JobT]
    facts: Callable[[Client, JobT], list[tuple[str, str]]]
    columns: tuple[str, ...]
    row: Callable[[JobT], tuple[str, ...]]
    print_result: Callable[[JobT], None]

    def print_page(self, page: JobPage[JobT], *, as_json: bool) -> None:
        """Print a page of jobs, one a line."""
        if as_json:
            print_json(page.model_dump(mode="json"))
            return
        print_table(self.columns, map(self.row, page.data), folds=1)
        if page.has_more:
            err.print(f"more follow: --after {page.data[-1].id}")

    def print_status(self, job: JobT) -> None:
        """Say how a job stands after an order."""
        waits = (
            f", to be paused {'when its state is saved' if self.trains else 'after its step'}" if job.pause_requested else ""
        )
        out.print(f"{job.id} is {job.status}{waits}", soft_wrap=True)

    def watch(self, client: Client, job: JobT, *, as_json: bool) -> None:
        """Watch a job until it has ended, and say what came of it."""
        if job.status == JobStatus.PAUSED:
            err.print(f"it is paused; `tleg {self.name} resume {job.id}` goes on with it", soft_wrap=True)
        try:
            ended = watch_job(client, job, as_json=as_json)
        except KeyboardInterrupt:
            err.print(f"{job.id} stays on the server.", soft_wrap=True)
            err.print(f"To watch it again: tleg {self.name} watch {job.id}", soft_wrap=True)
            err.print(f"To end it:         tleg {self.name} cancel {job.id}", soft_wrap=True)
            raise typer.Exit(_INTERRUPTED) from None
        if not as_json:
            self.print_result(ended)


def add_job_commands(app: typer.Typer, jobs: JobCommands[JobT]) -> None:
    """Give a group what can be asked of one job; `show` is `get` by another name."""

    def get(url: Url, job_id: JobId, as_json: options.AsJson = False) -> None:
        with Client(url) as client:
            job = jobs.get(client, job_id)
            if as_json:
                print_json(job.model_dump(mode="json"))
            else:
                print_facts(jobs.facts(client, job))

    def watch(
        url: Url,
        job_id: JobId,
        as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
    ) -> None:
        with Client(url) as client:
            jobs.watch(client, jobs.get(client, job_id), as_json=as_json)

    def cancel(url: Url, job_id: JobId) -> None:
        with Client(url) as client:
            jobs.print_status(jobs.cancel(client, job_id))

    def pause(url: Url, job_id: JobId) -> None:
        with Client(url) as client:
            jobs.print_status(jobs.pause(client, job_id))

    def resume(url: Url, job_id: JobId) -> None:
        with Client(url) as client:
            jobs.print_status(jobs.resume(client, job_id))

    one = f"{'an' if jobs.noun[0] in 'aeiou' else 'a'} {jobs.noun}"
    shown = f"Show {one}: where it stands{', how it is trained' if jobs.trains else ''} and what came of it."
    app.command("get", help=shown)(get)
    app.command("show", help=shown, hidden=True)(get)
    app.command(
        "watch",
        help=f"Watch {one} until it has ended; exit code 0 if it succeeded, 1 if not. Ctrl-C leaves it running.",
    )(watch)
    app.command("cancel", help=f"End {one} without a result{'; what it has kept stays' if jobs.trains else ''}.")(cancel)
    held = "it saves its state first" if jobs.trains else "if it runs, it begins again then"
    app.command("pause", help=f"Hold {one} until it is resumed; {held}.")(pause)
    app.command("resume", help=f"Go on with {one} that was paused.")(resume)


def no_result(job: JobResource) -> ClientError:
    """Return the error for who asks for the result of a job that has none."""
    return ClientError(f"{job.id} is {job.status}; it has no result{'' if job.is_terminal else ' yet'}")


def facts_before(job: JobResource) -> list[tuple[str, str]]:
    """Return what is said first of any job."""
    return [
        ("id", job.id),
        ("status", f"{job.status}{', to be paused' if job.pause_requested else ''}"),
        ("attempt", str(job.attempt)),
    ]


def progress_facts(job: RunResource, *, held_out: str) -> list[tuple[str, str]]:
    """Return how far a job is that trains, and `facts_after`; `held_out` is what was measured."""
    progress = job.progress
    return [
        (
            "progress",
            f"{percent(progress.fraction)}, {progress.epoch} of {amount(progress.epochs, 'epoch')} done, "
            f"step {progress.step:,}",
        ),
        ("held out", held_out),
        ("rate", f"{compact(job.images_per_s)} images/s" if job.images_per_s else "-"),
        *facts_after(job),
    ]


def epochs_and_top1(job: RunResource) -> tuple[str, str]:
    """Return two cells of a job that trains."""
    return f"{job.progress.epoch}/{job.progress.epochs}", percent(job.metrics.get("top1"))


def facts_after(job: JobResource) -> list[tuple[str, str]]:
    """Return when any job began and will end, and why it failed."""
    facts = [
        ("created", local_time(job.created_at)),
        ("started", local_time(job.started_at)),
        ("finished", local_time(job.finished_at)),
    ]
    if job.estimated_finish_at is not None:
        facts.append(("expected", local_time(job.estimated_finish_at)))
    if job.error is not None:
        facts.append(("error", f"{job.error.message} ({job.error.code})"))
    return facts
