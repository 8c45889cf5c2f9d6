"""`tleg evaluate`: the accuracy of a learngene's members on held-out images, written into its file.

What is measured is `tleg_core.training.evaluate`'s and, along the paths of a pool, `path_accuracy`'s; both are imported inside
the command because torch takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.console import compact, err, out, percent, print_json, print_table, printable
from service.cli.local import LearngeneFile, open_learngene
from service.cli.training_options import TEST_HELP, DeviceOption, parse_depths, resolve_device
from tleg_core.amount import amount
from tleg_core.canonical import Json
from tleg_core.cost import Cost, stack_cost
from tleg_core.description import MAX_DATA_SETS, Measurement
from tleg_core.designs.pool import Pool
from tleg_core.designs.scratch import Scratch
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImagePart, ImageSource
from tleg_core.images import ImageSet, read_images
from tleg_core.interval import wilson
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member


def evaluate(
    *,
    learngene: LearngeneFile,
    data: Annotated[list[Path], typer.Option(help=f"Test images; may be given several times. {TEST_HELP}")],
    depths: Annotated[str | None, typer.Option(help="Members of depths such as 3,6,9-12; default: all members.")] = None,
    paths: Annotated[str | None, typer.Option(help="Of a pool: members along paths such as 0.0-11,0.0-7_1.8-11.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first so many images of each set only.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 500,
    bf16: Annotated[bool, typer.Option("--bf16/--fp32", help="Compute in bfloat16: faster, and not written.")] = False,
    write: Annotated[
        bool | None,
        typer.Option("--write/--no-write", help="Write the result into the file: the default, but not with --bf16."),
    ] = None,
    device: DeviceOption = "auto",
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy by depth, of a pool by multiply-accumulates, as .png or .svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the top-1 accuracy of a learngene's descendants, as expanded, without fine-tuning."""
    from tleg_core.training.evaluate import check_classes

    if limit is not None and limit < 1:
        raise ConfigError("limit", f"must be at least 1, not {limit}")
    if bf16 and write:
        raise ConfigError("write", "is for float32 only: what the file says must not depend on --bf16")
    if plot is not None:
        from tleg_core.plots.figure import check_suffix

        check_suffix(plot, "plot")
    gene = open_learngene(learngene)
    path = Path(learngene)
    if write and not path.is_file():
        raise ConfigError("write", f"{learngene} is a shipped learngene: give the path of a file")
    chosen = _members(gene, depths, paths)
    sets = [_read(source, limit, gene.description.config.img_size) for source in data]
    _check_names(data, sets)
    for images in sets:
        check_classes(gene, images)
    writes = not bf16 and path.is_file() if write is None else write
    if writes:
        _check_room(gene, sets)
    where = resolve_device(device)
    measured: list[Measurement] = []
    with _bar(len(chosen) * sum(len(images) for images in sets)) as progress:
        for images in sets:
            progress.update(progress.task_ids[0], description=printable(images.name))
            measured += measure_members(
                gene,
                images,
                chosen,
                device=where,
                batch_size=batch_size,
                autocast=bf16,
                progressed=lambda count: progress.advance(progress.task_ids[0], count),
            )
    if as_json:
        print_json(
            {
                "learngene": gene.name,
                "digest": gene.digest,
                "precision": "bfloat16" if bf16 else "float32",
                "data": [_entry_json(entry) for entry in measured],
            }
        )
    else:
        for images in sets:
            _print(gene, images.name, [entry for entry in measured if entry.data_set == images.name])
    if plot is not None:
        _draw(gene, {images.name: [entry for entry in measured if entry.data_set == images.name] for images in sets}, plot)
        err.print(printable(f"{plot}: drawn"), soft_wrap=True)
    _keep(gene, path, measured, write=writes)


def _members(gene: Learngene, depths: str | None, paths: str | None) -> list[Member]:
    """Return the members that the options name, in the design's order; all without them.

    Raises:
        ConfigError: An option names none, or two of them are given, or nothing of the learngene was learned.
    """
    design = gene.description.design
    if isinstance(design, Scratch):
        raise ConfigError("learngene", f"{gene.name} is drawn at random, its head too: there is no accuracy to measure")
    if depths is not None and paths is not None:
        raise ConfigError("--depths or --paths", "give one of them, not both")
    if paths is not None:
        wanted = {Member.along(PoolPath.parse(text.strip())) for text in paths.split(",")}
        for member in wanted:
            design.check(member)
        return [member for member in design.members if member in wanted]
    offered = [member.depth for member in design.members]
    kept = set(parse_depths(depths, min(offered), max(offered)))
    members = [member for member in design.members if member.depth in kept]
    if not members:
        raise ConfigError("depths", f"no member is of them; there are {', '.join(map(str, sorted(set(offered))))}")
    return members


