"""Exports in the supervisor: the order that the engine gets, what the job says of the file, and its owner's commands."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.domain.export import ExportFile, ExportFormat
from service.domain.job import ExportSpec, Job, JobStatus
from service.storage.object_store import ObjectStore, export_key
from service.worker.assignment import assignment_of
from service.worker.protocol import ExportRun
from tests.worker.conftest import Bench
from tests.worker.test_trainings import stores_of
from tleg_core.canonical import sha256_hex

OnBench = Callable[[Callable[[Bench], Awaitable[None]]], None]


async def queued(bench: Bench, model: str | None = None) -> Job:
    """Queue an export of the bench's model."""
    return (await bench.jobs.create(ExportSpec(model=model or bench.model.id, format=ExportFormat.ONNX)))[0]


def test_an_export_ends_in_a_file_that_the_job_names(on_bench: OnBench) -> None:
    """Digest and length; no data set is counted as used, and nothing else is left of the job."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench)
        async with bench.worker():
            ended = await bench.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended
        content = f"{bench.model.id} as onnx".encode()
        assert ended.result == str(ExportFile(sha256=sha256_hex(content), size_bytes=len(content)))
        assert (ended.progress.step, ended.progress.steps, ended.progress.metrics) == (2, 2, {"deviation": 0.5})
        objects = ObjectStore(bench.settings.object_store_url)
        stored = objects.local_path(export_key(bench.model.id, sha256_hex(content), ".onnx"))
        assert stored is not None
        assert stored.read_bytes() == content
        assert not [key async for key in bench.redis.scan_iter("tleg:dataset:*:jobs")]

    on_bench(scenario)


@pytest.mark.parametrize("age_s", [0, 120])
def test_the_oldest_export_makes_room_for_another(on_bench: OnBench, age_s: float) -> None:
    """With room for one alone, unless it is so young that another worker may not have recorded it yet."""

    async def scenario(bench: Bench) -> None:
        objects = ObjectStore(bench.settings.object_store_url)

        def place(job: Job) -> Path:
            assert isinstance(job.spec, ExportSpec)
            file = ExportFile.parse(job.result or "")
            path = objects.local_path(export_key(bench.model.id, file.sha256, job.spec.format.suffix))
            assert path is not None
            return path

        async with bench.worker(max_exported_bytes=50):
            places: list[Path] = []
            for export_format in ExportFormat:
                for before in places:
                    os.utime(before, (time.time() - age_s, time.time() - age_s))
                job, _ = await bench.jobs.create(ExportSpec(model=bench.model.id, format=export_format))
                places.append(place(await bench.ended(job.id)))
        assert [path.exists() for path in places] == [age_s == 0, True]

    on_bench(scenario)


def test_the_order_has_what_the_file_says_of_itself(on_bench: OnBench) -> None:
    """The model's record, its classes and its licence."""

    async def scenario(bench: Bench) -> None:
        claim = await bench.jobs.claim((await queued(bench)).id, "a worker")
        assert claim is not None
        order = (await assignment_of(claim, stores_of(bench))).order(1.0)
        assert isinstance(order, ExportRun)
        usage = bench.catalogue.usage(bench.model)
        assert (order.model, order.format) == (bench.model.to_json(), "onnx")
        assert (order.class_names, order.licence, order.learngene_key) == (list(usage.class_names), usage.licence, None)

    on_bench(scenario)


def test_an_export_of_no_model_fails_by_name(on_bench: OnBench) -> None:
    """It does not come to an order."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench, "m-" + "0" * 32)
        async with bench.worker():
            ended = await bench.ended(job.id)
        assert (ended.status, ended.error and ended.error.code) == (JobStatus.FAILED, "model_not_found")

    on_bench(scenario)


@pytest.mark.parametrize("command", ["cancel", "pause"])
def test_an_export_obeys_its_owner(on_bench: OnBench, command: str) -> None:
    """Paused, it begins again later."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.status is JobStatus.RUNNING)
            if command == "cancel":
                await bench.jobs.cancel(job.id)
                assert (await bench.ended(job.id)).status is JobStatus.CANCELLED
                return
            await bench.jobs.pause(job.id)
            await bench.until(job.id, lambda job: job.status is JobStatus.PAUSED)
            await bench.jobs.resume(job.id)
            ended = await bench.ended(job.id)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2)

    on_bench(scenario)
