"""One attempt at a job, from its claim to its end: the engine gets the work, its reports go to the store, the lease is renewed.

It ends with the engine's last word on the job, with the engine's death, or with the fence: another attempt has the job, and the
engine is killed at once. What is said to the store, and how often, is `delivery`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.domain.errors import FencedError, ServiceError, StoreUnavailableError, code_of
from service.domain.job import JobStatus
from service.storage.job_store import Claim, Demand
from service.storage.object_store import state_folder
from service.worker.assignment import Stores, assignment_of
from service.worker.delivery import Delivery, Died, Release
from service.worker.engine_process import EngineEndedError, EngineProcess
from service.worker.protocol import INTERNAL_ERROR, Failed, Finished, Stop, Stopped

logger = logging.getLogger(__name__)

_STOP_LIMIT_S = 60.0  # for a step to end and the state to be saved
_CANCEL_LIMIT_S = 10.0  # for a step to end
_RETRY_PAUSE_S = 0.2  # between two tries while Redis is away

_T = TypeVar("_T")


class Attempt:
    """One attempt.

    Args:
        claim: The right to it.
        stores: Where its work comes from and its results go.
        heartbeat_s: How long the lease lasts.
        checkpoint_s: Seconds of training after which the state is saved.
    """

    def __init__(self, claim: Claim, stores: Stores, *, heartbeat_s: float, checkpoint_s: float) -> None:
        self._claim = claim
        self._stores = stores
        self._beat_s = min(1.0, heartbeat_s / 4)
        self._checkpoint_s = checkpoint_s
        self._delivery = Delivery(claim, stores.jobs, stores.objects)
        self._engine: EngineProcess | None = None
        self._runs = False  # whether the engine has the order
        self._leaving_to: JobStatus | None = None
        self._gave_up = False  # waiting for the engine to stop

    @property
    def context(self) -> dict[str, Any]:
        """What each log line says of it."""
        return {"job": self._claim.job.id, "attempt": self._claim.attempt}

    async def run(self, engine: Callable[[], Coroutine[Any, Any, EngineProcess]]) -> None:
        """Work on the job until the attempt has ended; `engine` gives a ready one, or raises `EngineEndedError`."""
        logger.info("attempt begins", extra={"action": "attempt_started"} | self.context)
        try:
            async with asyncio.TaskGroup() as tasks:
                renewing = tasks.create_task(self._renew())
                working = tasks.create_task(self._work(engine))
                await self._delivery.run()
                renewing.cancel()
                working.cancel()
        except* FencedError as group:
            logger.warning("%s", group.exceptions[0], extra={"action": "attempt_fenced"} | self.context)
            if self._engine is not None and self._runs:
                self._engine.kill("another worker had taken its job over")
                await self._engine.ended()
            await drop_states(self._claim.job.id, self._stores)
        else:
            logger.info("attempt ended", extra={"action": "attempt_ended"} | self.context)

    def leave(self, to: JobStatus, *, limit_s: float = _STOP_LIMIT_S) -> None:
        """Stop the work and let the job go; unless it is to be cancelled its state is saved first.

        Args:
            to: Whether it is to be queued for another worker, paused or cancelled; the last wins over the others.
            limit_s: How long the engine may take; then it is killed.
        """
        if self._leaving_to is JobStatus.CANCELLED or self._leaving_to is to:
            return
        self._leaving_to = to
        logger.info("stopping the attempt", extra={"action": "attempt_stopping", "to": to} | self.context)
        if self._runs:
            self._order_stop(limit_s if to is not JobStatus.CANCELLED else min(limit_s, _CANCEL_LIMIT_S))

    def _order_stop(self, limit_s: float) -> None:
        if self._engine is None:
            return
        self._engine.order(Stop(job=self._claim.job.id, save=self._leaving_to is not JobStatus.CANCELLED))
        asyncio.get_running_loop().call_later(limit_s, self.give_up)

    def give_up(self) -> None:
        """Kill an engine that was told to stop and does not; the job goes on from the last state that it saved."""
        if self._leaving_to is not None and self._runs and self._engine is not None:
            self._gave_up = True
            self._engine.kill("it did not stop when it was told to")

    async def _work(self, provide: Callable[[], Coroutine[Any, Any, EngineProcess]]) -> None:
        """Give the engine the job, and pass on what it reports, up to its last word."""
        try:
            self._delivery.assignment = assignment = await self._patiently(lambda: assignment_of(self._claim, self._stores))
        except (StoreUnavailableError, FencedError):
            raise
        except ServiceError as error:
            self._delivery.put(Failed(job=self._claim.job.id, code=code_of(error), message=str(error)))
            return
        try:
            self._engine = engine = await provide()
            if self._leaving_to is not None:
                self._delivery.put(Release(self._leaving_to))
                return
            engine.order(assignment.order(self._checkpoint_s))
            self._runs = True  # until the engine says that it has ended the job, or has ended; not where we are cancelled
            await self._pass_on(engine)
            self._runs = False
        except EngineEndedError as error:
            self._runs = False
            if self._gave_up and self._leaving_to is not None:
                self._delivery.put(Release(self._leaving_to))
            else:
                logger.error("%s", error, extra={"action": "engine_died"} | self.context)
                self._delivery.put(Died(str(error)))

    async def _pass_on(self, engine: EngineProcess) -> None:
        while True:
            report = await engine.report()
            match report:
                case _ if report.job != self._claim.job.id:
                    logger.warning("a report of another job", extra={"action": "report_astray"} | self.context)
                case Stopped():
                    self._delivery.put(Release(self._leaving_to or JobStatus.QUEUED))
                    return
                case Finished() | Failed():
                    if isinstance(report, Failed) and report.code == INTERNAL_ERROR:  # on a GPU, none could succeed after some
                        engine.kill("a job had failed in it for a reason that it does not know")
                    self._delivery.put(report)
                    return
                case _:
                    self._delivery.put(report)

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Ask until Redis answers."""
        while True:
            try:
                return await ask()
            except StoreUnavailableError:
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _renew(self) -> None:
        """Say that we live, and do what the job's owner wants; raises `FencedError`."""
        while True:
            try:
                demand = await self._stores.jobs.beat(self._claim)
            except StoreUnavailableError as error:
                logger.debug("%s", error, extra={"action": "beat_missed"} | self.context)
                await asyncio.sleep(min(_RETRY_PAUSE_S, self._beat_s))
                continue
            except FencedError:
                if self._delivery.closing:
                    return  # the last word has just been said
                raise
            match demand:
                case Demand.CANCEL:
                    self.leave(JobStatus.CANCELLED)
                case Demand.PAUSE:
                    if self._leaving_to is None:
                        self.leave(JobStatus.PAUSED)
                case Demand.GO_ON:
                    pass
            await asyncio.sleep(self._beat_s)


async def drop_states(job_id: str, stores: Stores) -> None:
    """Delete every state of a job that has ended, where no attempt is left to do it: each may have left some."""
    try:
        if (await stores.jobs.get(job_id)).status.is_terminal:
            await asyncio.to_thread(stores.objects.delete_folder, state_folder(job_id))
    except ServiceError as error:
        logger.warning("%s", error, extra={"action": "states_left_behind", "job": job_id})
