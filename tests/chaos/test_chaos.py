"""Whatever is killed, stopped or cut off at whatever moment: the job ends by itself, once, with an undisturbed run's weights.

The moments are drawn from a seed, over the whole length of a job.
"""

from __future__ import annotations

import random
import signal
import time

import pytest

from service.domain.errors import JobStateError
from service.domain.job import JobStatus
from tests.chaos.ground import HEARTBEAT_S, Ground, engine_of, kill, wait_until
from tests.processes import children_with, is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOB_S = 4.0  # about how long a job takes
SEEDS = range(3)
KILLS = 20  # among five hundred jobs; then they may finish, however slow the machine is


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_of_the_engine(ground: Ground, undisturbed: str, seed: int) -> None:
    """Each time the worker starts another, and the job goes on from its last state."""
    moments = random.Random(seed)
    ground.have_workers(2)
    job_id = ground.create()
    for _ in range(2):
        ground.wait(job_id, lambda job: job.status is not JobStatus.QUEUED)
        time.sleep(moments.uniform(0, JOB_S / 2))
        job = ground.get(job_id)
        engine = ground.worker_of(job).engine() if job.worker is not None else None
        if engine is not None:
            kill(engine.pid)
    assert ground.weights(ground.ended(job_id)) == undisturbed
    wait_until(lambda: ground.states_left(job_id) == [], within_s=10)


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_of_the_worker(ground: Ground, undisturbed: str, seed: int) -> None:
    """Its engine dies with it, and another worker has the job within twice the heartbeat's limit."""
    moments = random.Random(seed)
    ground.have_workers(2)
    job_id = ground.create()
    worker = ground.worker_of(ground.running(job_id))
    time.sleep(moments.uniform(0, JOB_S * 0.7))
    engine = worker.engine()
    killed_at = time.monotonic()
    kill(worker.pid)
    worker.process.wait()
    assert engine is not None
    wait_until(lambda: not is_running(engine.pid), within_s=10)
    job = ground.wait(job_id, lambda job: job.attempt == 2 or job.status.is_terminal)
    assert time.monotonic() - killed_at < 2 * HEARTBEAT_S
    assert ground.weights(ground.ended(job_id)) == undisturbed
    assert job.worker is None or ground.worker_of(job) is not worker


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_of_the_api(ground: Ground, undisturbed: str, seed: int) -> None:
    """The worker goes on with the Redis that is left, stands its exchange for a new one, and ends the job."""
    moments = random.Random(seed)
    ground.have_workers(1)
    job_id = ground.create()
    time.sleep(moments.uniform(0, JOB_S))
    ground.server.stop(signal_number=signal.SIGKILL)
    time.sleep(moments.uniform(0, 1))
    ground.server.start()
    job = ground.ended(job_id)
    assert ground.weights(job) == undisturbed
    assert job.attempt == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_of_redis(ground: Ground, undisturbed: str, seed: int) -> None:
    """Its owner starts it again on the same files; the same attempt ends the job."""
    moments = random.Random(seed)
    ground.have_workers(2)
    job_id = ground.create()
    for _ in range(2):
        time.sleep(moments.uniform(0, JOB_S / 2))
        kill(ground.server.redis_pid())
    job = ground.ended(job_id)
    assert ground.weights(job) == undisturbed


