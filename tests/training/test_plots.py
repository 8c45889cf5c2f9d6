"""Figures: what stands in them, that they are reproducible, and what cannot be drawn."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from tests.training.test_journal import epoch_report, step_report
from tleg_core.description import Measurement
from tleg_core.errors import ConfigError
from tleg_core.interval import Z_95
from tleg_core.plots.depth_plot import plot_depths
from tleg_core.plots.figure import COLOURS
from tleg_core.plots.run_plot import plot_runs
from tleg_core.training.run_record import RunRecord

LOSSES = {step: 1.0 / step for step in range(1, 13)}
STEPS = tuple(step_report(step, LOSSES) for step in range(1, 13))
EPOCHS = tuple(epoch_report(epoch, 0.25 * epoch) for epoch in (1, 2, 3))
WHOLE = RunRecord(name="whole", steps=STEPS, epochs=EPOCHS, depth_top1={"bars": {1: 0.2, 2: 0.6, 3: 0.7}})


def words(path: Path) -> set[str]:
    """Return the texts of an SVG file."""
    root = ET.fromstring(path.read_text())  # noqa: S314 (our own file)
    return {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}


def lines(path: Path, colour: str) -> list[list[tuple[float, float]]]:
    """Return the points of each line of a colour, in the file's units, y downwards."""
    root = ET.fromstring(path.read_text())  # noqa: S314 (our own file)
    found = []
    for element in root.iter("{http://www.w3.org/2000/svg}path"):
        style = element.get("style", "")
        if "fill: none" in style and f"stroke: {colour.lower()}" in style:
            numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", element.get("d", ""))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def test_every_axis_is_named_with_its_unit(tmp_path: Path) -> None:
    """Panels, units, runs and line styles are said in words."""
    plot_runs([WHOLE, RunRecord(name="other $x_1$", epochs=EPOCHS)], tmp_path / "curves.svg")
    expected = {
        "training loss",
        "mean loss",
        "learning rate",
        "epoch",
        "top-1, %",
        "images / s",
        "depth, blocks",
        "bars",
        "whole",
    }
    expected |= {"other $x_1$", "held-out images", "held-out, other depths", "training images, augmented"}
    assert expected <= words(tmp_path / "curves.svg")


def test_the_accuracy_curve_has_the_runs_points(tmp_path: Path) -> None:
    """Three epochs at 25, 50 and 75 %: evenly spaced along both axes; the further depth and the training images below it."""
    plot_runs([RunRecord(name="only", epochs=EPOCHS)], tmp_path / "curves.svg")
    loss, half, top1, train, *_ = [points for points in lines(tmp_path / "curves.svg", COLOURS[0]) if len(points) == 3]
    (x0, y0), (x1, y1), (x2, y2) = top1 if top1[0][1] < half[0][1] else half
    assert (x1 - x0, y0 - y1) == pytest.approx((x2 - x1, y1 - y2), rel=1e-3)
    assert x1 > x0
    assert y0 > y1
    assert loss[0][1] < loss[1][1] < loss[2][1]  # it falls
    assert len(train) == 3


def test_a_run_in_its_first_epoch_is_drawn_by_update(tmp_path: Path) -> None:
    """There is no epoch to count in."""
    plot_runs([RunRecord(name="young", steps=STEPS[:3])], tmp_path / "curves.svg")
    assert "update" in words(tmp_path / "curves.svg")
    assert "epoch" not in words(tmp_path / "curves.svg")


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    """No date, no random ids; as SVG and as PNG."""
    for suffix in (".svg", ".png"):
        for name in ("a", "b"):
            plot_runs([WHOLE], tmp_path / f"{name}{suffix}")
        first, second = (tmp_path / f"{name}{suffix}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    assert "date" not in (tmp_path / "a.svg").read_text().lower()


def test_the_png_is_a_picture_of_lines_in_the_palette(tmp_path: Path) -> None:
    """Large enough to read, and each run has its colour."""
    plot_runs([WHOLE, RunRecord(name="other", epochs=EPOCHS[:2])], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 600
    for colour in COLOURS[:2]:
        rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (pixels == rgb).all(axis=2).sum() > 100


def test_accuracy_by_depth_has_its_interval(tmp_path: Path) -> None:
    """At half, a bar is as long as 1 / sqrt(n + z^2); none and all right can be drawn too."""
    few = [Measurement(depth=2, data_set="few", top1=0.5, images=30)]
    many = [Measurement(depth=depth, data_set="many", top1=top1, images=3000) for depth, top1 in ((1, 0.0), (2, 0.5), (3, 1.0))]
    plot_depths({"few": few, "many": many}, tmp_path / "depths.svg", title="example")
    assert {"example", "few", "many", "depth, blocks", "top-1, %"} <= words(tmp_path / "depths.svg")
    bars = [[line for line in lines(tmp_path / "depths.svg", colour) if len(line) == 2] for colour in COLOURS[:2]]
    (x, low), (_, high) = max(bars[0], key=lambda line: abs(line[0][1] - line[1][1]))
    (other,) = [abs(a[1] - b[1]) for a, b in bars[1] if a[0] == b[0] == x]
    assert abs(low - high) / other == pytest.approx(math.sqrt((3000 + Z_95**2) / (30 + Z_95**2)), rel=1e-3)


def test_what_cannot_be_drawn_is_one_clear_error(tmp_path: Path) -> None:
    """No format, no run, nothing noted; no file appears."""
    with pytest.raises(ConfigError, match=r"out: must end in \.png or \.svg, not 'curves\.pdf'"):
        plot_runs([WHOLE], tmp_path / "curves.pdf")
    for runs in ([], [RunRecord(name="new")]):
        with pytest.raises(ConfigError, match="no curve"):
            plot_runs(runs, tmp_path / "curves.png")
    with pytest.raises(ConfigError, match="no accuracy was measured"):
        plot_depths({"a": []}, tmp_path / "depths.png")
    assert not list(tmp_path.iterdir())
