"""Trainings in the supervisor: the learngene is published under the fence before the job succeeds, or the job says why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.domain.errors import FencedError
from service.domain.job import Job, JobStatus, TrainingSpec
from service.domain.model import Model
from service.storage.dataset_store import DatasetStore
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.learngene_store import LearngeneStore
from service.storage.object_store import ObjectStore, state_folder, trained_learngene_key
from service.worker.assignment import Stores, TrainingAssignment, assignment_of
from service.worker.delivery import Delivery
from service.worker.protocol import Finished, TrainingRun, Weights
from tests.service import tiny
from tests.worker.conftest import DATASET_ID, Bench
from tests.worker.fake_engine import Conduct
from tleg_core.canonical import sha256_hex
from tleg_core.family import Family, Variation
from tleg_core.recipe import Member

OnBench = Callable[[Callable[[Bench], Awaitable[None]]], None]


async def queued(
    bench: Bench, name: str = "bands", *, conduct: Conduct = Conduct.TRAINS, replace: bool = False, teacher: bool = False
) -> Job:
    """Queue a training that the engine treats so."""
    spec = TrainingSpec(
        name=name,
        dataset=DATASET_ID,
        teacher=bench.model.id if teacher else None,
        licence="MIT",
        replace=replace,
        settings={"seed": int(conduct), "epochs": 2, "nproc": 1},
        requested={},
    )
    return (await bench.jobs.create(spec))[0]


def stores_of(bench: Bench) -> Stores:
    """Return the stores as a worker opens them."""
    objects = ObjectStore(bench.settings.object_store_url)
    registry = LearngeneRegistry(bench.catalogue, LearngeneStore(bench.redis), objects, serving=False)
    return Stores(
        jobs=bench.jobs, models=bench.models, datasets=DatasetStore(bench.redis), objects=objects, learngenes=registry
    )


async def published(redis: Redis) -> dict[str, str]:
    """Return the digests of the published learngenes by name."""
    return {record.name: record.digest for record in (await LearngeneStore(redis).listing()).learngenes}


def test_a_training_ends_in_a_published_learngene(on_bench: OnBench) -> None:
    """The job's result is its digest, the file is the registry's own, and nothing else is left of the job."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench, teacher=True)
        async with bench.worker():
            ended = await bench.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended
        expected = tiny.learngene("bands").digest
        assert ended.result == expected
        assert await published(bench.redis) == {"bands": expected}
        epochs = await bench.events(job.id, "epoch")
        assert [event.facts["epoch"] for event in epochs] == [1, 2]
        assert await bench.events(job.id, "checkpoint") == []
        left = ObjectStore(bench.settings.object_store_url).local_path(state_folder(job.id))
        assert left is not None
        assert not left.exists()

    on_bench(scenario)


def test_a_training_whose_name_was_taken_meanwhile_fails_with_that(on_bench: OnBench, tmp_path: Path) -> None:
    """Unless it may replace what has the name."""

    async def scenario(bench: Bench) -> None:
        other = tiny.learngene("other").with_description(name="bands")
        registry = stores_of(bench).learngenes
        for replace in (False, True):
            job = await queued(bench, replace=replace)
            other.write(tmp_path / "other")
            await registry.publish(tmp_path / "other", publication=f"by-hand-{int(replace)}", replace=True)
            async with bench.worker():
                ended = await bench.ended(job.id)
            if replace:
                assert ended.status is JobStatus.SUCCEEDED, ended
                assert await published(bench.redis) == {"bands": tiny.learngene("bands").digest}
            else:
                assert (ended.status, ended.error and ended.error.code) == (JobStatus.FAILED, "learngene_taken")
                assert await published(bench.redis) == {"bands": other.digest}

    on_bench(scenario)


