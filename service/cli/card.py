"""`tleg card`: a learngene's card, printed or written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import err, out, printable
from service.cli.local import LearngeneFile, open_learngene
from tleg_core.atomic_file import atomic_file
from tleg_core.family import Family
from tleg_core.learngene_card import card as card_of


def card(
    learngene: LearngeneFile,
    output: Annotated[Path | None, typer.Option("--out", help="The Markdown file to write; default: it is printed.")] = None,
) -> None:
    """Write a learngene's card: data, licence, command, accuracy at each depth, how to use it."""
    text = card_of(Family(open_learngene(learngene)))
    if output is None:
        out.print(text, end="", soft_wrap=True)
        return
    with atomic_file(output) as file:
        file.write(text.encode())
    err.print(printable(f"{output}: written"), soft_wrap=True)
