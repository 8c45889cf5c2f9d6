"""The store of jobs: one claim, one result, nothing lost; and what a worker that was replaced still writes is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from service.domain.errors import (
    CursorUnknownError,
    DatasetInUseError,
    DatasetNotFoundError,
    FencedError,
    IdempotencyKeyReusedError,
    JobNotFoundError,
    JobStateError,
    StoreUnavailableError,
)
from service.domain.job import ExportSpec, FineTuneSpec, JobStatus, Lane, Progress, new_job_id
from service.storage import keys
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import Claim, Demand, JobStore
from service.storage.object_store import ObjectStore
from tests.service.jobs import DATASET, EXPORT, KEY, SPEC, START, WRITES, Store, checkpoint, queue_as_before, run


@pytest.fixture
def url(redis_url: str) -> str:
    """The address of an empty database with one data set."""
    url = f"{redis_url}?db=4"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        client.hset(keys.dataset(DATASET), "record", "{}")
    return url


# Creation.


def test_a_new_job_is_queued_and_reads_back(url: str) -> None:
    """What was asked for is kept; the first event says that it waits; its data set is in use."""

    async def use(store: Store) -> None:
        job, created = await store.create(SPEC)
        assert created
        assert await store.get(job.id) == job
        assert (job.spec, job.status, job.attempt, job.deaths) == (SPEC, JobStatus.QUEUED, 0, 0)
        (event,) = await store.events(job.id, after=0, limit=10)
        assert (event.seq, event.kind, event.at) == (1, "status", job.created_at)
        assert event.facts == {"status": "queued", "attempt": 0}
        assert await store.redis.smembers(keys.dataset_jobs(DATASET)) == {job.id}

    run(url, use)


def test_a_job_without_its_data_set_is_refused_and_leaves_nothing(url: str) -> None:
    """No record, no message, no idempotency key."""

    async def use(store: Store) -> None:
        before = await store.snapshot()
        with pytest.raises(DatasetNotFoundError):
            await store.create(replace(SPEC, dataset="ds-" + "9" * 32), key=KEY)
        assert await store.snapshot() == before

    run(url, use)


def test_of_many_creations_with_one_key_one_makes_a_job(url: str) -> None:
    """Twenty at once: one job, one message, all get the same; and the key is kept for a day."""

    async def use(store: Store) -> None:
        answers = await asyncio.gather(*(store.create(SPEC, key=KEY) for _ in range(20)))
        assert sum(created for _, created in answers) == 1
        assert len({job.id for job, _ in answers}) == 1
        assert len(await waiting(store)) == await store.redis.zcard(keys.JOBS) == 1
        assert 24 * 3600 - 60 < await store.redis.ttl(keys.idempotency(KEY.digest)) <= 24 * 3600
        assert await store.find(KEY) == answers[0][0]

    run(url, use)


def test_a_key_with_another_request_is_refused(url: str) -> None:
    """The first request's job stands; the second makes none."""

    async def use(store: Store) -> None:
        await store.create(SPEC, key=KEY)
        before = await store.snapshot()
        other = replace(KEY, request="c" * 64)
        for refused in (store.create(SPEC, key=other), store.find(other)):
            with pytest.raises(IdempotencyKeyReusedError):
                await refused
        assert await store.snapshot() == before
        assert await store.find(replace(KEY, digest="d" * 64)) is None

    run(url, use)


def test_a_key_still_gives_its_job_when_the_data_set_is_gone(url: str) -> None:
    """A client that repeats its request hears what became of it."""

    async def use(store: Store) -> None:
        job, _ = await store.create(SPEC, key=KEY)
        await store.redis.delete(keys.dataset(DATASET))
        assert await store.create(SPEC, key=KEY) == (job, False)

    run(url, use)


