"""`tleg models`: commands against a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from service.api.schemas.exports import ExportResource
from service.api.schemas.models import CreatedModel, FineTuningResource, ModelResource
from service.cli import budget_options as options
from service.cli.console import compact, err, out, percent, print_facts, print_json, print_table, printable, transfer_bar
from service.client import Client
from service.domain.export import ExportFormat, WeightsFormat
from service.domain.job import JobStatus
from service.settings import ClientSettings
from tleg_core.amount import amount
from tleg_core.budget import Objective
from tleg_core.dtype import DType
from tleg_core.stack import STITCHED_VIT

app = typer.Typer(no_args_is_help=True, help="Create, list and download models on a server.")

Url = Annotated[
    str,
    typer.Option(
        help="The server's address.", default_factory=lambda: ClientSettings().url, show_default="TLEG_URL, or 127.0.0.1:8000"
    ),
]
AfterOption = Annotated[str | None, typer.Option(help="Go on after this id.")]
ModelId = Annotated[str, typer.Argument(help="The model's id, m-….", show_default=False)]


@app.command()
def create(
    url: Url,
    depth: options.Depth = None,
    path: options.PathName = None,
    max_params: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    max_flops: options.MaxFlops = None,
    max_weights_bytes: options.MaxWeightsBytes = None,
    max_memory_bytes: options.MaxMemoryBytes = None,
    batch_size: options.BatchSize = 1,
    learngene: options.LearngeneName = None,
    method: options.MethodName = None,
    objective: options.ObjectiveName = Objective.ACCURACY,
    accuracy_on: options.AccuracyOn = None,
    num_classes: options.NumClasses = None,
    image_size: options.ImageSize = None,
    head: options.HeadSource = None,
    seed: options.Seed = 0,
    dtype: options.DTypeName = DType.FLOAT32,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what one would get.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Download the weights to this file at once.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Create the best model within a budget."""
    options.refuse_file(learngene, options.PUBLISH_FIRST)
    body = options.request_body(
        depth=depth,
        path=path,
        max_params=max_params,
        max_macs=max_macs,
        max_flops=max_flops,
        max_weights_bytes=max_weights_bytes,
        max_memory_bytes=max_memory_bytes,
        batch_size=batch_size,
        learngene=learngene,
        method=method,
        objective=objective,
        accuracy_on=accuracy_on,
        num_classes=num_classes,
        image_size=image_size,
        head=head,
        seed=seed,
        dtype=dtype,
    )
    with Client(url) as client:
        model = client.create_model(body, dry_run=dry_run)
        if as_json:
            print_json(model.model_dump(mode="json"))
        else:
            print_facts(_created_facts(model))
        if dry_run:
            err.print("nothing was made: this is what one would get")
        elif output is not None:
            download_weights(client, model.id, output)


@app.command("list")
def list_models(
    url: Url,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Models a page.")] = 20,
    after: AfterOption = None,
    as_json: options.AsJson = False,
) -> None:
    """List models, newest first."""
    with Client(url) as client:
        page = client.list_models(limit=limit, after=after)
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    _print_models(page.data)
    if page.has_more:
        err.print(f"more follow: --after {page.data[-1].id}")


@app.command()
def get(url: Url, model_id: ModelId, as_json: options.AsJson = False) -> None:
    """Show one model."""
    with Client(url) as client:
        model = client.get_model(model_id)
    if as_json:
        print_json(model.model_dump(mode="json"))
        return
    rows = [
        ("id", model.id),
        ("learngene", f"{model.learngene} ({model.method})"),
        *_fine_tuning(model),
        ("depth", str(model.member.depth)),
        *([] if model.member.path is None else [("path", model.member.path)]),
        ("parameters", f"{model.params:,}"),
        ("MACs", f"{model.macs:,}"),
        ("file", f"{model.size_bytes:,} bytes"),
        ("sha256", str(model.sha256)),
        *(
            (f"top-1, {name}", f"{percent(entry.top1)} of {amount(entry.images, 'image')}")
            for name, entry in model.accuracy.items()
        ),
        *([("first", "import tleg_core.training.stitched_vit")] if model.architecture == STITCHED_VIT else []),
        ("timm", f'timm.create_model("hf-hub:{model.links["hub"]}", pretrained=True)'),
    ]
    for name, value in rows:
        out.print(f"{printable(name):<12} ", style="bold", end="")
        out.print(printable(value), soft_wrap=True)


