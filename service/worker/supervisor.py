"""The supervisor: takes jobs from the queue while its engine is ready, one at a time, until it is told to drain.

It has no torch. It also sweeps: jobs of workers that have fallen silent are queued again, by any worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from concurrent.futures import CancelledError as FutureCancelledError

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.domain.catalogue import Catalogue
from service.domain.errors import FencedError, StoreUnavailableError
from service.domain.job import JobError, JobStatus, Lane
from service.settings import Settings
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import Claim, JobStore
from service.storage.learngene_publisher import PublicationLimits
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.learngene_store import LearngeneStore
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore
from service.worker.assignment import Stores
from service.worker.attempt import Attempt, drop_states
from service.worker.pulse import keep_pulse
from service.worker.queue import Queue
from service.worker.warm_engine import WarmEngine

logger = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 5.0
_RETRY_PAUSE_S = 0.2  # between two tries while Redis is away
_LAST_PAUSE_S = 2.0  # for what is said to Redis after the engine has stopped


class Supervisor:
    """One worker.

    Args:
        settings: What the operator decided; they name a Redis.
        name: The worker's name, of which there is no other.
        catalogue: The learngenes of the worker's own files.
        engine: The engine, not yet started.
    """

    def __init__(self, settings: Settings, *, name: str, catalogue: Catalogue, engine: WarmEngine) -> None:
        if settings.redis_url is None:
            raise StoreUnavailableError("no Redis: set TLEG_REDIS_URL")
        self._settings = settings
        self._name = name
        self._engine = engine
        self._redis = Redis.from_url(
            settings.redis_url,
            decode_responses=True,
            socket_timeout=_REDIS_TIMEOUT_S,
            socket_connect_timeout=_REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # we try again ourselves
        )
        self._jobs = JobStore(self._redis, heartbeat_s=settings.heartbeat_s, max_deaths=settings.max_deaths)
        objects = ObjectStore(settings.object_store_url)
        limits = PublicationLimits(max_bytes=settings.max_learngene_bytes, max_total_bytes=settings.max_published_bytes)
        self._stores = Stores(
            jobs=self._jobs,
            models=ModelStore(self._redis),
            datasets=DatasetStore(self._redis),
            objects=objects,
            learngenes=LearngeneRegistry(catalogue, LearngeneStore(self._redis), objects, limits=limits, serving=False),
            max_exported_bytes=settings.max_exported_bytes,
        )
        self._queue = Queue(
            settings.redis_url,
            lanes=[Lane.EXPORTS] if settings.only else list(Lane),
            heartbeat_s=settings.heartbeat_s,
            is_open=self._is_open,
            handle=self._handle,
        )
        self._loop = asyncio.get_running_loop()
        self._draining = asyncio.Event()
        self._attempt: Attempt | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Work until `drain`, then hand the job over and end in order."""
        self._engine.start()
        self._queue.start()
        beside = [asyncio.create_task(self._sweep())]
        if self._settings.pulse_file is not None:
            beside.append(asyncio.create_task(keep_pulse(self._settings.pulse_file, lambda: not self._engine.failure)))
        try:
            await self._draining.wait()
            await self._hand_over()
        finally:
            for task in beside:
                task.cancel()
            await self._engine.stop()
            await asyncio.to_thread(self._queue.stop, timeout_s=_LAST_PAUSE_S)
            await self._redis.aclose()
            logger.info("the worker has ended", extra={"action": "worker_ended", "worker": self._name})

    def drain(self) -> None:
        """Take nothing more, save the running job and let it go to another worker; asked again, do not wait for the engine."""
        if not self._draining.is_set():
            logger.info("draining", extra={"action": "worker_draining", "worker": self._name})
            self._draining.set()
            if self._attempt is not None:
                self._attempt.leave(JobStatus.QUEUED, limit_s=self._settings.drain_timeout_s)
        elif self._attempt is not None:
            self._attempt.give_up()

    def _is_open(self) -> bool:
        """Whether a job may be fetched; asked by the queue's thread."""
        return self._engine.is_ready and not self._draining.is_set() and self._attempt is None

    def _handle(self, job_id: str) -> None:
        """Work on a job as long as this worker has it; called by the queue's thread."""
        try:
            taken = asyncio.run_coroutine_threadsafe(self._take(job_id), self._loop).result()
        except (FutureCancelledError, RuntimeError):  # the loop is ending
            taken = False
        if not taken:
            try:
                self._queue.give_back(job_id)
            except RedisError as error:  # the sweep will
                logger.warning("%s", error, extra={"action": "message_kept", "job": job_id})

    async def _take(self, job_id: str) -> bool:
        """Claim a job and work on it; return False where the message should go to another worker."""
        self._idle.clear()  # a claim whose answer is on its way is handed over too
        try:
            while not self._draining.is_set() and self._engine.is_ready:
                try:
                    claim = await self._jobs.claim(job_id, self._name)
                except StoreUnavailableError:
                    await asyncio.sleep(_RETRY_PAUSE_S)
                    continue
                if claim is None:
                    await drop_states(job_id, self._stores)  # the claim may have ended it, for its last worker had died
                else:
                    await self._work_on(claim)
                return True
            return False
        finally:
            self._attempt = None
            self._idle.set()

    async def _work_on(self, claim: Claim) -> None:
        settings = self._settings
        self._attempt = attempt = Attempt(
            claim, self._stores, heartbeat_s=settings.heartbeat_s, checkpoint_s=settings.checkpoint_s
        )
        if self._draining.is_set():
            attempt.leave(JobStatus.QUEUED, limit_s=settings.drain_timeout_s)
        nproc = claim.job.spec.nproc
        cores = os.cpu_count() or 1
        if nproc > cores:  # each would load PyTorch, and the machine run out of memory before one could say so
            reason = f"nproc: {nproc} processes need as many cores; this worker has {cores}"
            with contextlib.suppress(FencedError, StoreUnavailableError):  # said again by the next attempt
                await self._jobs.fail(claim, JobError(code="invalid_settings", message=reason))
            return
        try:
            await attempt.run(lambda: self._engine.provide(nproc))
        except Exception as error:
            logger.exception("the attempt failed in the worker", extra={"action": "attempt_broken"} | attempt.context)
            cause = error
            while isinstance(cause, ExceptionGroup):
                cause = cause.exceptions[0]
            await self._bury(claim, f"the worker failed: {type(cause).__name__}: {cause}")
        finally:
            await self._engine.settle()

    async def _bury(self, claim: Claim, reason: str) -> None:
        """Give up an attempt for a fault of ours; after some such the job fails with it."""
        self._engine.kill(reason)
        try:
            await self._jobs.died(claim, reason)
        except (StoreUnavailableError, FencedError) as error:  # its lease will lapse
            logger.warning("%s", error, extra={"action": "attempt_left"})

    async def _hand_over(self) -> None:
        """Wait for the running attempt to end, but not for ever: its lease would lapse too."""
        limit_s = self._settings.drain_timeout_s + _LAST_PAUSE_S
        try:
            await asyncio.wait_for(self._idle.wait(), limit_s)
        except TimeoutError:
            logger.error("the job could not be handed over in %g s", limit_s, extra={"action": "hand_over_failed"})

    async def _sweep(self) -> None:
        """Look for jobs that were left behind, unless we cannot know: after an outage the living renew their leases first."""
        period_s = self._settings.heartbeat_s / 8
        healthy_s, since_sweep_s = 0.0, 0.0
        while True:
            before = time.monotonic()
            try:
                await self._jobs.ping()
                if healthy_s >= self._settings.heartbeat_s / 2 and since_sweep_s >= self._settings.heartbeat_s / 2:
                    for job_id in await self._jobs.sweep():
                        await drop_states(job_id, self._stores)
                    since_sweep_s = 0.0
                await asyncio.sleep(period_s)
            except StoreUnavailableError:
                healthy_s = 0.0
                await asyncio.sleep(min(period_s, _RETRY_PAUSE_S))
                continue
            except Exception:
                logger.exception("the sweep failed", extra={"action": "sweep_failed"})
                await asyncio.sleep(period_s)
            passed_s = time.monotonic() - before
            # Where a moment took far too long, Redis or we were stopped, and others with us perhaps.
            healthy_s = healthy_s + passed_s if passed_s < 3 * period_s + 0.1 else 0.0
            since_sweep_s += passed_s
