"""`tleg trainings`: learngenes that a server's workers train, from the job to the learngene that the server then serves."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.api.schemas.trainings import TrainingBody, TrainingResource
from service.cli import budget_options as options
from service.cli.console import err, out, percent, print_facts, print_json
from service.cli.job_commands import (
    JobCommands,
    LimitOption,
    StatusOption,
    add_job_commands,
    epochs_and_top1,
    facts_before,
    progress_facts,
)
from service.cli.models import AfterOption, Url
from service.client import Client
from service.domain.invalid_value import invalid_value_message
from tleg_core.config_section import parse_overrides
from tleg_core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Train learngenes of any method on a server, by jobs that survive restarts.")


_MEMBERS_SHOWN = 12  # of a job's measured ones

_TELLING = frozenset(
    {
        "name",
        "depth",
        "init",
        "num_layers",
        "layers",
        "embed_dim",
        "size",
        "img_size",
        "patch_size",
        "method",
        "rule",
        "train",
        "train_min",
        "alpha",
        "epochs",
        "batch_size",
        "lr",
    }
)


@app.command()
def create(
    url: Url,
    name: Annotated[str, typer.Option(help="The id of the learngene to be made.", show_default=False)],
    dataset: Annotated[str, typer.Option(help="The data set's id, ds-…, of `tleg datasets upload`.", show_default=False)],
    recipe: Annotated[str | None, typer.Option(help="A recipe that comes with tleg; by default the data set decides.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with fields to set, in a recipe's form; it need not name all.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.FIELD=VALUE",
            help="A field to set, of a pool's anchor as anchors.NAME.depth=6 or anchors.NAME.model=m-…; may be repeated.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="The id of the model to learn from or inherit layers of, m-…; by default the labels alone teach."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="The licence that the learngene is given, such as Apache-2.0.", show_default="not stated")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a published learngene of that name.")] = False,
    holdout: Annotated[
        float | None, typer.Option(help="Share held out where the data set has no test split.", show_default="0.2")
    ] = None,
    nproc: Annotated[int | None, typer.Option(help="Processes that train together.", show_default="1")] = None,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key and request give the same job, for a day.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Queue the training of a learngene on a data set; a name and a data set are enough."""
    request = {
        "name": name,
        "dataset": dataset,
        "recipe": recipe,
        "config": _config(config, changes or []) or None,
        "teacher": teacher,
        "licence": licence,
        "replace": replace or None,
        "holdout": holdout,
        "nproc": nproc,
    }
    try:
        body = TrainingBody.model_validate({name: value for name, value in request.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(".".join(str(part) for part in first["loc"]), invalid_value_message(first)) from None
    with Client(url) as client:
        job = client.train_learngene(body, idempotency_key=key)
        if as_json:
            print_json(job.model_dump(mode="json"))
        else:
            out.print(f"{job.id} is {job.status}", soft_wrap=True)
            print_facts(_config_facts(job, _TELLING))
        if watch:
            JOBS.watch(client, job, as_json=as_json)
        elif not as_json:
            err.print(f"watch it with `tleg trainings watch {job.id}`", soft_wrap=True)


@app.command("list")
def list_trainings(
    url: Url,
    limit: LimitOption = 20,
    after: AfterOption = None,
    status: StatusOption = None,
    teacher: Annotated[str | None, typer.Option(help="Only jobs that learn from this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only jobs on this data set.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List trainings, newest first."""
    with Client(url) as client:
        page = client.list_trainings(limit=limit, after=after, status=status, teacher=teacher, dataset=dataset)
    JOBS.print_page(page, as_json=as_json)


def _config(path: Path | None, changes: list[str]) -> dict[str, dict[str, Any]]:
    """Return what a file and the command line set; the latter wins."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError("--config", f"{path} is no TOML: {error}") from error
    for section, fields in parse_overrides(changes).items():
        own = values.setdefault(section, {})
        if isinstance(own, list):
            _change_anchors(own, fields)
        elif isinstance(own, dict):
            own.update(fields)
        else:
            raise ConfigError("--config", f"{path}: {section} is no section")
    return values


def _change_anchors(anchors: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    """Change fields, `name.field`, of the tables of a list, each of which has a name."""
    named = {anchor.get("name"): anchor for anchor in anchors}
    for place, value in fields.items():
        name, _, field_name = place.partition(".")
        if name not in named or not field_name:
            raise ConfigError("--set", f"anchors.{place} must be like anchors.{next(iter(named), 'small')}.depth=6")
        named[name][field_name] = value


def _config_facts(job: TrainingResource, telling: frozenset[str] | None = None) -> list[tuple[str, str]]:
    """Return the configuration, a section or an anchor a line: all that is set, or the fields that tell most of it."""
    facts = []
    for section, values in job.config.items():
        for fields in values if isinstance(values, list) else [values]:
            words = [
                f"{name} {value}"
                for name, value in fields.items()
                if value is not None and (telling is None or name in telling)
            ]
            if words:
                facts.append((section, ", ".join(words)))
    return facts


def _facts(client: Client, job: TrainingResource) -> list[tuple[str, str]]:  # noqa: ARG001 (fine-tunes ask it)
    loss = [f"loss {job.metrics['loss']:.4f}"] if "loss" in job.metrics else []
    shown = list(job.accuracy.items())
    measured = [f"{_member(member)} {percent(top1)}" for member, top1 in shown[:_MEMBERS_SHOWN]]
    measured += [f"and {len(shown) - _MEMBERS_SHOWN} more"] if len(shown) > _MEMBERS_SHOWN else []
    measured += loss
    return [
        *facts_before(job),
        ("learngene", job.name),
        ("teacher", job.teacher or "none: labels alone"),
        *(("anchor", f"{name} is {model}") for name, model in job.anchors.items()),
        ("data set", job.dataset),
        *progress_facts(job, held_out=", ".join(measured) or "-"),
        *([("digest", job.result.digest)] if job.result is not None else []),
        *_config_facts(job),
    ]


def _row(job: TrainingResource) -> tuple[str, ...]:
    return (job.id, job.name, job.status, *epochs_and_top1(job))


def _member(text: str) -> str:
    """Return what a member is called: a number is a depth, else it is a path."""
    return f"{'depth' if text.isdigit() else 'path'} {text}"


def _print_result(job: TrainingResource) -> None:
    if job.result is None:
        return
    out.print("succeeded", soft_wrap=True)
    measured = list(job.accuracy.items())
    for member, top1 in measured[:_MEMBERS_SHOWN]:
        out.print(f"{_member(member)}: top-1 {percent(top1)} on held-out images", soft_wrap=True)
    if len(measured) > _MEMBERS_SHOWN:
        hint = f"`tleg learngenes show {job.result.learngene}` has them"
        out.print(f"and {len(measured) - _MEMBERS_SHOWN} more: {hint}", soft_wrap=True)
    out.print(f"learngene {job.result.learngene}", soft_wrap=True)
    err.print(f"models of it: `tleg models create --learngene {job.result.learngene} --max-params 3M`", soft_wrap=True)


JOBS = JobCommands(
    name="trainings",
    noun="training",
    trains=True,
    get=Client.get_training,
    cancel=Client.cancel_training,
    pause=Client.pause_training,
    resume=Client.resume_training,
    facts=_facts,
    columns=("id", "learngene", "status", "epochs", "top-1"),
    row=_row,
    print_result=_print_result,
)
add_job_commands(app, JOBS)
