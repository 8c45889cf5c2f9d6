"""`tleg datasets`: images on a server, uploaded, listed and deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.api.schemas.datasets import DatasetResource, DatasetSummary
from service.cli import budget_options as options
from service.cli.console import compact, err, out, print_facts, print_json, print_table, transfer_bar
from service.cli.models import AfterOption, Url
from service.client import Client
from tleg_core.amount import amount

app = typer.Typer(no_args_is_help=True, help="Upload, list, show and delete the data sets that models learn from.")

DatasetId = Annotated[str, typer.Argument(help="The data set's id, ds-….", show_default=False)]

_CLASSES_SHOWN = 30
_REASONS = {
    "empty": "empty",
    "format": "neither JPEG nor PNG nor WebP",
    "damaged": "damaged",
    "animated": "animated",
    "too_many_pixels": "with too many pixels",
    "too_many_bytes": "with too many bytes",
    "no_class": "outside of the class folders",
    "no_image": "rows without an image",
    "no_label": "rows without a label",
}


@app.command()
def upload(
    url: Url,
    path: Annotated[
        Path, typer.Argument(help="A folder of class folders, a zip, a tar, or a parquet file.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="What to call it.", show_default="the path's name")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Upload a data set; every image is looked at, and what is refused is said.

    A folder has a folder for each class, or train and test folders with those in them.
    """
    with Client(url) as client, transfer_bar(path.name or str(path)) as bar:
        task = bar.task_ids[0]

        def show(sent: int, size: int) -> None:
            bar.update(task, completed=sent, total=size)
            if sent == size:
                bar.update(task, description="the server looks at the images")

        dataset = client.upload_dataset(path, name=name, progress=show)
    _print(dataset, as_json=as_json)


@app.command()
def get(url: Url, dataset_id: DatasetId, as_json: options.AsJson = False) -> None:
    """Show one data set: its classes, and what was refused."""
    with Client(url) as client:
        dataset = client.get_dataset(dataset_id)
    _print(dataset, as_json=as_json)


@app.command("list")
def list_datasets(
    url: Url,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Data sets a page.")] = 20,
    after: AfterOption = None,
    as_json: options.AsJson = False,
) -> None:
    """List data sets, newest first."""
    with Client(url) as client:
        page = client.list_datasets(limit=limit, after=after)
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    rows = [
        (item.id, str(item.num_classes), compact(item.train), compact(item.test), f"{compact(item.size_bytes)}B", item.name)
        for item in page.data
    ]
    print_table(("id", "classes", "train", "test", "size", "name"), rows, folds=5)
    if page.has_more:
        err.print(f"more follow: --after {page.data[-1].id}")


@app.command()
def delete(url: Url, dataset_id: DatasetId) -> None:
    """Delete a data set; refused while a job needs it."""
    with Client(url) as client:
        client.delete_dataset(dataset_id)
    err.print(f"{dataset_id} is deleted", soft_wrap=True)


def _print(dataset: DatasetResource, *, as_json: bool) -> None:
    if as_json:
        print_json(dataset.model_dump(mode="json"))
        return
    sides = f"{dataset.min_side}" if dataset.min_side == dataset.max_side else f"{dataset.min_side} to {dataset.max_side}"
    formats = ", ".join(f"{count:,} {name}" for name, count in dataset.formats.items())
    print_facts(
        [
            ("id", dataset.id),
            ("name", dataset.name),
            ("images", f"{dataset.train:,} to train, {dataset.test:,} to test, in {dataset.num_classes:,} classes"),
            ("size", f"{compact(dataset.size_bytes)}B; sides of {sides} pixels; {formats}"),
            ("refused", _refused(dataset)),
            *((f"  {example.reason}", example.name) for example in dataset.refused_examples),
        ]
    )
    out.print()
    rows = [(item.name, f"{item.train:,}", f"{item.test:,}") for item in dataset.classes[:_CLASSES_SHOWN]]
    print_table(("class", "train", "test"), rows)
    if len(dataset.classes) > _CLASSES_SHOWN:
        err.print(f"and {amount(len(dataset.classes) - _CLASSES_SHOWN, 'more class', 'more classes')}: --json has them")


def _refused(dataset: DatasetSummary) -> str:
    """Return how many images were left out, and why."""
    if not dataset.refused:
        return "none"
    reasons = ", ".join(f"{count:,} {_REASONS.get(reason, reason)}" for reason, count in dataset.refused.items())
    return f"{sum(dataset.refused.values()):,}: {reasons}"
