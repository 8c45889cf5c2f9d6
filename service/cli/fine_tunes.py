"""`tleg fine-tunes`: jobs on a server, from their creation to their result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.api.schemas.fine_tunes import FineTuneBody, FineTuneResource
from service.cli import budget_options as options
from service.cli.console import compact, err, out, percent, print_facts, print_json, print_table
from service.cli.fine_tune_watch import watch_job
from service.cli.models import Url, download_weights
from service.cli.setting_options import option_error, parse_settings, with_setting_options
from service.client import Client, ClientError
from service.domain.job import JobStatus
from tleg_core.budget import Objective
from tleg_core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Fine-tune models on a server, by jobs that survive restarts.")

_INTERRUPTED = 130  # as shells count a program that Ctrl-C ended
# The settings that tell most of a training; `get` shows all.
_TELLING = ("epochs", "batch_size", "lr", "layer_decay", "augmentation", "mixup", "freeze", "start", "head")

JobId = Annotated[str, typer.Argument(help="The job's id, ft-….", show_default=False)]


@app.command()
@with_setting_options
def create(
    url: Url,
    dataset: Annotated[str, typer.Option(help="The data set's id, ds-…, of `tleg datasets upload`.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="The id of the model to start from; or give a budget.")] = None,
    depth: options.Depth = None,
    max_params: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    max_flops: options.MaxFlops = None,
    max_weights_bytes: options.MaxWeightsBytes = None,
    max_memory_bytes: options.MaxMemoryBytes = None,
    learngene: options.LearngeneName = None,
    method: options.MethodName = None,
    objective: Annotated[
        Objective | None, typer.Option(help="What is best among the members that fit.", show_default="accuracy")
    ] = None,
    image_size: options.ImageSize = None,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key and request give the same job, for a day.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    as_json: options.AsJson = False,
    **settings: str | None,
) -> None:
    """Queue a fine-tune of a model, or of the best within a budget; every setting has a good default.

    A setting that is not given, or "auto", is derived from the data set and the network.
    """
    budget = {
        "depth": depth,
        "max_params": max_params,
        "max_macs": max_macs,
        "max_flops": max_flops,
        "max_weights_bytes": max_weights_bytes,
        "max_memory_bytes": max_memory_bytes,
    }
    given = {name: value for name, value in budget.items() if value is not None}
    if (model is None) == (not given):
        either = "or" if model is None else "or, instead of it,"
        limits = ", ".join(f"--{name.replace('_', '-')}" for name in budget)
        raise ConfigError("--model", f"give the model to start from, {either} a budget: {limits}")
    request = {
        "model": model,
        "budget": given or None,
        "learngene": learngene,
        "method": method,
        "objective": objective,
        "image_size": image_size,
        "dataset": dataset,
        "settings": parse_settings(settings),
    }
    try:
        body = FineTuneBody.model_validate({name: value for name, value in request.items() if value is not None})
    except ValidationError as error:
        raise option_error(error) from None
    with Client(url) as client:
        job = client.create_fine_tune(body, idempotency_key=key)
        if as_json:
            print_json(job.model_dump(mode="json"))
        else:
            out.print(f"{job.id} is {job.status}", soft_wrap=True)
            telling = ", ".join(f"{name} {job.settings[name]}" for name in _TELLING if name in job.settings)
            print_facts([("network", _network(client, job)), ("settings", telling)])
        if watch:
            _watch(client, job, as_json=as_json)
        elif not as_json:
            err.print(f"watch it with `tleg fine-tunes watch {job.id}`", soft_wrap=True)


@app.command("list")
def list_fine_tunes(
    url: Url,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Jobs a page.")] = 20,
    after: Annotated[str | None, typer.Option(help="Go on after this id.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs of this status.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs that start from this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only jobs on this data set.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List fine-tunes, newest first."""
    with Client(url) as client:
        page = client.list_fine_tunes(limit=limit, after=after, status=status, model=model, dataset=dataset)
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    _print_jobs(page.data)
    if page.has_more:
        err.print(f"more follow: --after {page.data[-1].id}")


@app.command()
def get(url: Url, job_id: JobId, as_json: options.AsJson = False) -> None:
    """Show one fine-tune: where it stands, its settings and what came of it."""
    with Client(url) as client:
        job = client.get_fine_tune(job_id)
        if as_json:
            print_json(job.model_dump(mode="json"))
        else:
            print_facts(_facts(job, network=_network(client, job), few_classes=_has_few_classes(client, job)))


