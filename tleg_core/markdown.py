"""What files, servers and users said, as Markdown that it cannot break out of; the licences' names on the Hub."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_LICENCE_TAGS = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC0-1.0": "cc0-1.0"}
_MARKDOWN = re.compile(r"([\[\]!*_~#\\])")
_SHOWN_NAMES = 100


def licence_line(licence: str) -> str:
    """Return the line of a card's head with the Hub's name of a licence; the Hub takes a head without, where none is stated."""
    return f"license: {_LICENCE_TAGS.get(licence, 'other')}\n" if licence else ""


def stated_licence(licence: str) -> str:
    """Return a licence in words: a learngene's may be empty."""
    return licence or "not stated"


def table_cell(text: str) -> str:
    """Return text that cannot break out of a table's cell, nor be taken for HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("`", "'") or "-"


def plain(text: str) -> str:
    """Return text that is taken neither for Markdown nor for HTML, in a table or outside one."""
    return _MARKDOWN.sub(r"\\\1", table_cell(text).replace("\\|", "|")).replace("|", "&#124;")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code_block(text: str, language: str = "") -> str:
    """Return a fenced block, its fence longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def listed(names: Sequence[str]) -> str:
    """Return the first hundred names, and how many there are beside them."""
    shown = ", ".join(plain(name) for name in names[:_SHOWN_NAMES])
    return shown if len(names) <= _SHOWN_NAMES else f"{shown}, and {len(names) - _SHOWN_NAMES:,} more"
