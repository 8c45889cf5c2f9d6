"""What the supervisor is told of a run: its steps, its epochs, and messages for people."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from service.worker.protocol import EpochDone, Note, Stepped, Weights
from tleg_core.training.observer import EpochReport, StepReport

Report = Callable[[BaseModel], None]


class Reporter:
    """Tells the supervisor how a run goes."""

    def __init__(self, job: str, report: Report) -> None:
        self._job, self._report = job, report
        self.keep_weights: Callable[[int], Weights | None] = lambda _epoch: None
        self.last_metrics: dict[str, float] = {}
        self.last_epoch = 0

    def stepped(self, report: StepReport) -> None:
        """Report progress."""
        self._report(
            Stepped(
                job=self._job,
                epoch=report.epoch,
                step=report.step,
                steps=report.steps,
                images_per_s=report.images_per_s,
                metrics={"train_loss": report.train_loss, "lr": report.lr},
            )
        )

    def epoch_done(self, report: EpochReport) -> None:
        """Report an epoch's end, with the weights where they are kept."""
        self.last_metrics = {"train_loss": report.train_loss, **report.metrics}
        self.last_epoch = report.epoch
        weights = self.keep_weights(report.epoch)
        self._report(EpochDone(job=self._job, epoch=report.epoch, step=report.step, metrics=self.last_metrics, weights=weights))

    def note(self, message: str) -> None:
        """Report a message."""
        self._report(Note(job=self._job, message=message))