def test_a_job_and_the_deletion_of_its_data_set_exclude_each_other(url: str, tmp_path: Path) -> None:
    """Whoever comes first: no job waits for a data set that is gone."""

    async def use(store: Store) -> None:
        datasets, objects = DatasetStore(store.redis), ObjectStore(tmp_path.as_uri())
        for _ in range(20):
            await store.redis.hset(keys.dataset(DATASET), "record", "{}")
            orders = [store.create(SPEC), datasets.delete(DATASET, objects), store.create(SPEC)]
            made = [item for item in await asyncio.gather(*orders, return_exceptions=True) if isinstance(item, tuple)]
            assert bool(made) == await store.redis.exists(keys.dataset(DATASET))
            for job, _ in made:
                with pytest.raises(DatasetInUseError):
                    await datasets.delete(DATASET, objects)
                await store.cancel(job.id)

    run(url, use)


# The queue.


@contextmanager
def consumer_of(url: str, lane: Lane) -> Iterator[Any]:
    """Give dramatiq's own consumer of a lane of our queue."""
    broker = RedisBroker(url=url, namespace=keys.QUEUE_NAMESPACE, middleware=[])
    broker.declare_queue(lane)
    yield broker.consume(lane, prefetch=1, timeout=10)
    broker.close()
    broker.client.close()


@pytest.mark.parametrize(("spec", "lane"), [(SPEC, Lane.TRAININGS), (EXPORT, Lane.EXPORTS)])
def test_dramatiq_receives_what_was_queued_and_forgets_what_was_acknowledged(
    url: str, spec: FineTuneSpec | ExportSpec, lane: Lane
) -> None:
    """The contract with dramatiq's dispatch.lua: its consumer reads our messages, in order, and an ack removes them."""
    specs = [replace(spec, model=f"m-{index:032}") for index in range(3)]
    jobs = run(url, lambda store: asyncio.gather(*(store.create(spec) for spec in specs)))
    with consumer_of(url, lane) as consumer, redis.Redis.from_url(url, decode_responses=True) as client:
        for job in sorted((job for job, _ in jobs), key=lambda job: job.created_at):
            message = next(consumer)
            assert message is not None
            assert (message.queue_name, message.actor_name, message.args) == (lane, keys.QUEUE_ACTOR, (job.id,))
            assert client.hlen(keys.queue_messages(lane)) > 0
            consumer.ack(message)
        assert client.hgetall(keys.queue_messages(lane)) == {}
        assert client.lrange(keys.queue_list(lane), 0, -1) == []


def test_a_requeued_job_goes_to_the_back(url: str) -> None:
    """Handing over is no way to overtake."""

    async def use(store: Store) -> None:
        first, second = await store.created(), await store.created()
        claim = await store.claimed(job=first)
        await store.release(claim, JobStatus.QUEUED)
        assert await waiting(store) == [second.id, first.id]

    run(url, use)


async def waiting(store: Store, lane: Lane = Lane.TRAININGS) -> list[str]:
    """Return the jobs named by a lane's messages, in order."""
    ids = await store.redis.lrange(keys.queue_list(lane), 0, -1)
    messages = [await store.redis.hget(keys.queue_messages(lane), item) for item in ids]
    return [dramatiq.Message.decode(str(message).encode()).args[0] for message in messages]


def test_exports_wait_in_a_lane_of_their_own(url: str) -> None:
    """However they come into the queue: created, resumed, handed over, or sent again."""

    async def use(store: Store) -> None:
        training, (export, _) = await store.created(), await store.create(EXPORT)

        async def each_waits_in_its_lane() -> None:
            assert (await waiting(store), await waiting(store, Lane.EXPORTS)) == ([training.id], [export.id])

        await each_waits_in_its_lane()
        for job in (training, export):
            await store.pause(job.id)
        assert (await waiting(store), await waiting(store, Lane.EXPORTS)) == ([], [])
        for job in (training, export):
            await store.resume(job.id)
        await each_waits_in_its_lane()
        for lane in Lane:
            await store.redis.delete(keys.queue_list(lane), keys.queue_messages(lane))
        for job in (training, export):
            await store.release(await store.claimed(job=job), JobStatus.QUEUED)
        await each_waits_in_its_lane()
        for lane in Lane:
            await store.redis.delete(keys.queue_list(lane), keys.queue_messages(lane))
        assert set(await store.sweep()) == {training.id, export.id}
        await each_waits_in_its_lane()
        assert await store.sweep() == []

    run(url, use)


