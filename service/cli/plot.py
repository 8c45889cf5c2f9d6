"""`tleg plot`: the curves of training runs, from their journals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import err, printable
from tleg_core.errors import ConfigError


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run: its folder, its journal, or the file that it wrote. Several are drawn over each other."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write, .png or .svg; without a suffix both. Default: both, beside the run's journal."),
    ] = None,
) -> None:
    """Draw loss, accuracy, learning rate and speed of training runs."""
    from tleg_core.plots.figure import SUFFIXES
    from tleg_core.plots.run_plot import plot_runs
    from tleg_core.training.run_record import journal_path, read_run

    if out is None:
        if len(runs) > 1:
            raise ConfigError("out", "is needed to draw several runs: no one journal's folder is theirs")
        out = journal_path(runs[0]).with_name("curves")
    paths = [out] if out.suffix else [out.with_name(out.name + suffix) for suffix in SUFFIXES]
    records = [read_run(run) for run in runs]
    for path in paths:
        plot_runs(records, path)
        err.print(printable(f"{path}: drawn"), soft_wrap=True)
