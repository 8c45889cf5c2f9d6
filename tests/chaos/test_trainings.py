"""A learngene whose training is killed in the middle is the learngene of an undisturbed training, and is served."""

from __future__ import annotations

import random
import time
from typing import Any

import httpx
import pytest

from service.domain.job import Job, JobStatus
from tests.chaos.ground import DATASET_ID, Ground, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "noise"
CONFIG: dict[str, dict[str, Any]] = {
    "network": {"embed_dim": 16, "num_heads": 2, "img_size": 8, "patch_size": 4},
    "depths": {"rule": "sandwich", "train": 4, "train_min": 2, "offer_max": 5},
    "training": {"epochs": 12, "batch_size": 8, "lr": 1e-3, "drop_path": 0.1, "ema_decay": 0.9, "precision": "float32"},
    "augmentation": {"shift": 1, "mixup_alpha": 0.2, "random_erasing": 0.1},
}
"""Every source of chance that a training has; 144 updates of three depths each, a few seconds."""


def train(ground: Ground) -> str:
    """Queue a training; return its id."""
    answer = httpx.post(
        f"{ground.server.url}/learngenes/trainings", json={"name": NAME, "dataset": DATASET_ID, "config": CONFIG}, timeout=30
    )
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def served(ground: Ground, job: Job) -> str:
    """Return the digest of the job's learngene as the server says it, and delete the learngene there."""
    assert job.status is JobStatus.SUCCEEDED, job
    path = f"{ground.server.url}/learngenes/{NAME}"
    learngene = httpx.get(path, timeout=30).json()
    assert learngene["digest"] == job.result
    assert {member["depth"] for member in learngene["members"]} == {1, 2, 3, 4, 5}
    measured = [(name, entry["images"]) for member in learngene["members"] for name, entry in member["accuracy"].items()]
    assert measured == 5 * [(f"noise (held out, {DATASET_ID[:11]})", 24)]
    assert httpx.delete(path, timeout=30).status_code == 204
    assert httpx.get(path, timeout=30).status_code == 404
    return str(learngene["digest"])


def test_kill_of_the_engine_in_the_middle_of_a_training(ground: Ground) -> None:
    """Twice, at drawn moments: each time another engine goes on from the last state, to the same bytes."""
    moments = random.Random(4)
    ground.have_workers(1)
    begun = time.monotonic()
    undisturbed = served(ground, ground.ended(train(ground)))
    took_s = time.monotonic() - begun
    job_id = train(ground)
    for _ in range(2):
        ground.running(job_id)
        time.sleep(moments.uniform(0, took_s / 4))
        job = ground.get(job_id)
        engine = ground.worker_of(job).engine() if job.worker is not None else None
        if engine is not None:
            kill(engine.pid)
    job = ground.ended(job_id)
    assert job.attempt > 1
    assert served(ground, job) == undisturbed
    wait_until(lambda: ground.states_left(job_id) == [], within_s=10)
