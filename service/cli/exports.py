"""`tleg exports`: models as files that run without this package, from the job to the download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.api.schemas.exports import ExportResource
from service.cli import budget_options as options
from service.cli.console import err, out, print_facts, print_json, short_time
from service.cli.job_commands import (
    JobCommands,
    JobId,
    LimitOption,
    StatusOption,
    add_job_commands,
    facts_after,
    facts_before,
    no_result,
)
from service.cli.models import AfterOption, ModelId, Url, download_export
from service.client import Client
from service.domain.export import ExportFormat
from service.domain.job import JobStatus
from tleg_core.amount import amount

app = typer.Typer(no_args_is_help=True, help="Make ONNX files and torch.export programs of models on a server.")


@app.command()
def create(
    url: Url,
    model_id: ModelId,
    export_format: Annotated[
        ExportFormat, typer.Option("--format", metavar="FORMAT", help=f"{' or '.join(ExportFormat)}.")
    ] = ExportFormat.ONNX,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Queue a model's export, or show the one that made it already; a failed one is tried again.

    `tleg models download --format` does it all: it queues, waits and downloads.
    """
    with Client(url) as client:
        job = client.export_model(model_id, export_format)
        if as_json:
            print_json(job.model_dump(mode="json"))
        else:
            out.print(f"{job.id} is {job.status}", soft_wrap=True)
        if watch:
            JOBS.watch(client, job, as_json=as_json)
        elif not as_json:
            verb = {JobStatus.SUCCEEDED: "download", JobStatus.PAUSED: "resume"}.get(job.status, "watch")
            err.print(f"{verb} it with `tleg exports {verb} {job.id}`", soft_wrap=True)


@app.command("list")
def list_exports(
    url: Url,
    limit: LimitOption = 20,
    after: AfterOption = None,
    status: StatusOption = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List exports, newest first; `get` and --json say of which model each is."""
    with Client(url) as client:
        page = client.list_exports(limit=limit, after=after, status=status, model=model)
    JOBS.print_page(page, as_json=as_json)


@app.command()
def download(
    url: Url,
    job_id: JobId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; <model>.onnx or .pt2 by default.")
    ] = None,
) -> None:
    """Download the file that an export made, and check its digest; one that was deleted since is made again."""
    with Client(url) as client:
        job = client.get_export(job_id)
        if job.result is None:
            raise no_result(job)
        download_export(client, job.model, output, job.format)


def _facts(_client: Client, job: ExportResource) -> list[tuple[str, str]]:
    progress = "-" if job.progress.steps is None else f"step {job.progress.step} of {job.progress.steps}"
    return [
        *facts_before(job),
        ("model", job.model),
        ("format", job.format),
        ("progress", progress),
        *facts_after(job),
        *_file(job),
    ]


def _row(job: ExportResource) -> tuple[str, ...]:
    return (job.id, job.format, job.status, short_time(job.created_at))


def _file(job: ExportResource) -> list[tuple[str, str]]:
    if job.result is None:
        return []
    return [
        ("file", amount(job.result.size_bytes, "byte")),
        ("sha256", job.result.sha256),
        ("deviation", f"{job.result.deviation:.1e} from the network's logits"),
    ]


def _print_result(job: ExportResource) -> None:
    out.print("succeeded", soft_wrap=True)
    print_facts(_file(job))
    err.print(f"download it with `tleg exports download {job.id}`", soft_wrap=True)


JOBS = JobCommands(
    name="exports",
    noun="export",
    trains=False,
    get=Client.get_export,
    cancel=Client.cancel_export,
    pause=Client.pause_export,
    resume=Client.resume_export,
    facts=_facts,
    columns=("id", "format", "status", "created"),
    row=_row,
    print_result=_print_result,
)
add_job_commands(app, JOBS)
