"""The plot of accuracy against cost, as coordinates for an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from tleg_core.budget import Candidate
from tleg_core.frontier import frontier

_SMALLEST_SPAN = 1e-9  # of an axis; below it all points lie on one line

WIDTH, HEIGHT, MARGIN = 640, 280, 48  # px
MAX_POINTS = 1000  # beside those on the front
LETTER, LINE = 6.5, 12  # px, of a label's letter and line
COLOURS = 6  # of learngenes that can be told apart; the template has as many, and the last is all others'


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One member on the plot."""

    x: float
    y: float
    label: str  # empty where it would lie on another's
    title: str
    on_front: bool
    colour: int  # of its learngene, from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    position: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPlot:
    """Top-1 on one data set against MACs, every member a point, the Pareto front a line."""

    data_set: str
    points: tuple[Point, ...]
    learngenes: tuple[str, ...]  # by colour
    line: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    margin: int = MARGIN

    @classmethod
    def of(cls, candidates: Sequence[Candidate], data_set: str) -> Self:
        """Lay out the candidates measured on `data_set`: all on the front, and of thousands beside it some."""
        measured = [item for item in candidates if data_set in item.accuracy]
        front = set(map(id, frontier(measured, data_set=data_set)))
        every = math.ceil(len(measured) / MAX_POINTS)
        measured = [item for index, item in enumerate(measured) if index % every == 0 or id(item) in front]
        accuracies = [item.accuracy[data_set].top1 for item in measured]
        x_ticks = _ticks(0, max(item.cost.macs for item in measured))
        y_ticks = _ticks(min(accuracies), max(accuracies))

        def x(macs: float) -> float:
            return MARGIN + (WIDTH - 2 * MARGIN) * macs / (x_ticks[-1] or 1)

        def y(top1: float) -> float:
            low, high = y_ticks[0], y_ticks[-1]
            return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (top1 - low) / (high - low or 1)

        names = list(dict.fromkeys(item.learngene for item in measured))
        colours = {name: min(index, COLOURS - 1) for index, name in enumerate(names)}
        shown = names if len(names) <= COLOURS else [*names[: COLOURS - 1], f"{len(names) - COLOURS + 1} others"]
        points = [
            Point(
                x=round(x(item.cost.macs), 1),
                y=round(y(top1), 1),
                label=item.member.label,
                title=f"{item.learngene} {item.member.label}: {top1:.1%}, {item.cost.macs / 1e6:,.1f} M MACs",
                on_front=id(item) in front,
                colour=colours[item.learngene],
            )
            for item, top1 in zip(measured, accuracies, strict=True)
        ]
        line = " ".join(f"{point.x},{point.y}" for point in sorted(points, key=lambda point: point.x) if point.on_front)
        return cls(
            data_set=data_set,
            points=_readable(points),
            learngenes=tuple(shown),
            line=line,
            x_ticks=tuple(Tick(position=round(x(value), 1), text=f"{value / 1e6:,.4g}") for value in x_ticks),
            y_ticks=tuple(Tick(position=round(y(value), 1), text=f"{100 * value:.4g} %") for value in y_ticks),
        )


def _readable(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points, without the labels that would lie on another's; the front's come first, and are drawn last."""
    taken: list[tuple[float, float, float]] = []  # left, right and base line of a label
    ordered: list[Point] = []
    for point in sorted(points, key=lambda point: not point.on_front):
        half = LETTER * len(point.label) / 2
        left, right = point.x - half, point.x + half
        is_free = all(right < start or end < left or abs(point.y - y) > LINE for start, end, y in taken)
        if is_free:
            taken.append((left, right, point.y))
        ordered.append(point if is_free else replace(point, label=""))
    return tuple(reversed(ordered))


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round values that cover low..high."""
    span = high - low if high - low > _SMALLEST_SPAN else max(abs(high), 1.0)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]