@pytest.mark.parametrize("command", ["cancel", "pause"])
def test_a_training_obeys_its_owner(on_bench: OnBench, command: str) -> None:
    """Cancelled it publishes nothing and its name is free; paused it goes on later."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench, conduct=Conduct.TRAINS_SLOWLY)
        async with bench.worker():
            await bench.until(job.id, lambda job: job.progress.step > 1)
            if command == "cancel":
                await bench.jobs.cancel(job.id)
                assert (await bench.ended(job.id)).status is JobStatus.CANCELLED
            else:
                await bench.jobs.pause(job.id)
                await bench.until(job.id, lambda job: job.status is JobStatus.PAUSED)
        assert await published(bench.redis) == {}
        if command == "cancel":
            assert (await queued(bench)).id != job.id

    on_bench(scenario)


def test_models_that_are_anchors_go_to_the_engine_with_their_learngenes(on_bench: OnBench, tmp_path: Path) -> None:
    """Those of a published learngene with the key of its file; the server's own need none."""

    async def scenario(bench: Bench) -> None:
        stores = stores_of(bench)
        other = tiny.learngene("other", class_names=tiny.CLASS_NAMES)
        other.write(tmp_path / "other")
        await stores.learngenes.publish(tmp_path / "other", publication="by-hand", replace=False)
        family = Family(other)
        published_model = Model.of(family, family.recipe(Member(depth=3), Variation()))
        await stores.models.add(published_model)
        anchors = {"small": bench.model.id, "large": published_model.id}
        settings = {"seed": int(Conduct.TRAINS), "epochs": 2, "nproc": 1, "anchors": anchors}
        spec = TrainingSpec(
            name="bands", dataset=DATASET_ID, teacher=None, licence="MIT", replace=False, settings=settings, requested={}
        )
        job = (await bench.jobs.create(spec))[0]
        claim = await bench.jobs.claim(job.id, "a worker")
        assert claim is not None
        order = (await assignment_of(claim, stores)).order(1.0)
        assert isinstance(order, TrainingRun)
        assert [anchor.name for anchor in order.anchors] == ["small", "large"]
        assert [anchor.model["id"] for anchor in order.anchors] == list(anchors.values())
        keys = [anchor.learngene_key for anchor in order.anchors]
        assert keys[0] is None
        assert keys[1] is not None
        stores.objects.fetch_file(keys[1], tmp_path / "fetched")
        assert (tmp_path / "fetched").read_bytes() == bytes(other.content)

    on_bench(scenario)


def test_an_attempt_that_lost_its_job_publishes_nothing(on_bench: OnBench, tmp_path: Path) -> None:
    """It comes back with its result when the job was cancelled under another attempt."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench)
        claim = await bench.jobs.claim(job.id, "a worker")
        assert claim is not None
        stores = stores_of(bench)
        assignment = await assignment_of(claim, stores)
        assert isinstance(assignment, TrainingAssignment)
        order = assignment.order(1.0)
        assert isinstance(order, TrainingRun)
        assert (order.name, order.licence, order.teacher) == ("bands", "MIT", None)
        content = bytes(tiny.learngene("bands").content)
        (tmp_path / "file").write_bytes(content)
        key = trained_learngene_key(job.id, sha256_hex(content))
        stores.objects.put_file(key, tmp_path / "file")
        await bench.jobs.died(claim, "its connection was cut")
        await bench.jobs.cancel(job.id)
        delivery = Delivery(claim, bench.jobs, stores.objects)
        delivery.assignment = assignment
        weights = Weights(key=key, sha256=sha256_hex(content), size_bytes=len(content), images=1)
        delivery.put(Finished(job=job.id, epoch=1, step=1, metrics={}, weights=weights))
        with pytest.raises(FencedError):
            await asyncio.wait_for(delivery.run(), 20)
        assert await published(bench.redis) == {}

    on_bench(scenario)


def test_a_learngene_that_is_gone_from_the_object_store_is_trained_again(on_bench: OnBench) -> None:
    """The attempt counts as dead, not the job as failed: another one makes the same file."""

    async def scenario(bench: Bench) -> None:
        job = await queued(bench)
        claim = await bench.jobs.claim(job.id, "a worker")
        assert claim is not None
        stores = stores_of(bench)
        delivery = Delivery(claim, bench.jobs, stores.objects)
        delivery.assignment = await assignment_of(claim, stores)
        weights = Weights(key=trained_learngene_key(job.id, "0" * 64), sha256="0" * 64, size_bytes=1, images=1)
        delivery.put(Finished(job=job.id, epoch=1, step=1, metrics={}, weights=weights))
        await asyncio.wait_for(delivery.run(), 20)
        again = await bench.jobs.get(job.id)
        assert (again.status, again.deaths) == (JobStatus.QUEUED, 1)

    on_bench(scenario)
