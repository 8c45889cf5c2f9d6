"""What the commands print: tables for people, JSON for programs, progress bars on the error stream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from tleg_core.canonical import Json

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# What is printed comes from files, servers and users: none of it is markup.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Json) -> None:
    """Print a value as indented JSON."""
    out.print(json.dumps(value, indent=2), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, folds: int = 0) -> None:
    """Print a table: numbers to the right, but for the columns 0 and `folds`; only the latter may take several lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if index in (0, folds) else "right"
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=index != folds)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out.print(table)
    if not table.row_count:
        err.print("there are none")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one a line, long values folded."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(printable(name)), Text(printable(value)))
    out.print(table)


def printable(text: str) -> str:
    """Return text without control characters, with which a file or a server could move the terminal's cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def compact(number: float) -> str:
    """Return a number to three digits with a decimal suffix, such as 3.05M."""
    for suffix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= unit:
            scaled = number / unit
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}{suffix}"
    return f"{number:.0f}"


def percent(fraction: float | None) -> str:
    """Return a fraction in percent, or a dash."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def local_time(when: datetime | None) -> str:
    """Return a time in this machine's time zone, or a dash."""
    return "-" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short_time(when: datetime) -> str:
    """Return a time in this machine's time zone, for a column of a table: without year and seconds."""
    return when.astimezone().strftime("%m-%d %H:%M")


def hours_minutes_seconds(seconds: float) -> str:
    """Return a duration as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


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
