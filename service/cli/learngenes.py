"""`tleg publish` and `tleg learngenes`: what a server expands models from; published, listed, downloaded and deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from service.api.schemas.learngenes import FamilyMember, LearngeneList, LearngeneResource
from service.api.schemas.members import MeasuredAccuracy
from service.cli import budget_options as options
from service.cli.console import compact, err, out, percent, print_facts, print_json, print_table, printable, transfer_bar
from service.cli.models import Url
from service.client import Client
from tleg_core.budget import WELL_MEASURED
from tleg_core.learngene import Learngene
from tleg_core.markdown import stated_licence

app = typer.Typer(help="List, show, download and delete the learngenes of a server; without a command, list them.")

Name = Annotated[str, typer.Argument(help="The learngene's name.", show_default=False)]

_PAGE = 100


def publish(
    url: Url,
    file: Annotated[Path, typer.Argument(help="A learngene's file, as `tleg train` writes it.", show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="Publish it under this name instead of the file's own; the file stays as it is.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of other weights that are published under its name.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Publish a learngene on a server, which checks it and serves it at once, without a restart.

    Its name is the one in the file, or --name. The same file again changes
    nothing; one of the same weights with more measured accuracy takes its place.
    """
    with _named(file, name) as sent_file, Client(url) as client, transfer_bar(file.name or str(file)) as bar:
        task = bar.task_ids[0]

        def show_progress(sent: int, size: int) -> None:
            bar.update(task, completed=sent, total=size)
            if sent == size:
                bar.update(task, description="the server checks the learngene")

        learngene = client.publish_learngene(sent_file, replace=replace, progress=show_progress)
    _print(learngene, as_json=as_json)


@app.callback(invoke_without_command=True)
def learngenes(context: typer.Context, url: Url, as_json: options.AsJson = False) -> None:
    """List, show, download and delete the learngenes of a server; without a command, list them."""
    if context.invoked_subcommand is None:
        list_learngenes(url, as_json=as_json)
    elif any(_is_given(context, name) for name in ("url", "as_json")):
        context.fail(f"options of `{context.invoked_subcommand}` come after it")


