"""The learning curve of a fine-tuned model: its job's held-out numbers, epoch by epoch, up to the model's own.

The job may go on, or repeat epochs after a worker's death; the curve of a model does not change with that, for the model's
card, and so its commit, must not: of each epoch before the model's own the first event counts, and the last point is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.domain.errors import JobNotFoundError
from service.domain.model import FineTuning, Model
from service.storage.job_store import JobStore

_EVENTS_AT_ONCE = 1000
_KEPT_CURVES = 256
_MAX_POINTS = 40  # of a card; a longer curve is thinned evenly


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What was measured after an epoch: `train_loss`, `loss`, `top1`, `top5`, as far as there are."""

    epoch: int
    metrics: Mapping[str, float]


class LearningCurves:
    """The curves of fine-tuned models; one that was read is kept, for it never changes."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._read: dict[str, tuple[CurvePoint, ...]] = {}

    async def of(self, model: Model) -> tuple[CurvePoint, ...]:
        """Return a model's curve, thinned to what a page can show; none where there is no job.

        Raises:
            StoreUnavailableError: It was not read before, and Redis does not answer.
        """
        if model.fine_tuning is None:
            return ()
        curve = self._read.get(model.id)
        if curve is None:
            curve = _thinned(await self._points(model.fine_tuning))
            if len(self._read) >= _KEPT_CURVES:
                del self._read[next(iter(self._read))]
            self._read[model.id] = curve
        return curve

    async def _points(self, tuning: FineTuning) -> list[CurvePoint]:
        """Return every point, in order."""
        points: dict[int, CurvePoint] = {}
        after = 0
        try:
            while events := await self._jobs.events(tuning.job, after=after, limit=_EVENTS_AT_ONCE):
                after = events[-1].seq
                for event in events:
                    epoch, metrics = event.facts.get("epoch"), event.facts.get("metrics")
                    if event.kind == "epoch" and isinstance(epoch, int) and epoch < tuning.epoch and metrics:
                        points.setdefault(epoch, CurvePoint(epoch=epoch, metrics=metrics))
                if len(points) == tuning.epoch - 1:
                    break
        except JobNotFoundError:
            return []
        points[tuning.epoch] = CurvePoint(epoch=tuning.epoch, metrics=tuning.metrics)
        return [points[epoch] for epoch in sorted(points)]


def _thinned(points: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """Return at most `_MAX_POINTS` of the points, evenly spaced, the first and the last among them."""
    if len(points) <= _MAX_POINTS:
        return tuple(points)
    return tuple(points[round(index * (len(points) - 1) / (_MAX_POINTS - 1))] for index in range(_MAX_POINTS))