@pytest.mark.parametrize("how", ["sweep", "cancel"])
def test_an_export_queued_before_there_were_lanes_leaves_nothing_in_the_others(url: str, how: str) -> None:
    """The first sweep after an upgrade moves it; it can be cancelled before."""

    async def use(store: Store) -> None:
        (export, _), training = await store.create(EXPORT), await store.created()
        await queue_as_before(store.redis, export.id)
        assert await waiting(store) == [training.id, export.id]
        if how == "sweep":
            assert await store.sweep() == [export.id]
        else:
            await store.cancel(export.id)
        assert await store.sweep() == []
        assert await waiting(store) == [training.id]
        assert await waiting(store, Lane.EXPORTS) == ([export.id] if how == "sweep" else [])
        assert await store.redis.hlen(keys.queue_messages(Lane.TRAININGS)) == 1

    run(url, use)


def test_a_sweep_sends_lost_messages_again_and_no_others(url: str) -> None:
    """Lost with the queue, or acknowledged without a claim: sent again once; a waiting message is left alone."""

    async def use(store: Store) -> None:
        waits, lost = await store.created(), await store.created()
        message = await store.redis.hget(keys.job(lost.id), "message")
        await store.redis.lrem(keys.queue_list(Lane.TRAININGS), 1, message)
        await store.redis.hdel(keys.queue_messages(Lane.TRAININGS), message)
        assert await store.sweep() == [lost.id]
        assert await store.sweep() == []
        assert await waiting(store) == [waits.id, lost.id]

    run(url, use)


def test_a_message_that_was_taken_and_led_to_no_claim_is_sent_again_after_a_while(url: str) -> None:
    """A consumer cut off while it fetched keeps the message for ever; the job does not wait for it."""

    async def use(store: Store) -> None:
        job = await store.created()
        await store.redis.lpop(keys.queue_list(Lane.TRAININGS))
        assert await store.sweep() == []  # it may be on its way to a claim
        await store.redis.hset(keys.job(job.id), "sent_at", "1")
        assert await store.sweep() == [job.id]
        assert await waiting(store) == [job.id]
        assert await store.redis.hlen(keys.queue_messages(Lane.TRAININGS)) == 1

    run(url, use)


# Claims and fences.


def test_of_twenty_workers_one_gets_the_job(url: str) -> None:
    """Whoever asks, in whatever order: one claim, one attempt."""

    async def use(store: Store) -> None:
        for _ in range(10):
            job = await store.created()
            claims = await asyncio.gather(*(store.claim(job.id, f"w{index}") for index in range(20)))
            (claim,) = [claim for claim in claims if claim is not None]
            assert (claim.attempt, claim.job.status, claim.job.worker) == (1, JobStatus.RUNNING, claim.worker)
            assert (await store.get(job.id)).worker == claim.worker

    run(url, use)


def test_what_is_not_to_be_had_gives_no_claim(url: str) -> None:
    """Unknown, paused, cancelled, ended or held by a worker that lives."""

    async def use(store: Store) -> None:
        paused, cancelled = await store.created(), await store.created()
        await store.pause(paused.id)
        await store.cancel(cancelled.id)
        held = (await store.claimed()).job
        for job_id in (new_job_id(), "nobody", paused.id, cancelled.id, held.id):
            assert await store.claim(job_id, "w2") is None

    run(url, use)


@pytest.mark.parametrize("write", WRITES)
def test_a_worker_that_was_replaced_writes_nothing(url: str, write: str) -> None:
    """The zombie's attempt is over: while the job waits, runs elsewhere, and after its end; not a byte changes."""

    async def use(store: Store) -> None:
        zombie = await store.claimed("zombie")
        await store.silence(zombie)
        await store.sweep()
        await refused(store, zombie)
        claim = await store.claimed("w2", zombie.job)
        await refused(store, zombie)
        await refused(store, replace(claim, worker="zombie"))
        await refused(store, replace(claim, attempt=claim.attempt + 1))
        await store.succeed(claim, "m-result", START)
        await refused(store, zombie)

    async def refused(store: Store, claim: Claim) -> None:
        before = await store.snapshot()
        with pytest.raises(FencedError):
            await WRITES[write](store, claim)
        assert await store.snapshot() == before

    run(url, use)


