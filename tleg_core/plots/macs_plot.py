"""Accuracy against multiply-accumulates: a point for each member, and a line through those that no other one beats in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tleg_core.description import Measurement
from tleg_core.errors import ConfigError
from tleg_core.plots.figure import COLOURS, MARKERS, drawing, label


def plot_macs(
    lines: Mapping[str, Sequence[Measurement]], path: Path, *, macs_of: Callable[[Measurement], int], title: str = ""
) -> None:
    """Draw top-1 accuracy against multiply-accumulates.

    Args:
        lines: Measurements by what the legend calls them.
        path: Where to; the suffix says as what.
        macs_of: What the member of a measurement costs for one image.
        title: What stands above.

    Raises:
        ConfigError: There is nothing to draw, or the suffix is of no format.
        OSError: The file cannot be written.
    """
    if not any(lines.values()):
        raise ConfigError("plot", "has nothing to draw: no accuracy was measured")
    with drawing(path, 6.4, 4.2) as figure:
        axes = figure.subplots()
        axes.set(title=label(title), xlabel="multiply-accumulates for one image, millions", ylabel="top-1, %")
        for index, (name, measured) in enumerate(lines.items()):
            if not measured:
                continue
            points = [(macs_of(entry) / 1e6, 100 * entry.top1) for entry in measured]
            colour = COLOURS[index % len(COLOURS)]
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), linestyle="", marker=marker, color=colour, alpha=0.4)
            axes.plot(*zip(*best(points), strict=True), marker=marker, color=colour, label=label(name))
        axes.legend(loc="best")


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, accuracy) that no other one beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front
