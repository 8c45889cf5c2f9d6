"""Engines that are killed: what the next one makes of the job is what an undisturbed one makes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from service.worker.protocol import Finished, Run, Saved
from tests.engine.conftest import Scene, again
from tests.engine.driver import Engine


def finish_despite_kills(start: Callable[..., Engine], run: Run, delays_s: list[float]) -> Finished:
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