def test_a_result_that_is_sent_twice_is_one_result(url: str) -> None:
    """A worker whose first answer was lost hears the same again."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        done = await store.succeed(claim, "m-result", START)
        assert await store.succeed(claim, "m-result", START) == done
        with pytest.raises(FencedError):
            await store.succeed(claim, "m-other", START)
        assert await store.kinds(claim) == ["queued", "running", "succeeded"]

    run(url, use)


# What a worker says.


def test_the_first_attempts_settings_stand(url: str) -> None:
    """A later attempt on another device uses what the first one decided."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        await store.started(claim, {"precision": "bfloat16"}, START)
        await store.release(claim, JobStatus.QUEUED)
        again = await store.claimed("w2", claim.job)
        assert again.job.settings_used == {"precision": "bfloat16"}
        await store.started(again, {"precision": "float32"}, START)
        assert (await store.get(claim.job.id)).settings_used == {"precision": "bfloat16"}

    run(url, use)


def test_progress_reads_back_as_it_was_reported(url: str) -> None:
    """Every number and the time; what JSON cannot say, such as a loss that is no number, is left out."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        now = datetime.now(UTC)
        progress = Progress(
            epoch=1, step=7, steps=10, images_per_s=123.4, metrics={"loss": 0.1 + 0.2, "lr": 1e-5}, estimated_finish=now
        )
        await store.report(claim, replace(progress, metrics={**progress.metrics, "train_loss": float("nan")}))
        assert (await store.get(claim.job.id)).progress == progress
        await store.report(claim, progress, event=("epoch", {"epoch": 1, "metrics": {"loss": float("inf"), "top1": 0.25}}))
        event = (await store.events(claim.job.id, after=2, limit=9))[-1]
        assert (event.kind, event.facts) == ("epoch", {"epoch": 1, "metrics": {"top1": 0.25}})

    run(url, use)


def test_saving_a_state_gives_the_key_that_it_replaces(url: str) -> None:
    """So that the old object can be deleted; the same key again replaces nothing."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        assert [await store.save_state(claim, key, step) for key, step in (("a", 1), ("b", 2), ("b", 2))] == [None, "a", None]
        assert (await store.get(claim.job.id)).resume_key == "b"

    run(url, use)


def test_a_checkpoint_is_listed_once_whatever_attempt_comes_as_far(url: str) -> None:
    """An attempt that repeats an epoch adds nothing."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        first, second = checkpoint(1), checkpoint(2)
        assert await store.add_checkpoint(claim, first)
        await store.release(claim, JobStatus.QUEUED)
        again = await store.claimed("w2", claim.job)
        assert not await store.add_checkpoint(again, first)
        assert await store.add_checkpoint(again, second)
        assert await store.checkpoints(claim.job.id) == [first, second]
        assert (await store.kinds(claim)).count("checkpoint") == 2

    run(url, use)


def test_progress_events_thin_out_as_a_job_grows_old_and_no_other_event_is_left_out(url: str) -> None:
    """After a week a second of training is no news; an epoch is, and so is where the job stands."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        week_ago = int((await store.get(claim.job.id)).created_at.timestamp() - 7 * 86400) * 1_000_000
        await store.redis.hset(keys.job(claim.job.id), "started_at", str(week_ago))
        for step in range(1, 21):
            await store.report(claim, replace(START, step=step), event=("progress", {"step": step}))
            await store.report(claim, replace(START, step=step), event=("epoch", {"epoch": step}))
        kinds = await store.kinds(claim)
        assert (kinds.count("progress"), kinds.count("epoch")) == (1, 20)
        assert (await store.get(claim.job.id)).progress.step == 20

    run(url, use)


# Owners' orders.