def measure_members(gene: Learngene, images: ImageSource, members: Sequence[Member], **options: Any) -> Iterator[Measurement]:
    """Yield the accuracy of each member, whatever the design; the options are `measure_depths`'s."""
    if isinstance(gene.description.design, Pool):
        from tleg_core.training.path_accuracy import measure_paths

        return measure_paths(gene, images, paths=[member.path for member in members if member.path is not None], **options)
    from tleg_core.training.evaluate import measure_depths

    return measure_depths(gene, images, depths=[member.depth for member in members], **options)


def _draw(gene: Learngene, lines: Mapping[str, Sequence[Measurement]], plot: Path) -> None:
    """Draw each data set's accuracies."""
    if isinstance(gene.description.design, Pool):
        from tleg_core.plots.macs_plot import plot_macs

        plot_macs(lines, plot, macs_of=lambda entry: _cost(gene, entry).macs, title=gene.name)
        return
    from tleg_core.plots.depth_plot import plot_depths

    plot_depths(lines, plot, title=gene.name)


def _cost(gene: Learngene, entry: Measurement) -> Cost:
    return stack_cost(gene.description.design.stack(entry.member))


def _read(source: Path, limit: int | None, side: int) -> ImageSource:
    """Return the first `limit` images, in memory where all fit and are of one size."""
    images = read_images(source, split="test", side=side)
    if limit is None or limit >= len(images):
        return images
    return images.head(limit) if isinstance(images, ImageSet) else ImagePart(images, np.arange(limit), images.name)


def _check_names(sources: Sequence[Path], sets: Sequence[ImageSource]) -> None:
    """Raise `ConfigError` where two sets would be one in the learngene's file."""
    seen: dict[str, Path] = {}
    for source, images in zip(sources, sets, strict=True):
        if images.name in seen:
            raise ConfigError(
                "data", f"{source} and {seen[images.name]} are both called {images.name!r}, after which the file keeps them"
            )
        seen[images.name] = source


def _entry_json(entry: Measurement) -> dict[str, Json]:
    low, high = wilson(entry.top1, entry.images)
    return {
        "data_set": entry.data_set,
        "depth": entry.depth,
        "path": None if entry.path is None else str(entry.path),
        "top1": entry.top1,
        "interval": [low, high],
        "images": entry.images,
    }


def _print(gene: Learngene, data_set: str, measured: Sequence[Measurement]) -> None:
    """Print the table of one data set."""
    config = gene.description.config
    out.print(
        printable(f"{gene.name} on {data_set}, {amount(measured[0].images, 'image')}, {config.img_size} px, no fine-tuning")
    )
    rows = []
    for entry in measured:
        price = _cost(gene, entry)
        low, high = wilson(entry.top1, entry.images)
        rows.append(
            (
                str(entry.path or entry.depth),
                f"{price.params:,}",
                compact(price.macs),
                percent(entry.top1),
                f"{100 * low:.2f} to {100 * high:.2f}",
            )
        )
    print_table(("depth" if measured[0].path is None else "path", "params", "MACs", "top-1", "95 % interval"), rows)
    out.print()


def _check_room(gene: Learngene, sets: Sequence[ImageSource]) -> None:
    """Raise `ConfigError`, before anything is measured, where the learngene's file cannot take more data sets."""
    named = {entry.data_set for entry in gene.description.accuracy} | {images.name for images in sets}
    if len(named) > MAX_DATA_SETS:
        raise ConfigError(
            "data",
            f"{gene.name} would be measured on {len(named)} data sets, more than {MAX_DATA_SETS}; --no-write only prints",
        )


def _keep(gene: Learngene, path: Path, measured: Sequence[Measurement], *, write: bool) -> None:
    """Write the accuracy into the learngene's file, in place of what it said of the same members and data sets."""
    if not write:
        err.print("not written into the learngene's file")
        return
    replaced = {(entry.member, entry.data_set) for entry in measured}
    kept = [entry for entry in gene.description.accuracy if (entry.member, entry.data_set) not in replaced]
    order = {member: index for index, member in enumerate(gene.description.design.members)}
    accuracy = sorted([*kept, *measured], key=lambda entry: (entry.data_set, order[entry.member]))
    gene.with_description(accuracy=tuple(accuracy)).write(path)
    err.print(printable(f"{path}: accuracy written"), soft_wrap=True)


@contextmanager
def _bar(images: int) -> Iterator[Progress]:
    """Show a bar of classified images on the error stream, where that is a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        progress.add_task("", total=images)
        yield progress
