"""What an attempt has to say to the store, handed over in order, and kept while the store does not answer.

Everything is written under the attempt's fence. Of steps and states only the latest is kept, so an hour without Redis costs no
memory. When the last word has been said, the objects that the job no longer needs are deleted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from service.domain.errors import FencedError, ObjectStoreError, ServiceError, StoreUnavailableError, code_of
from service.domain.job import Job, JobCheckpoint, JobError, JobStatus, Progress
from service.storage.job_store import Claim, JobStore
from service.storage.object_store import ObjectStore, state_folder
from service.worker.assignment import Assignment
from service.worker.pace import Pace
from service.worker.protocol import EpochDone, Failed, Finished, Note, Saved, Started, Stepped, Weights

logger = logging.getLogger(__name__)

_STATE_PAUSE_S = 0.5  # between two writes of the progress
_EVENT_PAUSE_S = 1.0  # between two events of it,
_MAX_EVENTS = 500  # and about so many in a job
_RETRY_PAUSE_S = 0.2  # between two tries while Redis is away


@dataclass(frozen=True, slots=True)
class Release:
    """The attempt ended without a result, as it was asked to."""

    to: JobStatus


@dataclass(frozen=True, slots=True)
class Died:
    """The engine ended under the attempt; `reason` is for people."""

    reason: str


Item: TypeAlias = Started | Stepped | EpochDone | Saved | Note | Finished | Failed | Release | Died
LAST: Final = (Finished, Failed, Release, Died)


class Delivery:
    """The way of one attempt's reports into the store.

    Args:
        claim: The attempt.
        jobs: Where jobs are recorded.
        objects: Where states of training lie.
    """

    def __init__(self, claim: Claim, jobs: JobStore, objects: ObjectStore) -> None:
        self._claim = claim
        self._jobs = jobs
        self._objects = objects
        self.assignment: Assignment | None = None
        self._items: deque[Item] = deque()
        self._more = asyncio.Event()
        self._pace = Pace()
        self._progress = replace(claim.job.progress, images_per_s=None, estimated_finish=None)
        self._settings: Mapping[str, Any] = claim.job.settings_used or claim.job.spec.settings
        self._stepped = False
        self._unwritten = False  # whether the store is behind our progress
        self._state_at_s = 0.0
        self._event_at_s = 0.0
        self._event_step = 0
        self._superseded: list[str] = []  # states that Redis may have heard of, though its answer was lost
        self._cleaning: set[asyncio.Task[None]] = set()
        self.closing = False  # the last word is being said: the fence may fall at any moment, and that is no harm

    def put(self, item: Item) -> None:
        """Add what is to be said."""
        match item:
            case Stepped():
                self._pace.note(time.monotonic(), item.step)
                if self._items and isinstance(self._items[-1], Stepped):
                    self._items.pop()
            case Saved():
                for older in [kept for kept in self._items if isinstance(kept, Saved)]:
                    self._items.remove(older)
                    self._delete(older.key)
        self._items.append(item)
        self._more.set()

    async def run(self) -> None:
        """Hand everything over until the last word was; raises `FencedError` where another attempt has the job."""
        away = False
        while True:
            while not self._items:
                self._more.clear()
                await self._more.wait()
            item = self._items.popleft()
            while not self._is_superseded(item):
                try:
                    await self._hand_over(item)
                except StoreUnavailableError as error:
                    if not away:
                        logger.warning("%s; reports are kept", error, extra={"action": "reports_kept"} | self._context)
                    away = True
                    await asyncio.sleep(_RETRY_PAUSE_S)
                else:
                    away = False
                    break
            if isinstance(item, LAST):
                await asyncio.gather(*self._cleaning)
                return

    @property
    def _context(self) -> dict[str, Any]:
        return {"job": self._claim.job.id, "attempt": self._claim.attempt}

    def _is_superseded(self, item: Item) -> bool:
        """Whether one that stands for this one too comes later in the line; what is between them is not overtaken."""
        if isinstance(item, Stepped):
            return bool(self._items) and isinstance(self._items[0], Stepped)
        if isinstance(item, Saved) and any(isinstance(later, Saved) for later in self._items):
            self._superseded.append(item.key)  # not deleted before the later one is recorded
            return True
        return False

    async def _hand_over(self, item: Item) -> None:
        claim, jobs = self._claim, self._jobs
        match item:
            case Started():
                self._settings = item.settings
                self._progress = replace(self._progress, steps=item.steps)
                await jobs.started(claim, item.settings, self._progress)
            case Stepped():
                await self._hand_over_step(item)
            case EpochDone():
                if item.weights is not None:
                    await self._add_checkpoint(item, item.weights)
                progress = self._advanced(item.epoch, item.step, item.metrics)
                facts = {"epoch": item.epoch, "step": item.step, "metrics": _finite(item.metrics)}
                await jobs.report(claim, progress, event=("epoch", facts))
                self._unwritten = False
            case Saved():
                replaced = await jobs.save_state(claim, item.key, item.step)
                for key in {*self._superseded, *([replaced] if replaced else [])}:
                    self._delete(key)
                self._superseded.clear()
            case Note():
                await jobs.report(claim, self._progress, event=("log", {"message": item.message}))
            case Finished():
                await self._finish(item)
            case Failed():
                await self._catch_up()
                self.closing = True
                self._clean(await jobs.fail(claim, JobError(code=item.code, message=item.message)))
            case Release():
                await self._catch_up()
                self.closing = True
                self._clean(await jobs.release(claim, item.to))
            case Died():
                await self._catch_up()
                self.closing = True
                self._clean(await jobs.died(claim, item.reason))

    async def _hand_over_step(self, item: Stepped) -> None:
        now = time.monotonic()
        is_edge = not self._stepped or item.step >= item.steps
        self._progress = replace(
            self._advanced(item.epoch, item.step, item.metrics), steps=item.steps, images_per_s=item.images_per_s
        )
        self._unwritten = True
        if not is_edge and now - self._state_at_s < _STATE_PAUSE_S:
            return
        event = None
        due = now - self._event_at_s >= _EVENT_PAUSE_S and abs(item.step - self._event_step) * _MAX_EVENTS >= item.steps
        if is_edge or due:
            facts = {
                "epoch": item.epoch,
                "step": item.step,
                "steps": item.steps,
                "images_per_s": item.images_per_s,
                "metrics": _finite(item.metrics),
            }
            event = ("progress", facts)
        await self._jobs.report(self._claim, self._progress, event=event)
        self._unwritten = False
        self._stepped, self._state_at_s = True, now
        if event is not None:
            self._event_at_s, self._event_step = now, item.step

    async def _catch_up(self) -> None:
        """Record the latest step, if that was too soon after the one before."""
        if self._unwritten:
            await self._jobs.report(self._claim, self._progress)
            self._unwritten = False

    def _advanced(self, epoch: int, step: int, metrics: Mapping[str, float]) -> Progress:
        self._progress = replace(
            self._progress,
            epoch=epoch,
            step=step,
            metrics={**self._progress.metrics, **_finite(metrics)},
            estimated_finish=self._pace.finish(step, self._progress.steps),
        )
        return self._progress

    async def _finish(self, item: Finished) -> None:
        """Record the result, and end the job with it; where the result cannot be recorded, the job fails with the reason.

        Where the object store fails it is the attempt that failed: another one makes the same result.
        """
        try:
            result = await self._record(item, item.weights)
        except (StoreUnavailableError, FencedError):
            raise
        except ObjectStoreError as error:
            await self._hand_over(Died(f"the result could not be stored: {error}"))
            return
        except ServiceError as error:
            await self._hand_over(Failed(job=item.job, code=code_of(error), message=str(error)))
            return
        progress = replace(self._advanced(item.epoch, item.step, item.metrics), estimated_finish=None)
        self.closing = True
        self._clean(await self._jobs.succeed(self._claim, result, progress))

    async def _add_checkpoint(self, report: EpochDone, weights: Weights) -> None:
        checkpoint = JobCheckpoint(
            model=await self._record(report, weights),
            epoch=report.epoch,
            step=report.step,
            metrics=_finite(report.metrics),
            created_at=datetime.now(UTC),
        )
        await self._jobs.add_checkpoint(self._claim, checkpoint)

    async def _record(self, report: EpochDone | Finished, weights: Weights) -> str:
        if self.assignment is None:
            raise RuntimeError("weights of an attempt that was never begun")
        report = report.model_copy(update={"metrics": _finite(report.metrics)})
        return await self.assignment.record(report, weights, self._settings)

    def _clean(self, job: Job) -> None:
        """Delete every state of a job that has ended, those that no report came of included."""
        if job.status.is_terminal:
            self._meanwhile(self._delete_states(job.id, list(self._cleaning)))

    async def _delete_states(self, job_id: str, before: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.gather(*before)  # a file that is gone in between would end the folder's deletion
        await self._quietly(self._objects.delete_folder, state_folder(job_id))

    def _delete(self, key: str) -> None:
        self._meanwhile(self._quietly(self._objects.delete, key))

    def _meanwhile(self, deletion: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(deletion)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _quietly(self, delete: Callable[[str], None], key: str) -> None:
        try:
            await asyncio.to_thread(delete, key)
        except ObjectStoreError as error:
            logger.warning("%s", error, extra={"action": "object_left_behind", "key": key} | self._context)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are numbers: of a training that diverges, a loss that is none is left out, for JSON has none."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