def test_a_job_that_nobody_holds_obeys_at_once(url: str) -> None:
    """Paused, resumed, cancelled; and asking twice is no error."""

    async def use(store: Store) -> None:
        job = await store.created()
        for order, status in (
            (store.pause, JobStatus.PAUSED),
            (store.pause, JobStatus.PAUSED),
            (store.resume, JobStatus.QUEUED),
            (store.resume, JobStatus.QUEUED),
            (store.cancel, JobStatus.CANCELLED),
            (store.cancel, JobStatus.CANCELLED),
        ):
            assert (await order(job.id)).status is status
            assert (await waiting(store) == [job.id]) == (status is JobStatus.QUEUED)
        events = await store.events(job.id, after=0, limit=9)
        assert [event.facts["status"] for event in events] == ["queued", "paused", "queued", "cancelled"]

    run(url, use)


def test_a_running_job_is_told_with_its_next_heartbeat(url: str) -> None:
    """Pause, a pause withdrawn, then cancel, which wins over all."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        assert await store.beat(claim) is Demand.GO_ON
        assert (await store.pause(claim.job.id)).pause_requested
        assert await store.beat(claim) is Demand.PAUSE
        assert not (await store.resume(claim.job.id)).pause_requested
        assert await store.beat(claim) is Demand.GO_ON
        await store.pause(claim.job.id)
        assert (await store.cancel(claim.job.id)).status is JobStatus.CANCELLING
        assert await store.beat(claim) is Demand.CANCEL
        assert (await store.release(claim, JobStatus.CANCELLED)).status is JobStatus.CANCELLED

    run(url, use)


@pytest.mark.parametrize(
    ("order", "released_to", "status"),
    [
        (None, JobStatus.QUEUED, JobStatus.QUEUED),
        ("pause", JobStatus.PAUSED, JobStatus.PAUSED),
        ("pause", JobStatus.QUEUED, JobStatus.PAUSED),
        (None, JobStatus.PAUSED, JobStatus.QUEUED),
        ("cancel", JobStatus.QUEUED, JobStatus.CANCELLED),
        ("cancel", JobStatus.PAUSED, JobStatus.CANCELLED),
        ("cancel", JobStatus.CANCELLED, JobStatus.CANCELLED),
    ],
)
def test_a_released_job_goes_where_its_owner_wants_it(
    url: str, order: str | None, released_to: JobStatus, status: JobStatus
) -> None:
    """Whatever the worker had heard when it let go."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        if order is not None:
            await getattr(store, order)(claim.job.id)
        job = await store.release(claim, released_to)
        assert (job.status, job.worker, job.pause_requested) == (status, None, False)

    run(url, use)


def test_nobody_cancels_a_job_unasked(url: str) -> None:
    """A worker cannot; the job runs on."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        with pytest.raises(JobStateError):
            await store.release(claim, JobStatus.CANCELLED)
        with pytest.raises(ValueError, match="not released"):
            await store.release(claim, JobStatus.SUCCEEDED)
        assert await store.beat(claim) is Demand.GO_ON

    run(url, use)


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_a_job_that_has_ended_takes_no_orders(url: str, end: str) -> None:
    """And its data set is free, its lease and message are gone."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        await WRITES[end](store, claim)
        before = await store.snapshot()
        for order in (store.cancel, store.pause, store.resume):
            with pytest.raises(JobStateError):
                await order(claim.job.id)
        assert await store.snapshot() == before
        assert keys.dataset_jobs(DATASET) not in before
        assert not [key for key in before if key.startswith(keys.QUEUE_NAMESPACE)]
        assert not {"lease", "worker", "token", "message"} & before[keys.job(claim.job.id)].keys()  # type: ignore[attr-defined]

    run(url, use)


# Deaths.


def test_a_job_whose_worker_is_silent_is_queued_again(url: str) -> None:
    """By a sweep, of which one of many does it; and the next attempt has the next number."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        assert await store.sweep() == []
        await store.silence(claim)
        swept = await asyncio.gather(*(store.sweep() for _ in range(10)))
        assert sorted(swept) == [[]] * 9 + [[claim.job.id]]
        job = await store.get(claim.job.id)
        assert (job.status, job.deaths, job.worker) == (JobStatus.QUEUED, 1, None)
        assert await waiting(store) == [job.id]
        assert (await store.claimed("w2", job)).attempt == 2

    run(url, use)


def test_a_lapsed_job_can_be_claimed_without_a_sweep(url: str) -> None:
    """A message of it is enough; the death counts."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        await store.silence(claim)
        again = await store.claimed("w2", claim.job)
        assert (again.attempt, again.job.deaths) == (2, 1)
        assert await store.kinds(claim) == ["queued", "running", "queued", "running"]

    run(url, use)


