"""The plots of a comparison: accuracy by depth, learning curves, and accuracy by cost, each as PNG and SVG.

Fifteen rows are told apart by a colour and a marker each; colour-blind people can tell the first seven colours apart. Bars are
95 % intervals over seeds. The file and the look are `plots.figure`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from tleg_core.amount import amount
from tleg_core.comparison.claims import lengths_of
from tleg_core.comparison.config import ComparisonConfig, DataSource
from tleg_core.comparison.families import front, macs_of, params_of, points_of
from tleg_core.comparison.plan import Plan, Stage, depths_of_row
from tleg_core.comparison.rows import Method
from tleg_core.comparison.scores import Key, Scores
from tleg_core.comparison.statistics import Estimate
from tleg_core.plots.figure import COLOURS, SUFFIXES, drawing

_COLOURS = (*COLOURS, "#999999", "#8C6D31", "#7F3C8D", "#66A61E", "#7FA3C7", "#8B1A1A", "#F28E8E", "#3B3B6D")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d", "8", "H")
_ROOM_POINTS = 6.0  # above and below the means
_PANEL_INCHES, _LEGEND_INCHES, _HEIGHT_INCHES = 3.6, 1.6, 3.4


def write_plots(config: ComparisonConfig, plan: Plan, scores: Scores, folder: Path) -> None:
    """Draw what there is; raises OSError where a file cannot be written."""
    for drawn in _drawn(config, plan, scores):
        drawn.write(folder)


def plot_names(config: ComparisonConfig) -> list[str]:
    """Return the names of the plots, without suffix, in the report's order."""
    sources = (config.data, *config.transfer)
    return ["members"] + [f"{kind}-{source.name}" for kind in ("accuracy", "curves") for source in sources] + ["cost"]


class _Plot:
    """A row of panels that share their axis of accuracies.

    Args:
        name: The file's, without suffix.
        panels: What draws each panel, and returns the means in it.
        config: The rows, for the legend.
    """

    def __init__(self, name: str, panels: Sequence[Callable[[Axes], list[float]]], config: ComparisonConfig) -> None:
        self._name, self._panels, self._config = name, panels, config

    def write(self, folder: Path) -> None:
        """Draw it once for each format."""
        for suffix in SUFFIXES:
            with drawing(
                folder / f"{self._name}{suffix}", _PANEL_INCHES * len(self._panels) + _LEGEND_INCHES, _HEIGHT_INCHES
            ) as figure:
                self._draw(figure)

    def _draw(self, figure: Figure) -> None:
        axes = figure.subplots(1, len(self._panels), sharey=True, squeeze=False)[0]
        means = [mean for axis, panel in zip(axes, self._panels, strict=True) for mean in panel(axis)]
        axes[0].set_ylabel("test top-1 (%)")
        if means:  # of three seeds an interval may be wider than all means together; it is cut then
            axes[0].set_ylim(max(0.0, min(means) - _ROOM_POINTS), min(100.0, max(means) + _ROOM_POINTS))
        handles = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
        names = [row.name for row in self._config.rows if row.name in handles]
        names += [name for name in handles if name not in names]
        if names:
            figure.legend([handles[name] for name in names], names, loc="outside right center")


def _drawn(config: ComparisonConfig, plan: Plan, scores: Scores) -> list[_Plot]:
    members = [_member_panel(config, plan, scores, by_params=by_params) for by_params in (False, True)]
    plots = {"members": _Plot("members", members, config)}
    for source in (config.data, *config.transfer):
        lengths = ((0,) if source is config.data else ()) + lengths_of(config, source)
        by_depth = [_depth_panel(config, scores, source, epochs) for epochs in lengths]
        plots[f"accuracy-{source.name}"] = _Plot(f"accuracy-{source.name}", by_depth, config)
        depths = source.depths or config.depths
        shown = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
        curves = [_curve_panel(config, scores, source, depth) for depth in shown]
        plots[f"curves-{source.name}"] = _Plot(f"curves-{source.name}", curves, config)
    panels = [_cost_panel(config, plan, scores, by_params=by_params) for by_params in (False, True)]
    plots["cost"] = _Plot("cost", panels, config)
    return [plots[name] for name in plot_names(config)]


def _style(config: ComparisonConfig, name: str) -> dict[str, Any]:
    index = [row.name for row in config.rows].index(name)
    colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
    return {"color": colour, "marker": marker, "label": name, "linestyle": "-" if index < len(_COLOURS) else "--"}


def _bars(axis: Axes, places: Sequence[float], values: Sequence[Estimate], style: dict[str, Any]) -> list[float]:
    """Draw means with their intervals, where there are several seeds, and return the means."""
    means = [value.mean for value in values]
    halves = [value.half if math.isfinite(value.half) else 0.0 for value in values]
    if means:
        axis.errorbar(places, means, yerr=halves, capsize=2, elinewidth=0.7, **style)
    return means


def _depth_panel(config: ComparisonConfig, scores: Scores, source: DataSource, epochs: int) -> Callable[[Axes], list[float]]:
    """Return what draws accuracy by depth after so many epochs."""

    def draw(axis: Axes) -> list[float]:
        when = f"after {amount(epochs, 'epoch')}" if epochs else "no fine-tuning"
        axis.set(title=f"{source.name}, {when}", xlabel="depth, blocks")
        axis.set_xticks(config.depths)
        shown: list[float] = []
        for index, row in enumerate(config.rows):
            shift = 0.06 * (index - (len(config.rows) - 1) / 2)  # bars stand beside each other
            keys = [Key(row=row.name, depth=depth, data=source.name, epochs=epochs) for depth in config.depths]
            found = [(key.depth + shift, value) for key in keys if (value := scores.estimate(key)) is not None]
            style = _style(config, row.name)
            shown += _bars(axis, [place for place, _ in found], [value for _, value in found], style)
        return shown

    return draw


def _curve_panel(config: ComparisonConfig, scores: Scores, source: DataSource, depth: int) -> Callable[[Axes], list[float]]:
    """Return what draws the longest fine-tunes at one depth, epoch by epoch."""

    def draw(axis: Axes) -> list[float]:
        axis.set(title=f"{source.name}, depth {depth}", xlabel="epochs of fine-tuning")
        shown: list[float] = []
        for row in config.rows:
            key = Key(row=row.name, depth=depth, data=source.name, epochs=lengths_of(config, source)[-1])
            curve = scores.curve(key)
            shown += _bars(axis, range(1, len(curve) + 1), curve, _style(config, row.name))
        return shown

    return draw


def _member_panel(config: ComparisonConfig, plan: Plan, scores: Scores, *, by_params: bool) -> Callable[[Axes], list[float]]:
    """Return what draws every member of every family by its own cost, before any fine-tuning, and the front over all of them.

    Stitches that nothing has trained yet are hollow, and on no front.
    """
    points, cost_of = points_of(plan, scores), params_of if by_params else macs_of

    def draw(axis: Axes) -> list[float]:
        what = "parameters" if by_params else "MACs of an image"
        axis.set(title=f"{config.data.name}, no fine-tuning", xlabel=what, xscale="log")
        _log_ticks(axis)
        for row in config.rows:
            for stage in Stage:
                own = [point for point in points if (point.member.row, point.member.stage) == (row.name, stage)]
                own.sort(key=lambda point: cost_of(point.member))
                style = _style(config, row.name) | {"linestyle": "none", "markersize": 4}
                if stage is Stage.STITCHED:
                    style |= {"markerfacecolor": "none", "alpha": 0.6, "label": None}
                if own:
                    axis.plot([cost_of(point.member) for point in own], [point.top1.mean for point in own], **style)
        if any(point.member.stage is Stage.STITCHED for point in points):
            hollow: dict[str, Any] = {
                "color": "#666666",
                "marker": "o",
                "markerfacecolor": "none",
                "linestyle": "none",
                "markersize": 4,
            }
            axis.plot([], [], **hollow, label="hollow: not\ntrained together")
        best = front(points, cost_of)
        if best:
            places = [cost_of(point.member) for point in best]
            axis.step(
                places, [point.top1.mean for point in best], where="post", color="#666666", lw=0.8, label="front", zorder=0
            )
        return [point.top1.mean for point in points]

    return draw


def _log_ticks(axis: Axes) -> None:
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _cost_panel(config: ComparisonConfig, plan: Plan, scores: Scores, *, by_params: bool) -> Callable[[Axes], list[float]]:
    """Return what draws mean accuracy over the depths, before and after fine-tuning, by what all of them cost together."""
    source, longest = config.data, lengths_of(config, config.data)[-1]

    def draw(axis: Axes) -> list[float]:
        what = "parameters stored" if by_params else "FLOPs of all training"
        axis.set(title=f"{source.name}, 0 and {amount(longest, 'epoch')}", xlabel=f"{what}, all depths together", xscale="log")
        _log_ticks(axis)
        shown: list[float] = []
        for row in config.rows:
            depths = [depth for depth in depths_of_row(row, config.depths) if source.depths is None or depth in source.depths]
            seed = config.seeds[0]
            before = scores.pretraining_flops(row.name, config.depths, seed) + plan.ancestry_flops(row.name, seed)
            places, means = [], []
            for epochs in (0, longest):
                keys = [Key(row=row.name, depth=depth, data=source.name, epochs=epochs) for depth in depths]
                values = [value.mean for key in keys if (value := scores.estimate(key)) is not None]
                spent = before + sum(scores.fine_tuning_flops(key) for key in keys)
                place = plan.stored_params[row.name] if by_params else spent
                if place and values and len(values) == len(keys):
                    places.append(place)
                    means.append(sum(values) / len(values))
            if means and not (by_params and row.method in (Method.SCRATCH, Method.MIMETIC)):
                axis.plot(places, means, **_style(config, row.name))
                shown += means
        return shown

    return draw
