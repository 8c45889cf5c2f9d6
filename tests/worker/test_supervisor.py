"""The supervisor with a real Redis and an engine that fakes training: what it makes of reports, deaths, orders and outages."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from service.domain.job import JobStatus, Lane
from service.storage import keys
from service.storage.job_store import Claim
from service.storage.object_store import state_key
from tests.processes import children_with
from tests.worker.conftest import HEARTBEAT_S, Bench, until
from tests.worker.fake_engine import Conduct

OnBench = Callable[[Callable[[Bench], Awaitable[None]]], None]


def engine_pid() -> int:
    """Return the id of the engine that this process runs."""
    return children_with("tests.worker.fake_engine")[0].pid


def test_a_job_is_trained_and_its_result_recorded(on_bench: OnBench) -> None:
    """It ends as succeeded, with a model that names the job, its checkpoint, its events, and no state left."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job()
        async with bench.worker():
            job = await bench.ended(job.id)
        assert job.status is JobStatus.SUCCEEDED
        assert job.result is not None
        assert (job.progress.step, job.progress.steps, job.progress.epoch) == (20, 20, 2)
        assert job.settings_used == job.spec.settings
        model = (await bench.models.get(job.result)).model
        assert model.fine_tuning is not None
        assert model.fine_tuning.job == job.id
        assert model.fine_tuning.metrics == {"loss": 0.1, "top1": 0.5, "top5": 0.9}
        assert [checkpoint.epoch for checkpoint in await bench.jobs.checkpoints(job.id)] == [1]
        steps = [event.facts["step"] for event in await bench.events(job.id, "progress")]
        assert steps[0] == 1
        assert steps[-1] == 20
        assert [event.facts["epoch"] for event in await bench.events(job.id, "epoch")] == [1, 2]
        assert [event.facts["message"] for event in await bench.events(job.id, "log")] == ["this is no training"]
        assert not (bench.work_dir / "objects" / "jobs" / job.id).exists()

    on_bench(scenario)


def test_a_dead_engine_is_replaced_and_the_job_goes_on(on_bench: OnBench) -> None:
    """SIGKILL of the engine costs an attempt and nothing else: the next one begins where the state was saved."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(epochs=4)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 5)
            os.kill(engine_pid(), signal.SIGKILL)
            ended = await bench.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert ended.attempt == 2
        statuses = await bench.events(job.id, "status")
        assert "SIGKILL" in statuses[2].facts["reason"]
        assert ended.progress.step == 40

    on_bench(scenario)


def test_a_stopped_engine_is_killed(on_bench: OnBench) -> None:
    """An engine that does not say that it lives is replaced after the heartbeat's limit, though the worker renews its lease."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(epochs=3)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 3)
            os.kill(engine_pid(), signal.SIGSTOP)
            ended = await bench.ended(job.id)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2)
        assert "said nothing" in (await bench.events(job.id, "status"))[2].facts["reason"]

    on_bench(scenario)


def test_an_engine_that_sends_no_reports_is_killed(on_bench: OnBench) -> None:
    """What cannot be read ends the engine, and after three times the job, with that reason."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.BABBLES)
        async with bench.worker():
            ended = await bench.ended(job.id)
        assert ended.status is JobStatus.FAILED
        assert ended.error is not None
        assert ended.error.code == "worker_died"
        assert "no report" in ended.error.message

    on_bench(scenario)


def test_a_job_that_always_kills_its_engine_fails_and_says_so(on_bench: OnBench) -> None:
    """After three deaths without progress it fails, and the worker does the next job."""

    async def scenario(bench: Bench) -> None:
        bad, good = await bench.job(Conduct.DIES), await bench.job()
        async with bench.worker():
            failed, succeeded = await bench.ended(bad.id), await bench.ended(good.id)
        assert (failed.status, failed.attempt) == (JobStatus.FAILED, 3)
        assert failed.error is not None
        assert failed.error.code == "worker_died"
        assert "SIGKILL" in failed.error.message
        assert succeeded.status is JobStatus.SUCCEEDED

    on_bench(scenario)


def test_a_failure_that_the_engine_names_is_the_jobs(on_bench: OnBench) -> None:
    """Its code and message are recorded, at the first attempt."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.FAILS)
        async with bench.worker():
            ended = await bench.ended(job.id)
        assert (ended.status, ended.attempt) == (JobStatus.FAILED, 1)
        assert ended.error is not None
        assert ended.error.code == "out_of_memory"

    on_bench(scenario)


