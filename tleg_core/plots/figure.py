"""The look of every figure, and its file: colours that colour-blind people tell apart, the same bytes for the same numbers.

No pyplot: a figure belongs to who made it, no window is ever opened, and matplotlib draws with Agg or as SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tleg_core.atomic_file import atomic_file
from tleg_core.errors import ConfigError

COLOURS: Sequence[str] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""M. Okabe and K. Ito, "Color Universal Design" (2008), without the yellow, which is pale on white."""

MARKERS: Sequence[str] = ("o", "s", "^", "D", "v", "P", "X")
"""The second sign by which lines are told apart."""

SUFFIXES = (".png", ".svg")

_MAX_LABEL = 48  # characters


def check_suffix(path: Path, option: str = "out") -> None:
    """Raise `ConfigError` unless figures can be written to a file of this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(option, f"must end in {' or '.join(SUFFIXES)}, not {path.name!r}")


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure, its sides in inches, that is written to `path` at the end of the block; the suffix says as what.

    Raises:
        ConfigError: The suffix is of no format.
        OSError: The file cannot be written.
    """
    check_suffix(path)
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None, "Creator": "tleg"} if kind == "svg" else {"Software": "tleg"}
    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            figure.savefig(file, format=kind, metadata=metadata)


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "font.size": 9,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "lines.linewidth": 1.5,
            "lines.markersize": 4,
            "savefig.dpi": 144,
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "tleg",  # ids by content, not by chance
        }
    )


def label(text: str) -> str:
    """Return a name that matplotlib takes neither for mathematics nor for one to leave out, short enough for a legend."""
    short = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in short).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain
