"""The plots of a comparison, as PNG and SVG; matplotlib is loaded when one is drawn.

Colours are Okabe and Ito's, which the colour-blind can tell apart; each row has a marker of its own besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tleg_core.comparison.claims import lengths_of
from tleg_core.comparison.config import ComparisonConfig, DataSource, Method
from tleg_core.comparison.plan import Plan, depths_of_row
from tleg_core.comparison.scores import Key, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#999999", "#E69F00", "#56B4E9", "#CC79A7", "#000000", "#D55E00", "#0072B2", "#009E73", "#8C6D31", "#7F3C8D")
_MARKERS = ("x", "^", "v", "<", "*", "s", "o", "D", "P", "h")
_ROOM_POINTS = 6.0  # above and below the means
_WIDTH_INCHES, _HEIGHT_INCHES, _DPI = 4.2, 3.6, 150


def write_plots(config: ComparisonConfig, plan: Plan, scores: Scores, folder: Path) -> list[Path]:
    """Draw what there is and return the files: accuracy by depth, learning curves, and accuracy by cost."""
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    for source in (config.data, *config.transfer):
        written += _save(_by_depth(config, scores, source), folder / f"accuracy-{source.name}")
        written += _save(_curves(config, scores, source), folder / f"curves-{source.name}")
    return written + _save(_cost(config, plan, scores), folder / "cost")


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes a second, and only plots need it)

    figure = Figure(figsize=(_WIDTH_INCHES * panels + 1.8, _HEIGHT_INCHES), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test top-1 (%)")
    return figure, list(axes)


def _save(figure: Figure, stem: Path) -> list[Path]:
    axis = figure.axes[0]
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", fontsize="small", frameon=False)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    figure.savefig(paths[0], dpi=_DPI)
    figure.savefig(paths[1], metadata={"Date": None})  # the same numbers give the same file
    return paths


def _style(config: ComparisonConfig, name: str) -> dict[str, Any]:
    index = [row.name for row in config.rows].index(name)
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.3,
    }


def _by_depth(config: ComparisonConfig, scores: Scores, source: DataSource) -> Figure:
    """Draw accuracy by depth, a panel for each length, intervals as bars."""
    lengths = ((0,) if source is config.data else ()) + lengths_of(config, source)
    figure, axes = _figure(len(lengths))
    shown: list[float] = []
    for axis, epochs in zip(axes, lengths, strict=True):
        unit = "epoch" if epochs == 1 else "epochs"
        axis.set_title(f"{source.name}, {f'after {epochs} {unit}' if epochs else 'no fine-tuning'}", fontsize="medium")
        axis.set_xlabel("depth (layers)")
        axis.set_xticks(config.depths)
        for index, row in enumerate(config.rows):
            shift = 0.06 * (index - (len(config.rows) - 1) / 2)  # bars beside each other
            found = [
                (depth + shift, value.mean, value.half if math.isfinite(value.half) else 0.0)
                for depth in depths_of_row(row, config.depths)
                if (value := scores.estimate(Key(row=row.name, depth=depth, data=source.name, epochs=epochs))) is not None
            ]
            if found or axis is axes[0]:
                xs, means, halves = zip(*found, strict=True) if found else ((), (), ())
                axis.errorbar(xs, means, yerr=halves, label=row.name, capsize=2, elinewidth=0.8, **_style(config, row.name))
                shown += means
    _frame(axes, shown)
    return figure


def _curves(config: ComparisonConfig, scores: Scores, source: DataSource) -> Figure:
    """Draw the longest fine-tunes epoch by epoch: the smallest, the middle and the largest depth."""
    depths = source.depths or config.depths
    shown = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
    longest = lengths_of(config, source)[-1]
    figure, axes = _figure(len(shown))
    drawn: list[float] = []
    for axis, depth in zip(axes, shown, strict=True):
        axis.set_title(f"{source.name}, depth {depth}", fontsize="medium")
        axis.set_xlabel("epochs of fine-tuning")
        for row in config.rows:
            curve = scores.curve(Key(row=row.name, depth=depth, data=source.name, epochs=longest))
            if curve or axis is axes[0]:
                epochs = range(1, len(curve) + 1)
                halves = [value.half if math.isfinite(value.half) else 0.0 for value in curve]
                means = [value.mean for value in curve]
                axis.errorbar(epochs, means, yerr=halves, label=row.name, capsize=2, elinewidth=0.6, **_style(config, row.name))
                drawn += means
    _frame(axes, drawn)
    return figure


def _cost(config: ComparisonConfig, plan: Plan, scores: Scores) -> Figure:
    """Draw, for the whole family, accuracy before and after fine-tuning by parameters stored and by FLOPs."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter  # noqa: PLC0415 (as above)

    figure, axes = _figure(2)
    source, longest = config.data, lengths_of(config, config.data)[-1]
    for row in config.rows:
        depths = [depth for depth in depths_of_row(row, config.depths) if source.depths is None or depth in source.depths]
        before = scores.pretraining_flops(row.name, config.depths, config.seeds[0])
        points = []
        for epochs in (0, longest):
            keys = [Key(row=row.name, depth=depth, data=source.name, epochs=epochs) for depth in depths]
            values = [value.mean for key in keys if (value := scores.estimate(key)) is not None]
            if values and len(values) == len(keys):
                spent = before + sum(scores.fine_tuning_flops(key) for key in keys)
                points.append((spent, sum(values) / len(values)))
        style = _style(config, row.name)
        flops = [max(spent, 1) for spent, _ in points if spent]
        axes[0].plot(flops, [top1 for spent, top1 in points if spent], label=row.name, **style)
        if points and row.method not in (Method.SCRATCH, Method.MIMETIC):
            axes[1].plot([plan.stored_params[row.name]] * len(points), [top1 for _, top1 in points], **style)
    axes[0].set_xlabel("FLOPs, training and fine-tuning of all depths")
    axes[1].set_xlabel("parameters stored for all depths")
    for axis in axes:
        axis.set_title(f"{source.name}: mean over depths, 0 and {longest} epochs", fontsize="medium")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_formatter(NullFormatter())
    return figure


def _frame(axes: Sequence[Axes], means: Sequence[float]) -> None:
    """Show the means with some room; of three seeds an interval may be wider than all of them, and is cut then."""
    if means:
        axes[0].set_ylim(max(0.0, min(means) - _ROOM_POINTS), min(100.0, max(means) + _ROOM_POINTS))