@app.command()
def watch(
    url: Url,
    job_id: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Watch a fine-tune until it has ended; exit code 0 if it succeeded, 1 if not. Ctrl-C leaves it running."""
    with Client(url) as client:
        _watch(client, client.get_fine_tune(job_id), as_json=as_json)


@app.command()
def cancel(url: Url, job_id: JobId) -> None:
    """End a fine-tune without a result; its checkpoints stay."""
    with Client(url) as client:
        _print_status(client.cancel_fine_tune(job_id))


@app.command()
def pause(url: Url, job_id: JobId) -> None:
    """Hold a fine-tune; it saves its state and keeps its place."""
    with Client(url) as client:
        _print_status(client.pause_fine_tune(job_id))


@app.command()
def resume(url: Url, job_id: JobId) -> None:
    """Go on with a fine-tune that was paused."""
    with Client(url) as client:
        _print_status(client.resume_fine_tune(job_id))


@app.command()
def checkpoints(url: Url, job_id: JobId, as_json: options.AsJson = False) -> None:
    """List a fine-tune's checkpoints; each is a model: `tleg models download` has it."""
    with Client(url) as client:
        listed = client.list_checkpoints(job_id)
    if as_json:
        print_json(listed.model_dump(mode="json"))
        return
    rows = [
        (item.model, str(item.epoch), f"{item.step:,}", _loss(item.metrics), percent(item.metrics.get("top1")))
        for item in listed.data
    ]
    print_table(("model", "epoch", "step", "loss", "top-1"), rows)


@app.command()
def download(
    url: Url,
    job_id: JobId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; <model>.safetensors by default.")
    ] = None,
) -> None:
    """Download the weights of a fine-tune's result; a broken download is taken up where it stopped."""
    with Client(url) as client:
        job = client.get_fine_tune(job_id)
        if job.result is None:
            raise ClientError(f"{job.id} is {job.status}; it has no result{'' if job.is_terminal else ' yet'}")
        download_weights(client, job.result.model, output)


def _watch(client: Client, job: FineTuneResource, *, as_json: bool) -> None:
    """Watch a job until it has ended, and say what came of it."""
    try:
        ended = watch_job(client, job, as_json=as_json)
    except KeyboardInterrupt:
        err.print(f"{job.id} goes on.", soft_wrap=True)
        err.print(f"To watch it again: tleg fine-tunes watch {job.id}", soft_wrap=True)
        err.print(f"To end it:         tleg fine-tunes cancel {job.id}", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED) from None
    if as_json or ended.result is None:
        return
    accuracy = f", top-1 {percent(ended.metrics['top1'])} on held-out images" if "top1" in ended.metrics else ""
    out.print(f"succeeded{accuracy}", soft_wrap=True)
    out.print(f"model {ended.result.model}", soft_wrap=True)
    err.print(f"download it with `tleg fine-tunes download {ended.id}`", soft_wrap=True)


def _print_status(job: FineTuneResource) -> None:
    waits = ", to be paused when its state is saved" if job.pause_requested else ""
    out.print(f"{job.id} is {job.status}{waits}", soft_wrap=True)


def _print_jobs(jobs: Sequence[FineTuneResource]) -> None:
    rows = [
        (
            job.id,
            job.status,
            f"{job.progress.epoch}/{job.progress.epochs}",
            percent(job.metrics.get("top1")),
            _local(job.created_at).strftime("%m-%d %H:%M"),
        )
        for job in jobs
    ]
    print_table(("id", "status", "epochs", "top-1", "created"), rows, folds=1)


def _network(client: Client, job: FineTuneResource) -> str:
    """Return what a job trains, or a dash where the server does not say: its learngene may be gone."""
    try:
        model = client.get_model(job.model)
    except ClientError:
        return "-"
    return f"{model.learngene}, depth {model.member.depth}, {compact(model.params)} parameters"


def _has_few_classes(client: Client, job: FineTuneResource) -> bool:
    """Whether a top-5 of 100 % says nothing, as there are no more classes; only then is the data set asked for."""
    if job.metrics.get("top5") != 1.0:
        return False
    try:
        return client.get_dataset(job.dataset).num_classes <= 5
    except ClientError:  # deleted since
        return False


def _facts(job: FineTuneResource, *, network: str, few_classes: bool) -> list[tuple[str, str]]:
    progress, metrics = job.progress, job.metrics
    shown = (("top-1", "top1"),) if few_classes else (("top-1", "top1"), ("top-5", "top5"))
    measured = [f"{name} {percent(metrics[key])}" for name, key in shown if key in metrics]
    measured += [f"loss {_loss(metrics)}"] if "loss" in metrics else []
    facts = [
        ("id", job.id),
        ("status", f"{job.status}{', to be paused' if job.pause_requested else ''}"),
        ("attempt", str(job.attempt)),
        ("model", job.model),
        ("network", network),
        ("data set", job.dataset),
        (
            "progress",
            f"{percent(progress.fraction)}, {progress.epoch} of {progress.epochs} epochs done, step {progress.step:,}",
        ),
        ("held out", ", ".join(measured) or "-"),
        ("rate", f"{compact(job.images_per_s)} images/s" if job.images_per_s else "-"),
        ("created", _time(job.created_at)),
        ("started", _time(job.started_at)),
        ("finished", _time(job.finished_at)),
    ]
    if job.estimated_finish_at is not None:
        facts.append(("expected", _time(job.estimated_finish_at)))
    if job.error is not None:
        facts.append(("error", f"{job.error.message} ({job.error.code})"))
    if job.result is not None:
        facts.append(("result", job.result.model))
    return [*facts, ("settings", ", ".join(f"{name} {value}" for name, value in job.settings.items()))]


def _loss(metrics: dict[str, float]) -> str:
    return f"{metrics['loss']:.4f}" if "loss" in metrics else "-"


def _time(when: datetime | None) -> str:
    return "-" if when is None else _local(when).strftime("%Y-%m-%d %H:%M:%S")


def _local(when: datetime) -> datetime:
    return when.astimezone()
