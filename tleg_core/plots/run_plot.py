"""The curves of training runs, several of them over each other: loss, accuracy, learning rate, images a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tleg_core.errors import ConfigError
from tleg_core.plots.figure import COLOURS, MARKERS, drawing, label
from tleg_core.training.observer import EpochReport, StepReport
from tleg_core.training.run_record import RunRecord

_Style: TypeAlias = Literal["-", "--", ":", "-."]
_STYLES: Sequence[_Style] = ("-", "--", ":", "-.")
_FEW = 25  # epochs up to which each has a marker


def plot_runs(runs: Sequence[RunRecord], path: Path) -> None:
    """Draw the curves of some runs by epoch, or by update where one of them has not ended its first epoch.

    Raises:
        ConfigError: There is no run, or nothing was noted of any, or the suffix is of no format.
        OSError: The file cannot be written.
    """
    if not any(run.epochs or run.steps for run in runs):
        raise ConfigError("run", "has noted no step and no epoch yet: there is no curve")
    in_epochs = all(run.steps_per_epoch for run in runs if run.epochs or run.steps)
    by_depth = any(run.depth_top1 for run in runs)
    with drawing(path, 12.5 if by_depth else 9.0, 6.2) as figure:
        grid = figure.add_gridspec(2, 3 if by_depth else 2)
        loss = figure.add_subplot(grid[0, 0])
        top1, rate, speed = (figure.add_subplot(grid[cell], sharex=loss) for cell in ((0, 1), (1, 0), (1, 1)))
        for axes, title, unit in (
            (loss, "training loss", "mean loss"),
            (top1, "accuracy while training", "top-1, %"),
            (rate, "learning rate", "learning rate"),
            (speed, "speed", "images / s"),
        ):
            axes.set(title=title, ylabel=unit, xlabel="epoch" if in_epochs else "update")
        loss.xaxis.set_major_locator(MaxNLocator(integer=True))
        for index, run in enumerate(runs):
            _draw_run(run, index, (run.steps_per_epoch or 1) if in_epochs else 1, (loss, top1, rate, speed))
        for axes in (rate, speed):
            axes.set_ylim(bottom=0)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
        _explain(top1, runs)
        if by_depth:
            _draw_depths(figure.add_subplot(grid[0, 2]), runs)
        names = [Line2D([], [], color=_colour(index), marker=_marker(index)) for index in range(len(runs))]
        figure.legend(names, [label(run.name) for run in runs], loc="outside lower center", ncols=min(3, len(runs)))


def _draw_run(run: RunRecord, index: int, unit: int, panels: tuple[Axes, Axes, Axes, Axes]) -> None:
    """Draw one run; `unit` is the number of updates that the abscissa counts as one."""
    loss, top1, rate, speed = panels
    colour, marker = _colour(index), _marker(index) if len(run.epochs) <= _FEW else ""
    between = [(step / unit, value) for step, value in run.losses()]
    ends = [epoch.step / unit for epoch in run.epochs]
    if len(between) > 1:
        loss.plot(*zip(*between, strict=True), color=colour, alpha=0.45, linewidth=0.8)
    loss.plot(ends, [epoch.train_loss for epoch in run.epochs], color=colour, marker=marker)
    for name, style in _top1_names(run.epochs).items():
        points = [(epoch.step / unit, 100 * epoch.metrics[name]) for epoch in run.epochs if name in epoch.metrics]
        top1.plot(*zip(*points, strict=True), color=colour, marker=marker if name == "top1" else "", linestyle=style)
    top1.plot(ends, [100 * epoch.train_top1 for epoch in run.epochs], color=colour, linestyle=":")
    both: list[StepReport | EpochReport] = [*run.steps, *run.epochs]
    noted = sorted(both, key=lambda report: report.step)
    rate.plot([report.step / unit for report in noted], [report.lr for report in noted], color=colour)
    rates = [(report.step / unit, report.images_per_s) for report in noted if report.images_per_s is not None]
    if rates:
        speed.plot(*zip(*rates, strict=True), color=colour, marker=marker if len(rates) <= _FEW else "")


def _draw_depths(axes: Axes, runs: Sequence[RunRecord]) -> None:
    """Draw what each run's result was measured to be; where there are several data sets, the line style tells them apart."""
    data_sets = sorted({data_set for run in runs for data_set in run.depth_top1})
    styles = {data_set: _STYLES[index % len(_STYLES)] for index, data_set in enumerate(data_sets)}
    axes.set(title="result, no fine-tuning", ylabel="top-1, %", xlabel="depth, blocks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for index, run in enumerate(runs):
        for data_set, measured in run.depth_top1.items():
            depths, shares = list(measured), [100 * top1 for top1 in measured.values()]
            axes.plot(depths, shares, color=_colour(index), marker=_marker(index), linestyle=styles[data_set])
    lines = [Line2D([], [], color="0.3", linestyle=styles[data_set]) for data_set in data_sets]
    axes.legend(lines, [label(data_set) for data_set in data_sets], loc="lower right", fontsize="small")


def _top1_names(epochs: Sequence[EpochReport]) -> dict[str, _Style]:
    """Return the accuracies that were measured, each with its line style: solid for `top1`, dashed for further depths."""
    names = {name for epoch in epochs for name in epoch.metrics if name.startswith("top1")}
    return {name: "-" if name == "top1" else "--" for name in sorted(names)}


def _explain(top1: Axes, runs: Sequence[RunRecord]) -> None:
    """Say what the line styles are."""
    words: dict[_Style, str] = {"-": "held-out images", "--": "held-out, other depths", ":": "training images, augmented"}
    styles = {style for run in runs for style in _top1_names(run.epochs).values()} | {":" for run in runs if run.epochs}
    lines = [Line2D([], [], color="0.3", linestyle=style) for style in words if style in styles]
    if lines:
        top1.legend(lines, [words[style] for style in words if style in styles], loc="lower right", fontsize="small")


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]
