"""An export whose engine or worker is killed in the middle gives the file of an undisturbed one, and leaves no other."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import httpx
import pytest

from service.domain.job import JobStatus
from service.storage.object_store import EXPORTS_FOLDER
from tests.chaos.ground import Ground, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ask(ground: Ground) -> httpx.Response:
    """Ask for the model's program."""
    path = f"/models/{ground.model.id}/weights?format=torch-export"
    return httpx.get(f"{ground.server.url}{path}", timeout=60)


def begun(ground: Ground) -> str:
    """Ask for the file where it is not; return the id of the job that makes it."""
    answer = ask(ground)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def files(ground: Ground) -> list[Path]:
    """Return what lies among the exports."""
    return [path for path in (ground.server.data_dir / "objects" / EXPORTS_FOLDER).rglob("*") if path.is_file()]


def made(ground: Ground, job_id: str) -> str:
    """Wait for the job; return the sha256 of the file as it is sent, and delete the file, the only one there is."""
    job = ground.ended(job_id)
    assert job.status is JobStatus.SUCCEEDED, job
    answer = ask(ground)
    assert answer.status_code == 200, answer.text
    sha256 = hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["ETag"] == f'"{sha256}"'
    (file,) = files(ground)
    assert file.read_bytes() == answer.content
    file.unlink()
    return sha256


def test_kills_in_the_middle_of_an_export(ground: Ground) -> None:
    """First of the engine, then of the worker, at drawn moments; there is nothing to go on from, so each begins anew."""
    moments = random.Random(6)
    ground.have_workers(2)
    undisturbed = made(ground, begun(ground))
    begun_at = time.monotonic()
    assert made(ground, begun(ground)) == undisturbed
    took_s = time.monotonic() - begun_at
    attempts = 0
    for _ in range(3):
        job_id = begun(ground)
        for of_the_worker in (False, True):
            job = ground.wait(job_id, lambda job: job.worker is not None or job.status.is_terminal)
            time.sleep(moments.uniform(0, took_s))
            if job.worker is not None:
                worker = ground.worker_of(job)
                engine = worker.engine()
                kill(worker.pid if of_the_worker or engine is None else engine.pid)
        assert made(ground, job_id) == undisturbed
        attempts += ground.get(job_id).attempt
        ground.have_workers(2)
    assert attempts > 3, "nothing was killed in the middle of its work"