@app.command()
def download(
    url: Url,
    model_id: ModelId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; <id>.safetensors by default.")] = None,
    weights_format: Annotated[
        WeightsFormat,
        typer.Option("--format", metavar="FORMAT", help=f"{', '.join(WeightsFormat)}; the last two run without tleg."),
    ] = WeightsFormat.SAFETENSORS,
) -> None:
    """Download a model; a broken download is taken up where it stopped.

    ONNX files and torch.export programs are made by a worker when they are first asked for.
    """
    with Client(url) as client:
        if weights_format.export is None:
            download_weights(client, model_id, output)
        else:
            download_export(client, model_id, output, weights_format.export)


def _created_facts(model: CreatedModel) -> list[tuple[str, str]]:
    """Return what one got, and why it was that."""
    accuracy = ", ".join(f"{percent(entry.top1)} on {data_set}" for data_set, entry in model.accuracy.items())
    decided = model.selected_by.data_set
    return [
        ("id", model.id),
        ("learngene", f"{model.learngene} ({model.method})"),
        ("depth", str(model.member.depth)),
        *([] if model.member.path is None else [("path", model.member.path)]),
        ("params", compact(model.params)),
        ("MACs", compact(model.macs)),
        ("size", f"{compact(model.size_bytes)}B"),
        *([("top-1", accuracy)] if accuracy else []),
        ("selected by", "size: the largest that fits" if decided is None else f"top-1 on {decided}: the highest that fits"),
    ]


def _family(model: ModelResource) -> str:
    """Return the learngene, in a pool with the path."""
    return model.learngene if model.member.path is None else f"{model.learngene} {model.member.path}"


def _print_models(models: Sequence[ModelResource]) -> None:
    rows = [(model.id, str(model.member.depth), compact(model.params), _origin(model)) for model in models]
    print_table(("id", "depth", "params", "learngene or data set"), rows, folds=3)


def _origin(model: ModelResource) -> str:
    """Return the learngene, or the data set with the epochs and the held-out accuracy, which tell checkpoints apart."""
    tuning = model.fine_tuning
    if tuning is None:
        return _family(model)
    accuracy = f", {percent(tuning.metrics['top1'])}" if "top1" in tuning.metrics else ""
    return f"{_data_set(tuning)} epoch {tuning.epoch}{accuracy}"


def _fine_tuning(model: ModelResource) -> list[tuple[str, str]]:
    """Return what is to be said of a fine-tuned model beside what all have."""
    tuning = model.fine_tuning
    if tuning is None:
        return []
    return [
        ("fine-tuned", f"on {_data_set(tuning)}, {amount(tuning.epoch, 'epoch')}"),
        ("from", tuning.parent),
        ("by", tuning.job),
    ]


def _data_set(tuning: FineTuningResource) -> str:
    return tuning.dataset_name or tuning.dataset


def download_weights(client: Client, model_id: str, output: Path | None) -> None:
    """Download a model's weights with a bar, to `<id>.safetensors` where no file is named."""
    path = output or Path(f"{model_id.replace('/', '_')}.safetensors")
    with transfer_bar(path.name) as bar:
        task = bar.task_ids[0]
        model = client.download(model_id, path, progress=lambda have, size: bar.update(task, completed=have, total=size))
    err.print(f"{path}: {model.size_bytes:,} bytes, sha256 {model.sha256} checked", soft_wrap=True)


def download_export(client: Client, model_id: str, output: Path | None, export_format: ExportFormat) -> None:
    """Download a model's export with a bar; say how its job stands while it is waited for."""
    path = output or Path(f"{model_id.replace('/', '_')}{export_format.suffix}")
    shown = ""
    with transfer_bar(path.name) as bar:
        task = bar.task_ids[0]

        def show(job: ExportResource) -> None:
            nonlocal shown
            state = f"{job.id} is {job.status}"
            bar.update(task, description=f"{path.name}: {job.status}")
            is_held = job.status is JobStatus.PAUSED
            if state != shown and (is_held or not err.is_terminal):
                hint = f"; `tleg exports resume {job.id}` goes on with it" if is_held else ""
                err.print(f"{state}{hint}", soft_wrap=True)
            shown = state

        def transferred(have: int, size: int) -> None:
            bar.update(task, description=path.name, completed=have, total=size)

        try:
            result = client.download_export(model_id, path, export_format, progress=transferred, waiting=show).result
        except KeyboardInterrupt:
            if shown:
                err.print(f"{shown}, and stays on the server; the same command asks for its file again", soft_wrap=True)
            raise
    if result is not None:
        deviation = f"logits within {result.deviation:.1e} of the network's"
        err.print(f"{path}: {result.size_bytes:,} bytes, sha256 {result.sha256} checked, {deviation}", soft_wrap=True)
