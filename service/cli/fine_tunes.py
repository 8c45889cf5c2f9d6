"""`tleg fine-tunes`: jobs on a server, from their creation to their result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.api.schemas.fine_tunes import FineTuneBody, FineTuneResource
from service.cli import budget_options as options
from service.cli.console import compact, err, out, percent, print_facts, print_json, print_table, short_time
from service.cli.job_commands import (
    JobCommands,
    JobId,
    LimitOption,
    StatusOption,
    add_job_commands,
    epochs_and_top1,
    facts_before,
    no_result,
    progress_facts,
)
from service.cli.models import AfterOption, Url, download_weights
from service.cli.setting_options import option_error, parse_settings, with_setting_options
from service.client import Client, ClientError
from tleg_core.budget import Objective
from tleg_core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Fine-tune models on a server, by jobs that survive restarts.")

# The settings that tell most of a training; `get` shows all.
_TELLING = ("epochs", "batch_size", "lr", "layer_decay", "augmentation", "mixup", "freeze", "start", "head")


@app.command()
@with_setting_options
def create(
    url: Url,
    dataset: Annotated[str, typer.Option(help="The data set's id, ds-…, of `tleg datasets upload`.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="The id of the model to start from; or give a budget.")] = None,
    depth: options.Depth = None,
    path: options.PathName = None,
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
    accuracy_on: options.AccuracyOn = None,
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
    options.refuse_file(learngene, options.PUBLISH_FIRST)
    budget = {
        "depth": depth,
        "path": path,
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
        "accuracy_on": accuracy_on,
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
            JOBS.watch(client, job, as_json=as_json)
        elif not as_json:
            err.print(f"watch it with `tleg fine-tunes watch {job.id}`", soft_wrap=True)


@app.command("list")
def list_fine_tunes(
    url: Url,
    limit: LimitOption = 20,
    after: AfterOption = None,
    status: StatusOption = None,
    model: Annotated[str | None, typer.Option(help="Only jobs that start from this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only jobs on this data set.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List fine-tunes, newest first."""
    with Client(url) as client:
        page = client.list_fine_tunes(limit=limit, after=after, status=status, model=model, dataset=dataset)
    JOBS.print_page(page, as_json=as_json)


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
            raise no_result(job)
        download_weights(client, job.result.model, output)


def _print_result(job: FineTuneResource) -> None:
    if job.result is None:
        return
    accuracy = f", top-1 {percent(job.metrics['top1'])} on held-out images" if "top1" in job.metrics else ""
    out.print(f"succeeded{accuracy}", soft_wrap=True)
    out.print(f"model {job.result.model}", soft_wrap=True)
    err.print(f"download it with `tleg fine-tunes download {job.id}`", soft_wrap=True)


def _network(client: Client, job: FineTuneResource) -> str:
    """Return what a job trains, or a dash where the server does not say: its learngene may be gone."""
    try:
        model = client.get_model(job.model)
    except ClientError:
        return "-"
    member = f"depth {model.member.depth}" if model.member.path is None else f"path {model.member.path}"
    return f"{model.learngene}, {member}, {compact(model.params)} parameters"


def _has_few_classes(client: Client, job: FineTuneResource) -> bool:
    """Whether a top-5 of 100 % says nothing, as there are no more classes; only then is the data set asked for."""
    if job.metrics.get("top5") != 1.0:
        return False
    try:
        return client.get_dataset(job.dataset).num_classes <= 5
    except ClientError:  # deleted since
        return False


def _facts(client: Client, job: FineTuneResource) -> list[tuple[str, str]]:
    metrics = job.metrics
    shown = (("top-1", "top1"),) if _has_few_classes(client, job) else (("top-1", "top1"), ("top-5", "top5"))
    measured = [f"{name} {percent(metrics[key])}" for name, key in shown if key in metrics]
    measured += [f"loss {_loss(metrics)}"] if "loss" in metrics else []
    return [
        *facts_before(job),
        ("model", job.model),
        ("network", _network(client, job)),
        ("data set", job.dataset),
        *progress_facts(job, held_out=", ".join(measured) or "-"),
        *([("result", job.result.model)] if job.result is not None else []),
        ("settings", ", ".join(f"{name} {value}" for name, value in job.settings.items())),
    ]


def _row(job: FineTuneResource) -> tuple[str, ...]:
    return (job.id, job.status, *epochs_and_top1(job), short_time(job.created_at))


def _loss(metrics: dict[str, float]) -> str:
    return f"{metrics['loss']:.4f}" if "loss" in metrics else "-"


JOBS = JobCommands(
    name="fine-tunes",
    noun="fine-tune",
    trains=True,
    get=Client.get_fine_tune,
    cancel=Client.cancel_fine_tune,
    pause=Client.pause_fine_tune,
    resume=Client.resume_fine_tune,
    facts=_facts,
    columns=("id", "status", "epochs", "top-1", "created"),
    row=_row,
    print_result=_print_result,
)
add_job_commands(app, JOBS)
