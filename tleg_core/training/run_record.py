"""The record of a run, as its journal tells it: losses, accuracies and rates by step, and accuracy by depth.

The only reader of journals. A run that was killed and resumed took some steps twice, and its journal has both. The last word
counts: where a line goes back, what was said of that step and later ones is forgotten. A line that was cut short by a kill is
passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tleg_core.errors import ConfigError
from tleg_core.training.journal import JOURNAL_NAME
from tleg_core.training.observer import EpochReport, StepReport, recent_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known of a run.

    Args:
        name: That of its folder.
        steps: How it stood at some updates, in order.
        epochs: What each epoch ended with, in order.
        depth_top1: The result's accuracy on held-out images by data set and depth, as a fraction.
    """

    name: str
    steps: tuple[StepReport, ...] = ()
    epochs: tuple[EpochReport, ...] = ()
    depth_top1: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int | None:
        """Updates of an epoch; None before the first has ended."""
        return self.epochs[-1].step // self.epochs[-1].epoch if self.epochs else None

    def losses(self) -> list[tuple[int, float]]:
        """Return the steps that losses were noted at, each with the mean loss since the step before."""
        befores = (None, *self.steps)
        return [(now.step, recent_loss(before, now)) for before, now in zip(befores, self.steps, strict=False)]


def journal_path(place: Path) -> Path:
    """Return the journal of a run, given the file itself, the run's folder, or the file that the run wrote.

    Raises:
        ConfigError: There is none.
    """
    candidates = [place / JOURNAL_NAME] if place.is_dir() else [place.with_suffix(".run") / JOURNAL_NAME]
    if place.suffix == ".jsonl":
        candidates = [place]
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError("run", f"there is no journal of a run at {place}")


def read_run(place: Path) -> RunRecord:
    """Read the journal of a run; `place` is as `journal_path` takes it.

    Raises:
        ConfigError: There is no journal, or nothing in it is one.
    """
    path = journal_path(place)
    epochs: list[EpochReport] = []
    steps: list[StepReport] = []
    measured: dict[str, dict[int, float]] = {}
    known = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = _object(text)
        try:
            match line.get("event"):
                case "step":
                    point = _step_report(line)
                    _forget(steps, epochs, point.step)
                    steps.append(point)
                case "epoch":
                    ended = _epoch_report(line)
                    _forget([], epochs, ended.step)
                    del steps[sum(point.step <= ended.step for point in steps) :]
                    epochs.append(ended)
                case "measurement" if "path" not in line:
                    data_set = str(line.get("data_set", "test images"))  # journals of tleg 0.1 do not say
                    measured.setdefault(data_set, {})[_whole(line["depth"])] = _number(line["top1"])
                case "start":
                    measured.clear()
                case None:
                    continue
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # of another version, or not ours
        known += 1
    if not known:
        raise ConfigError("run", f"{path} is no journal of a run")
    return RunRecord(
        name=path.parent.name.removesuffix(".run") or path.stem,
        steps=tuple(steps),
        epochs=tuple(epochs),
        depth_top1={name: dict(sorted(by_depth.items())) for name, by_depth in sorted(measured.items())},
    )


def _object(text: str) -> Mapping[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def _forget(steps: list[StepReport], epochs: list[EpochReport], step: int) -> None:
    """Drop what was said of `step` and later ones."""
    while steps and steps[-1].step >= step:
        steps.pop()
    while epochs and epochs[-1].step >= step:
        epochs.pop()


def _step_report(line: Mapping[str, Any]) -> StepReport:
    return StepReport(
        epoch=_whole(line["epoch"]),
        epoch_steps=_whole(line["epoch_steps"]),
        step=_whole(line["step"]),
        steps=_whole(line["steps"]),
        train_loss=_number(line["loss"]),
        lr=_number(line["next_lr"]),
        images_per_s=_maybe(line["images_per_s"]),
    )


def _epoch_report(line: Mapping[str, Any]) -> EpochReport:
    epoch = _whole(line["epoch"])
    if epoch < 1:
        raise ValueError(epoch)
    metrics = line["metrics"] if "metrics" in line else {"top1": line["test_top1"]}  # the latter in journals of tleg 0.1
    return EpochReport(
        epoch=epoch,
        epochs=_whole(line.get("epochs", epoch)),
        step=_whole(line["step"]),
        train_loss=_number(line["loss"]),
        train_top1=_number(line["train_top1"]),
        lr=_number(line["next_lr"]),
        images_per_s=_maybe(line["images_per_s"]),
        metrics={str(name): _number(value) for name, value in metrics.items() if value is not None},
    )


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(value)
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(value)
    return float(value)


def _maybe(value: Any) -> float | None:
    return None if value is None else _number(value)
