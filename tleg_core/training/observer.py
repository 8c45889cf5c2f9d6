"""The observer: who is told how a run goes. `Journal` writes it down for people, the worker's engine reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """How far a run is.

    Args:
        epoch: Epochs done.
        epoch_steps: Updates that `train_loss` is the mean of: those of this epoch, or of the one that has just ended.
        step: Updates done.
        steps: Updates in all.
        train_loss: Mean of this epoch's losses so far.
        lr: The learning rate of the next update; that of the last layers where it differs between layers.
        images_per_s: Rate of the last seconds; None before it is known.
    """

    epoch: int
    epoch_steps: int
    step: int
    steps: int
    train_loss: float
    lr: float
    images_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """An epoch's end.

    Args:
        epoch: Epochs done.
        epochs: Epochs in all.
        step: Updates done.
        train_loss: Mean of the epoch's losses.
        train_top1: Share of its (augmented) images that were classified rightly.
        lr: The learning rate of the next update.
        images_per_s: Rate of the last seconds; None where it is not known.
        metrics: What was measured on held-out images; empty where nothing was.
    """

    epoch: int
    epochs: int
    step: int
    train_loss: float
    train_top1: float
    lr: float
    images_per_s: float | None
    metrics: Mapping[str, float]


def recent_loss(before: StepReport | None, now: StepReport) -> float:
    """Return the mean loss of the updates between two reports, each of which has the mean since its epoch's beginning only.

    Where they are of two epochs, or there is none before, it is the mean since the epoch's beginning.
    """
    taken = now.step - (0 if before is None else before.step)
    if before is None or taken < 1 or now.epoch_steps - before.epoch_steps != taken:
        return now.train_loss
    return (now.train_loss * now.epoch_steps - before.train_loss * before.epoch_steps) / taken


class Observer(Protocol):
    """Is told how a run goes. It must be quick: the run waits for it."""

    def stepped(self, report: StepReport) -> None:
        """Take note of progress; called about twice a second, and after the last update."""
        ...

    def epoch_done(self, report: EpochReport) -> None:
        """Take note of an epoch's end, before its checkpoint is made."""
        ...

    def note(self, message: str) -> None:
        """Take note of something that a person should know."""
        ...


class Silent:
    """An observer that does nothing: that of every process but the first."""

    def stepped(self, report: StepReport) -> None:
        """Ignore it."""

    def epoch_done(self, report: EpochReport) -> None:
        """Ignore it."""

    def note(self, message: str) -> None:
        """Ignore it."""
