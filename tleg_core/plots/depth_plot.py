"""Accuracy by depth: one line for each set of measurements, with the interval that so many images allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from tleg_core.description import Measurement
from tleg_core.errors import ConfigError
from tleg_core.interval import wilson
from tleg_core.plots.figure import COLOURS, MARKERS, drawing, label


def plot_depths(lines: Mapping[str, Sequence[Measurement]], path: Path, *, title: str = "") -> None:
    """Draw top-1 accuracy by depth, with 95 % intervals (Wilson's, of the draw of the images).

    Args:
        lines: Measurements by what the legend calls them, each of different depths.
        path: Where to; the suffix says as what.
        title: What stands above.

    Raises:
        ConfigError: There is nothing to draw, or the suffix is of no format.
        OSError: The file cannot be written.
    """
    if not any(lines.values()):
        raise ConfigError("plot", "has nothing to draw: no accuracy was measured")
    with drawing(path, 6.4, 4.2) as figure:
        axes = figure.subplots()
        axes.set(title=label(title), xlabel="depth, blocks", ylabel="top-1, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for index, (name, measured) in enumerate(lines.items()):
            entries = sorted(measured, key=lambda entry: entry.depth)
            intervals = [wilson(entry.top1, entry.images) for entry in entries]
            axes.errorbar(
                [entry.depth for entry in entries],
                [100 * entry.top1 for entry in entries],
                yerr=[
                    [100 * (entry.top1 - low) for entry, (low, _) in zip(entries, intervals, strict=True)],
                    [100 * (high - entry.top1) for entry, (_, high) in zip(entries, intervals, strict=True)],
                ],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                capsize=2,
                label=label(name),
            )
        axes.legend(loc="best")