def test_an_engine_that_failed_for_an_unknown_reason_does_no_other_job(on_bench: OnBench) -> None:
    """Its GPU may be unusable to it from then on; the next job has a fresh one, and loses no attempt."""

    async def scenario(bench: Bench) -> None:
        async with bench.worker():
            await bench.ended((await bench.job()).id)
            pid = engine_pid()
            failed = await bench.ended((await bench.job(Conduct.BREAKS)).id)
            good = await bench.ended((await bench.job()).id)
            assert failed.error is not None
            assert (failed.attempt, failed.error.code) == (1, "internal_error")
            assert (good.status, good.attempt) == (JobStatus.SUCCEEDED, 1)
            assert engine_pid() != pid

    on_bench(scenario)


def test_a_job_of_more_processes_than_cores_fails(on_bench: OnBench) -> None:
    """Before any is started: each would load PyTorch, and the machine run out of memory."""

    async def scenario(bench: Bench) -> None:
        async with bench.worker():
            failed = await bench.ended((await bench.job(nproc=4096)).id)
            good = await bench.ended((await bench.job()).id)
        assert failed.error is not None
        assert (failed.attempt, failed.error.code) == (1, "invalid_settings")
        assert "4096 processes" in failed.error.message
        assert good.status is JobStatus.SUCCEEDED

    on_bench(scenario)


def test_a_job_without_its_model_fails(on_bench: OnBench) -> None:
    """A record that is gone, or a learngene that is not here, is named; no engine is needed to know it."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job()
        await bench.redis.delete(f"tleg:model:{bench.model.id}")
        async with bench.worker():
            ended = await bench.ended(job.id)
        assert ended.status is JobStatus.FAILED
        assert ended.error is not None
        assert ended.error.code == "model_not_found"

    on_bench(scenario)


def test_a_paused_job_is_saved_and_goes_on_when_resumed(on_bench: OnBench) -> None:
    """Pausing stops it soon with its state saved; resuming takes it up there."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.TRAINS_SLOWLY, epochs=1)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 1)
            await bench.jobs.pause(job.id)
            paused = await bench.until(job.id, lambda job: job.status is JobStatus.PAUSED)
            assert paused.resume_key == state_key(job.id, 1, paused.progress.step, "0" * 64)
            await asyncio.sleep(0.5)
            assert (await bench.jobs.get(job.id)).status is JobStatus.PAUSED
            await bench.jobs.resume(job.id)
            ended = await bench.ended(job.id)
        assert (ended.status, ended.attempt, ended.progress.step) == (JobStatus.SUCCEEDED, 2, 10)

    on_bench(scenario)


def test_a_cancelled_job_ends_at_once(on_bench: OnBench) -> None:
    """A running job stops at its next step, and what it had saved is deleted."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.TRAINS_SLOWLY, epochs=50)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 2)
            await bench.jobs.cancel(job.id)
            ended = await bench.ended(job.id)
            assert ended.status is JobStatus.CANCELLED
            await until(lambda: not (bench.work_dir / "objects" / "jobs" / job.id).exists())

    on_bench(scenario)


def test_draining_hands_the_job_over_at_once(on_bench: OnBench) -> None:
    """The other worker has it long before the lease would lapse, and goes on from the saved state."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.TRAINS_SLOWLY, epochs=2)
        async with bench.worker(heartbeat_s=30.0) as first:
            running = await bench.until(job.id, lambda job: job.progress.step >= 1)
            async with bench.worker(heartbeat_s=30.0):
                await asyncio.sleep(2)  # for its engine
                first.drain()
                other = await bench.until(job.id, lambda job: job.attempt == 2 and job.status is JobStatus.RUNNING, within_s=15)
                assert other.worker != running.worker
                ended = await bench.ended(job.id)
        assert (ended.status, ended.attempt, ended.deaths) == (JobStatus.SUCCEEDED, 2, 0)

    on_bench(scenario)


def test_draining_hands_over_a_job_that_was_just_being_claimed(on_bench: OnBench) -> None:
    """The answer comes late, and the job does not wait for its lease to lapse."""

    async def scenario(bench: Bench) -> None:
        async with bench.worker() as worker:
            claim, claimed = worker._jobs.claim, asyncio.Event()

            async def late(job_id: str, name: str) -> Claim | None:
                found = await claim(job_id, name)
                claimed.set()
                await asyncio.sleep(0.5)  # a slow network
                return found

            worker._jobs.claim = late  # type: ignore[method-assign]
            job = await bench.job()
            await claimed.wait()
        left = await bench.jobs.get(job.id)
        assert (left.status, left.attempt, left.deaths) == (JobStatus.QUEUED, 1, 0)

    on_bench(scenario)


