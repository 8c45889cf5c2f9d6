"""What the commands print: tables for people, JSON for programs, progress bars on the error stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from tleg_core.canonical import Json

# What is printed comes from files, servers and users: none of it is markup.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Json) -> None:
    """Print a value as indented JSON."""
    out.print(json.dumps(value, indent=2), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one a line, long values folded."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    out.print(table)


def compact(number: float) -> str:
    """Return a number to three digits with a decimal suffix, such as 3.05M."""
    for suffix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= unit:
            scaled = number / unit
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}{suffix}"
    return f"{number:.0f}"


def percent(fraction: float | None) -> str:
    """Return a fraction in percent, or a dash."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


@contextmanager
def transfer_bar(label: str) -> Iterator[Progress]:
    """Show a bar of bytes on the error stream."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        progress.add_task(label, total=None)
        yield progress