@app.command("list")
def list_learngenes(
    url: Url,
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="Learngenes a page.")] = _PAGE,
    after: Annotated[str | None, typer.Option(help="Go on after this name.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List learngenes by name, with what their smallest and largest members cost."""
    with Client(url) as client:
        page = client.list_learngenes(limit=limit, after=after)
        while page.has_more and len(page.data) < limit:  # a page ends early where learngenes have thousands of members
            more = client.list_learngenes(limit=limit - len(page.data), after=page.data[-1].id)
            page = more.model_copy(update={"data": [*page.data, *more.data]})
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    _print_page(page)


@app.command()
def show(url: Url, name: Name, as_json: options.AsJson = False) -> None:
    """Show one learngene: where it comes from, and every member's costs and accuracy."""
    with Client(url) as client:
        learngene = client.get_learngene(name)
    _print(learngene, as_json=as_json)


app.command("get", help="The same as `show`: what the other groups call it.")(show)


@app.command()
def download(
    url: Url,
    name: Name,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; <name>.safetensors by default.")] = None,
) -> None:
    """Download a learngene's file, of which `tleg expand` makes every member without a server."""
    path = output or Path(f"{name.replace('/', '_')}.safetensors")
    with Client(url) as client, transfer_bar(path.name) as bar:
        task = bar.task_ids[0]
        learngene = client.download_learngene(
            name, path, progress=lambda have, size: bar.update(task, completed=have, total=size)
        )
    err.print(f"{path}: {learngene.size_bytes:,} bytes, sha256 {learngene.sha256} checked", soft_wrap=True)


@app.command()
def delete(url: Url, name: Name) -> None:
    """Delete a published learngene; models that are expanded from it cannot be downloaded afterwards."""
    with Client(url) as client:
        client.delete_learngene(name)
    err.print(f"{name} is deleted", soft_wrap=True)


@contextmanager
def _named(file: Path, name: str | None) -> Iterator[Path]:
    """Give the file, or where a name is given a copy that bears it: the same weights, so the same digest."""
    if name is None:
        yield file
        return
    renamed = Learngene.open(file).with_description(name=name)
    with TemporaryDirectory(prefix="tleg-publish-") as folder:
        copy = Path(folder) / f"{name}.safetensors"
        renamed.write(copy)
        yield copy


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _print_page(page: LearngeneList) -> None:
    """Print learngenes, one a line; what their accuracies were measured on has its own lines, which the numbers refer to."""
    rows = []
    notes: dict[str, str] = {}  # from what was measured on to its mark
    for item in page.data:
        depths, sizes = [member.depth for member in item.members], [member.params for member in item.members]
        best, measured_on = _best(item.members)
        mark = "   " if measured_on is None else notes.setdefault(measured_on, f"[{len(notes) + 1}]")
        rows.append(
            (
                item.id,
                item.method,
                f"{min(depths)}-{max(depths)}",
                f"{compact(min(sizes))}-{compact(max(sizes))}",
                f"{percent(best)} {mark}",
                item.source.value,
            )
        )
    print_table(("learngene", "method", "depth", "params", "best top-1", "source"), rows)
    for measured_on, mark in notes.items():
        out.print(printable(f"{mark} the best member's on {measured_on}, no fine-tuning"))
    if page.has_more:
        err.print(f"more follow: --after {page.data[-1].id}")


def _best(members: Sequence[FamilyMember]) -> tuple[float | None, str | None]:
    """Return the highest accuracy and what it was measured on; one on many images stands before any on few."""
    entries = [(entry, data_set) for member in members for data_set, entry in member.accuracy.items()]
    if not entries:
        return None, None
    best, data_set = max(entries, key=lambda item: (item[0].images >= WELL_MEASURED, item[0].top1))
    return best.top1, _measured_on(data_set, best)


def _measured_on(data_set: str, measured: MeasuredAccuracy) -> str:
    return f"{data_set} ({measured.images:,} images)"


def _print(learngene: LearngeneResource, *, as_json: bool) -> None:
    if as_json:
        print_json(learngene.model_dump(mode="json"))
        return
    config, provenance = learngene.config, learngene.provenance
    published = "" if learngene.published_at is None else f" {learngene.published_at:%Y-%m-%d %H:%M} UTC"
    trained = "" if learngene.trained_depth is None else f", trained at depth {learngene.trained_depth}"
    print_facts(
        [
            ("name", learngene.id),
            ("method", f"{learngene.method}{trained}"),
            ("network", f"width {_widths(learngene)}, {config.img_size} px in patches of {config.patch_size}"),
            *_pool(learngene),
            *_selection(learngene),
            ("classes", f"{config.num_classes:,}"),
            ("source", f"{learngene.source.value}{published}"),
            ("size", f"{compact(learngene.size_bytes)}B, {learngene.stored_params:,} parameters for all members"),
            ("digest", learngene.digest),
            ("sha256", learngene.sha256),
            ("data", provenance.data_set),
            ("ancestry", provenance.ancestry),
            ("licence", stated_licence(provenance.licence)),
            *_measurements(learngene.members),
        ]
    )
    out.print()
    rows = [_row(member) for member in learngene.members]
    first = "depth" if learngene.members[0].path is None else "path"
    print_table((first, "params", "MACs", "size", "top-1"), rows, folds=4)


def _measurements(members: Sequence[FamilyMember]) -> list[tuple[str, str]]:
    """Return what the accuracies of members were measured on."""
    found = dict.fromkeys(_measured_on(*item) for member in members for item in member.accuracy.items())
    return [("measured", f"on {', '.join(found)}, no fine-tuning")] if found else []


def _widths(learngene: LearngeneResource) -> str:
    """Return the width, or those of a pool."""
    widths = dict.fromkeys(anchor.config.embed_dim for anchor in learngene.anchors) or [learngene.config.embed_dim]
    return ", ".join(map(str, widths))


def _pool(learngene: LearngeneResource) -> list[tuple[str, str]]:
    """Return what a pool consists of."""
    anchors = [
        f"{index} {item.name} (width {item.config.embed_dim}, depth {item.depth})"
        for index, item in enumerate(learngene.anchors)
    ]
    return [("anchors", ", ".join(anchors)), ("stitches", f"{learngene.stitches:,}")] if anchors else []


def _selection(learngene: LearngeneResource) -> list[tuple[str, str]]:
    """Return how the layers that are inherited were chosen."""
    choice = learngene.selection
    if choice is None:
        return []
    scores = ", ".join(f"{layer}: {score:.3g}" for layer, score in enumerate(choice.scores))
    return [("layers", f"{', '.join(map(str, choice.chosen))}, chosen so: {choice.rule}"), ("scores", scores)]


def _row(member: FamilyMember) -> tuple[str, ...]:
    """Return a member's costs and its measured accuracy by data set."""
    accuracy = ", ".join(f"{percent(entry.top1)} {data_set}" for data_set, entry in member.accuracy.items()) or "-"
    costs = (compact(member.params), compact(member.macs), f"{compact(member.weights_bytes)}B")
    return (member.path or str(member.depth), *costs, accuracy)