def test_a_heartbeat_keeps_the_lease(url: str) -> None:
    """As long as the worker speaks, the job is its own; once it does not, another may have it."""

    async def use(store: Store) -> None:
        short = Store(store.redis, heartbeat_s=2)
        claim = await short.claimed()
        for _ in range(4):
            await asyncio.sleep(0.6)
            assert await short.beat(claim) is Demand.GO_ON
            assert await short.sweep() == []
        await asyncio.sleep(2.1)
        assert await short.sweep() == [claim.job.id]

    run(url, use)


@pytest.mark.parametrize(("order", "status"), [("pause", JobStatus.PAUSED), ("cancel", JobStatus.CANCELLED)])
@pytest.mark.parametrize("how", ["silent", "died"])
def test_a_job_whose_worker_dies_goes_where_its_owner_wants_it(url: str, order: str, status: JobStatus, how: str) -> None:
    """A pause or a cancellation that was under way is carried out."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        await getattr(store, order)(claim.job.id)
        if how == "died":
            await store.died(claim, "signal 9")
        else:
            await store.silence(claim)
            await store.sweep()
        assert await store.status(claim) is status

    run(url, use)


def test_a_job_that_kills_its_worker_three_times_fails_and_says_so(url: str) -> None:
    """With the last reason; silence and death count alike."""

    async def use(store: Store) -> None:
        job = await store.created()
        claim = await store.claimed(job=job)
        await store.died(claim, "signal 9")
        await store.silence(await store.claimed(job=job))
        await store.sweep()
        failed = await store.died(await store.claimed(job=job), "exit status 1")
        assert failed.status is JobStatus.FAILED
        assert failed.error is not None
        assert failed.error.code == "worker_died"
        assert "3 times" in failed.error.message
        assert "exit status 1" in failed.error.message
        event = (await store.events(job.id, after=0, limit=100))[-1]
        assert event.facts["error"] == {"code": "worker_died", "message": failed.error.message}

    run(url, use)


@pytest.mark.parametrize("progress", ["step", "state", "checkpoint"])
def test_deaths_count_again_from_the_first_after_progress(url: str, progress: str) -> None:
    """A long job may lose many workers, as long as it comes forward; coming as far as before is no progress."""

    async def use(store: Store) -> None:
        job = await store.created()
        while (claim := await store.claim(job.id, "w1")) is not None:
            if claim.attempt in (3, 5):
                await forward(store, claim, claim.attempt)
            elif claim.attempt > 5:
                await forward(store, claim, 5)
            job = await store.died(claim, "signal 9")
        assert (job.status, job.attempt, job.deaths) == (JobStatus.FAILED, 7, 3)

    async def forward(store: Store, claim: Claim, step: int) -> None:
        if progress == "step":
            await store.report(claim, replace(START, step=step))
        elif progress == "state":
            await store.save_state(claim, f"{claim.attempt}-{step}", step)
        else:
            await store.add_checkpoint(claim, checkpoint(step))

    run(url, use)


def test_a_damaged_record_holds_up_no_other_job(url: str) -> None:
    """A sweep and a list go on without it."""

    async def use(store: Store) -> None:
        damaged, sound = await store.claimed(), await store.claimed()
        await store.redis.hset(keys.job(damaged.job.id), "record", "{")
        for claim in (damaged, sound):
            await store.silence(claim)
        assert await store.sweep() == [sound.job.id]
        assert [job.id for job in (await store.page(limit=5, after=None)).jobs] == [sound.job.id]

    run(url, use)


# Lists.


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_give_every_job_once_newest_first(url: str, limit: int) -> None:
    """Whatever the size of the pages, and although jobs come and change their status meanwhile."""

    async def use(store: Store) -> None:
        jobs = [await store.created() for _ in range(7)]
        seen: list[str] = []
        more = True
        while more:
            page = await store.page(limit=limit, after=seen[-1] if seen else None, status=JobStatus.QUEUED)
            seen += [job.id for job in page.jobs]
            more = page.has_more
            await store.cancel(seen[-1])
            await store.created()
        assert seen == [job.id for job in reversed(jobs)]

    run(url, use)


def test_lists_are_filtered_by_status_model_and_data_set(url: str) -> None:
    """All of the filters hold at once."""

    async def use(store: Store) -> None:
        jobs = [await store.created(replace(SPEC, model=f"m-{index % 2:032}")) for index in range(6)]
        for job in jobs[:3]:
            await store.cancel(job.id)
        odd = await store.page(limit=10, after=None, status=JobStatus.CANCELLED, model=f"m-{1:032}", dataset=DATASET)
        assert [job.id for job in odd.jobs] == [jobs[1].id]
        assert (await store.page(limit=10, after=None, dataset="ds-other")).jobs == ()
        first = await store.page(limit=2, after=None, model=f"m-{0:032}")
        assert ([job.id for job in first.jobs], first.has_more) == ([jobs[4].id, jobs[2].id], True)

    run(url, use)


def test_a_filter_looks_through_any_number_of_jobs(url: str) -> None:
    """Also where the wanted one is the oldest of thousands."""

    async def use(store: Store) -> None:
        wanted = await store.created(replace(SPEC, model="m-wanted"))
        async with store.redis.pipeline(transaction=False) as pipeline:
            for index in range(2500):
                pipeline.zadd(keys.JOBS, {f"ft-{index:032}": wanted.created_at.timestamp() * 1e6 + 1000 + index})
            await pipeline.execute()
        page = await store.page(limit=5, after=None, model="m-wanted")
        assert ([job.id for job in page.jobs], page.has_more) == ([wanted.id], False)

    run(url, use)


def test_events_come_in_pages(url: str) -> None:
    """After a number, up to a limit, in order."""

    async def use(store: Store) -> None:
        claim = await store.claimed()
        for step in range(1, 11):
            await store.report(claim, START, event=("log", {"message": "x" * 10_000, "step": step}))
        numbers = [[event.seq for event in await store.events(claim.job.id, after=after, limit=5)] for after in (0, 5, 10, 12)]
        assert numbers == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12], []]
        assert len((await store.events(claim.job.id, after=11, limit=1))[0].facts["message"]) == 4000

    run(url, use)


def test_what_is_not_there_is_an_error_of_its_own(url: str) -> None:
    """Unknown ids and cursors, and texts that are no ids at all."""

    async def use(store: Store) -> None:
        for job_id in (new_job_id(), "nobody", "", "*", "ft-" + "0" * 32 + ":events"):
            for asked in (
                store.get(job_id),
                store.cancel(job_id),
                store.pause(job_id),
                store.resume(job_id),
                store.events(job_id, after=0, limit=1),
                store.checkpoints(job_id),
            ):
                with pytest.raises(JobNotFoundError):
                    await asked
            with pytest.raises(CursorUnknownError):
                await store.page(limit=1, after=job_id)

    run(url, use)


METHODS: dict[str, Callable[[JobStore, Claim], Awaitable[object]]] = WRITES | {
    "ping": lambda store, _: store.ping(),
    "create": lambda store, _: store.create(SPEC),
    "find": lambda store, _: store.find(KEY),
    "get": lambda store, claim: store.get(claim.job.id),
    "page": lambda store, _: store.page(limit=1, after=None),
    "cancel": lambda store, claim: store.cancel(claim.job.id),
    "events": lambda store, claim: store.events(claim.job.id, after=0, limit=1),
    "checkpoints": lambda store, claim: store.checkpoints(claim.job.id),
    "claim": lambda store, claim: store.claim(claim.job.id, "w1"),
    "sweep": lambda store, _: store.sweep(),
}


def test_without_redis_every_method_says_so(url: str, tmp_path: Path) -> None:
    """Our own error, never the client library's."""
    claim = run(url, lambda store: store.claimed())

    async def use(store: Store) -> None:
        for method in METHODS.values():
            with pytest.raises(StoreUnavailableError, match="Redis does not answer"):
                await method(store, claim)

    run(f"unix://{tmp_path}/nobody.sock", use)
