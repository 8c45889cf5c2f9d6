"""Engines that are killed: what the next one makes of the job is what an undisturbed one makes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import psutil
import pytest

from service.worker.protocol import FineTuneRun, Finished, Saved, Stepped, Stopped, TrainingRun
from tests.engine.conftest import Scene, again
from tests.engine.driver import Engine, EngineGoneError


def finish_despite_kills(start: Callable[..., Engine], run: FineTuneRun | TrainingRun, delays_s: list[float]) -> Finished:
    """Kill the engine after each of the delays, go on from the last saved state each time, and return the end's report."""
    key = None
    for attempt, delay_s in enumerate(delays_s, start=1):
        engine = start()
        engine.order(again(run, key, attempt=attempt))
        time.sleep(delay_s)
        reports = engine.kill()
        key = next((report.key for report in reversed(reports) if isinstance(report, Saved)), key)
        if isinstance(reports[-1] if reports else None, Finished):
            return reports[-1]
    with start() as engine:
        return engine.do(again(run, key, attempt=len(delays_s) + 1))[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("checkpoint_s", [0.0, 0.05])
def test_a_job_that_is_killed_at_random_moments_ends_in_the_same_weights(
    start: Callable[..., Engine], scene: Scene, checkpoint_s: float
) -> None:
    """With every source of randomness: order, shift, mixup, cutmix, erasing and stochastic depth."""
    options = {"epochs": 12, "mixup": 0.4, "cutmix": 0.5, "random_erasing": 0.3, "drop_path": 0.2, "layer_decay": 0.8}
    with start() as engine:
        undisturbed = engine.do(scene.run(**options))[-1]
    rng = random.Random(int(checkpoint_s * 100))
    killed = finish_despite_kills(
        start, scene.run(checkpoint_s=checkpoint_s, **options), [rng.uniform(0.0, 0.6) for _ in range(3)]
    )
    assert killed.weights.sha256 == undisturbed.weights.sha256


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_together_and_go_on_together(start: Callable[..., Engine], scene: Scene) -> None:
    """Stopped in between and gone on with, they end in the weights of an undisturbed pair."""
    with start(nproc=2) as engine:
        undisturbed = engine.do(scene.run(nproc=2, epochs=20))[-1]
        assert isinstance(undisturbed, Finished)
        run = scene.run(nproc=2, epochs=20)
        engine.order(run)
        engine.until(Stepped)
        engine.stop(run.job, save=True)
        saved = [report for report in engine.until(Stopped) if isinstance(report, Saved)]
        resumed = engine.do(again(run, saved[0].key))[-1]
    assert resumed.weights.sha256 == undisturbed.weights.sha256


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dead_process_of_two_ends_the_engine(start: Callable[..., Engine], scene: Scene) -> None:
    """Nothing hangs: the connection ends within some seconds, and no process is left."""
    engine = start(nproc=2)
    engine.order(scene.run(nproc=2, epochs=10_000))
    engine.until(Stepped)
    ranks = psutil.Process(engine.process.pid).children(recursive=True)
    assert len(ranks) == 2
    ranks[1].kill()
    with pytest.raises(EngineGoneError):
        engine.until(Finished)
    engine.process.wait(30)
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
    engine.hang_up()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_process_outlives_a_killed_launcher(start: Callable[..., Engine]) -> None:
    """The kernel ends the processes with torchrun."""
    engine = start(nproc=2)
    ranks = psutil.Process(engine.process.pid).children(recursive=True)
    engine.kill()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