@pytest.mark.parametrize("seed", SEEDS)
def test_redis_away_for_longer_than_the_lease(ground: Ground, seed: int) -> None:
    """Nobody takes the job from the worker that goes on with it, though its lease had lapsed when Redis came back."""
    moments = random.Random(seed)
    ground.have_workers(2)
    job_id = ground.create(epochs=60)
    ground.running(job_id)
    time.sleep(moments.uniform(0, JOB_S))
    redis = ground.server.redis_pid()
    kill(redis, signal.SIGSTOP)
    time.sleep(HEARTBEAT_S * moments.uniform(1.1, 1.6))
    kill(redis, signal.SIGCONT)
    job = ground.ended(job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stopped_worker_that_comes_back_is_refused(ground: Ground, undisturbed: str, seed: int) -> None:
    """Another has taken its job over; what the zombie still says is not written, and it works on as a worker of new jobs."""
    moments = random.Random(seed)
    ground.have_workers(2)
    taken_over = False
    while not taken_over:
        job_id = ground.create()
        zombie = ground.worker_of(ground.running(job_id))
        said_before = zombie.log.read_text().count("attempt_fenced")
        time.sleep(moments.uniform(0, JOB_S / 2))
        kill(zombie.pid, signal.SIGSTOP)
        job = ground.wait(job_id, lambda job: job.attempt == 2 or job.status.is_terminal)
        taken_over = job.attempt == 2
        time.sleep(moments.uniform(0, JOB_S) if taken_over else 0)  # else it had been done by then
        kill(zombie.pid, signal.SIGCONT)
    assert ground.weights(ground.ended(job_id)) == undisturbed
    results = [
        event
        for event in ground.ask(lambda jobs: jobs.events(job_id, after=0, limit=10_000))
        if event.facts.get("status") == "succeeded"
    ]
    assert len(results) == 1
    wait_until(lambda: zombie.log.read_text().count("attempt_fenced") > said_before)
    wait_until(zombie.is_ready)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stopped_engine(ground: Ground, undisturbed: str, seed: int) -> None:
    """It is killed after the heartbeat's limit, and the job goes on."""
    moments = random.Random(seed)
    ground.have_workers(1)
    killed = False
    while not killed:
        job_id = ground.create()
        engine = ground.worker_of(ground.running(job_id)).engine()
        assert engine is not None
        time.sleep(moments.uniform(0, JOB_S * 0.6))
        kill(engine.pid, signal.SIGSTOP)
        assert ground.weights(ground.ended(job_id)) == undisturbed
        killed = not is_running(engine.pid)
        kill(engine.pid, signal.SIGCONT)  # where it still is, it had done the job by then


@pytest.mark.parametrize("seed", SEEDS)
def test_drain(ground: Ground, undisturbed: str, seed: int) -> None:
    """SIGTERM: the job is saved and with another worker long before its lease ends; the worker exits with 0."""
    moments = random.Random(seed)
    ground.have_workers(2)
    job_id = ground.create()
    worker = ground.worker_of(ground.running(job_id))
    time.sleep(moments.uniform(0, JOB_S / 2))
    told_at = time.monotonic()
    kill(worker.pid, signal.SIGTERM)
    job = ground.wait(job_id, lambda job: job.attempt == 2 or job.status.is_terminal)
    assert time.monotonic() - told_at < HEARTBEAT_S
    assert worker.process.wait(20) == 0
    assert job.deaths == 0
    assert ground.weights(ground.ended(job_id)) == undisturbed


@pytest.mark.parametrize("seed", SEEDS)
def test_pauses_and_resumptions(ground: Ground, undisturbed: str, seed: int) -> None:
    """A job that is paused and resumed at any moment ends as if it had not been."""
    moments = random.Random(seed)
    ground.have_workers(1)
    job_id = ground.create()
    try:
        for _ in range(3):
            time.sleep(moments.uniform(0, JOB_S / 3))
            ground.ask(lambda jobs: jobs.pause(job_id))
            if moments.random() < 0.7:  # else it is withdrawn at once
                ground.wait(job_id, lambda job: job.status is JobStatus.PAUSED or job.status.is_terminal)
            ground.ask(lambda jobs: jobs.resume(job_id))
    except JobStateError:  # it may end between any two lines above, and takes no more orders then
        assert ground.get(job_id).status.is_terminal
    assert ground.weights(ground.ended(job_id)) == undisturbed


@pytest.mark.parametrize("seed", SEEDS)
def test_cancellation(ground: Ground, seed: int) -> None:
    """A job that is cancelled at any moment ends soon, as cancelled, and leaves no state; the worker does the next."""
    moments = random.Random(seed)
    (worker,) = ground.have_workers(1)[:1]
    job_id = ground.create(epochs=500)
    time.sleep(moments.uniform(0, JOB_S))
    ground.ask(lambda jobs: jobs.cancel(job_id))
    cancelled_at = time.monotonic()
    assert ground.ended(job_id).status is JobStatus.CANCELLED
    assert time.monotonic() - cancelled_at < 10
    wait_until(lambda: ground.states_left(job_id) == [], within_s=10)
    assert ground.ended(ground.create(epochs=2)).status is JobStatus.SUCCEEDED
    assert worker.process.poll() is None


def test_no_process_outlives_its_server() -> None:
    """After SIGKILL of `tleg serve` its workers end by themselves, and their engines with them."""
    with Ground.make(TLEG_WORKERS="1") as own:
        wait_until(lambda: "engine_ready" in own.server.log.read_text())
        (worker,) = children_with("worker", own.server.pid)
        engine = engine_of(worker.pid)
        assert engine is not None
        own.server.stop(signal_number=signal.SIGKILL)
        wait_until(lambda: not is_running(worker.pid) and not is_running(engine.pid), within_s=20)
        own.server.start()


@pytest.mark.timeout(1200)
def test_five_hundred_jobs_on_two_workers_that_are_being_killed(ground: Ground) -> None:
    """Exactly five hundred results: no job is lost, none fails, none succeeds twice. Workers die while they start, too."""
    moments = random.Random(0)
    ground.have_workers(2)
    job_ids = {ground.create(epochs=1, warmup_epochs=0, seed=number, holdout=0.5, save_every_epochs=1) for number in range(500)}
    deadline = time.monotonic() + 1100
    kills = succeeded = 0
    while succeeded < len(job_ids):
        assert time.monotonic() < deadline, f"{succeeded} jobs, {kills} kills; see {ground.folder}"
        time.sleep(moments.uniform(1, 8))
        if kills < KILLS:
            victim = moments.choice([worker for worker in ground.workers if worker.process.poll() is None])
            engine = victim.engine()
            kill(engine.pid if engine is not None and moments.random() < 0.5 else victim.pid)
            kills += 1
            time.sleep(0.2)
        while sum(worker.process.poll() is None for worker in ground.workers) < 2:
            ground.start_worker(ready=False)
        page = ground.ask(lambda jobs: jobs.page(limit=1000, after=None, status=JobStatus.SUCCEEDED))
        succeeded = len(job_ids & {job.id for job in page.jobs})
    assert kills >= KILLS / 4, "the jobs were done before anything much had died"
    for job_id in job_ids:
        events = ground.ask(lambda jobs, job_id=job_id: jobs.events(job_id, after=0, limit=1000))
        assert sum(event.facts.get("status") == "succeeded" for event in events) == 1