def test_draining_does_not_wait_for_an_engine_for_ever(on_bench: OnBench) -> None:
    """One that does not stop is killed after the time to drain, and its job is queued for another."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.STOPS_FOR_NOBODY, epochs=500)
        async with bench.worker(drain_timeout_s=1):
            await bench.until(job.id, lambda job: job.progress.step >= 3)
        left = await bench.jobs.get(job.id)
        assert (left.status, left.deaths) == (JobStatus.QUEUED, 0)

    on_bench(scenario)


def test_a_worker_whose_engine_does_not_start_takes_no_job(on_bench: OnBench) -> None:
    """The job waits in the queue, for a worker that can do it."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job()
        async with bench.worker(command=lambda _socket, _nproc: ["false"]):
            await asyncio.sleep(1)
            assert (await bench.jobs.get(job.id)).status is JobStatus.QUEUED
            async with bench.worker():
                assert (await bench.ended(job.id)).status is JobStatus.SUCCEEDED

    on_bench(scenario)


def test_a_full_object_store_fails_the_job_and_not_the_worker(on_bench: OnBench) -> None:
    """The job says so; the worker does the next one when there is room again."""

    async def scenario(bench: Bench) -> None:
        jobs = bench.work_dir / "objects" / "jobs"
        jobs.parent.mkdir()
        jobs.write_text("a file where a folder should be")
        async with bench.worker():
            ended = await bench.ended((await bench.job()).id)
            assert ended.status is JobStatus.FAILED
            assert ended.error is not None
            assert ended.error.code == "storage_failed"
            jobs.unlink()
            assert (await bench.ended((await bench.job()).id)).status is JobStatus.SUCCEEDED

    on_bench(scenario)


@pytest.mark.slow
def test_a_worker_outlives_an_absent_redis(on_bench: OnBench) -> None:
    """While Redis does not answer, longer than the lease, the engine goes on; then the same attempt ends the job."""

    async def scenario(bench: Bench) -> None:
        pid = (await bench.redis.info("server"))["process_id"]
        job = await bench.job(Conduct.TRAINS_SLOWLY, epochs=3)
        async with bench.worker(), bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 1)
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(2 * HEARTBEAT_S)
            finally:
                os.kill(pid, signal.SIGCONT)
            ended = await bench.ended(job.id)
        assert (ended.status, ended.attempt, ended.progress.step) == (JobStatus.SUCCEEDED, 1, 30)

    on_bench(scenario)


@pytest.mark.slow
def test_a_restarted_redis_loses_nothing(on_bench: OnBench) -> None:
    """A Redis that was killed is started again by its owner; the attempt goes on and ends the job, and new ones follow."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.TRAINS_SLOWLY, epochs=2)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 1)
            os.kill((await bench.redis.info("server"))["process_id"], signal.SIGKILL)
            await asyncio.sleep(0.3)
            ended = await bench.ended(job.id)
            assert (ended.status, ended.attempt, ended.progress.step) == (JobStatus.SUCCEEDED, 1, 20)
            assert (await bench.ended((await bench.job()).id)).status is JobStatus.SUCCEEDED

    on_bench(scenario)


def test_the_engine_of_an_attempt_that_lost_its_job_is_killed(on_bench: OnBench) -> None:
    """It neither goes on nor leaves a state behind; the worker does the next job with a fresh one."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job(Conduct.TRAINS_SLOWLY, epochs=500)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step >= 1)
            pid = engine_pid()
            taken = None
            while taken is None:  # a report may renew the lease in between
                await bench.redis.hset(f"tleg:job:{job.id}", "lease", "1")
                taken = await bench.jobs.claim(job.id, "another worker")
            await bench.jobs.cancel(job.id)
            await bench.jobs.release(taken, JobStatus.CANCELLED)
            assert (await bench.ended((await bench.job()).id)).status is JobStatus.SUCCEEDED
            assert engine_pid() != pid
            assert not (bench.work_dir / "objects" / "jobs" / job.id).exists()

    on_bench(scenario)


@pytest.mark.parametrize("found_by", ["message", "sweep"])
def test_no_state_is_left_of_a_job_that_died_with_its_worker(on_bench: OnBench, found_by: str) -> None:
    """Who died over a job for the last time cannot delete what it had saved; the worker that finds out does."""

    async def scenario(bench: Bench) -> None:
        job = await bench.job()
        claim = await bench.jobs.claim(job.id, "a worker that died")
        assert claim is not None
        state = bench.work_dir / "objects" / state_key(job.id, 1, 1, "0" * 64)
        state.parent.mkdir(parents=True)
        state.write_text("a state")
        await bench.redis.hset(f"tleg:job:{job.id}", mapping={"lease": "1", "deaths": "2"})
        if found_by == "sweep":
            await bench.redis.delete(keys.queue_list(Lane.TRAININGS), keys.queue_messages(Lane.TRAININGS))
        async with bench.worker():
            assert (await bench.ended(job.id)).status is JobStatus.FAILED
            await until(lambda: not state.parent.exists())

    on_bench(scenario)
