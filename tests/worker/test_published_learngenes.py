"""Jobs on models whose learngene was published after the worker's start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from service.domain.job import JobStatus
from service.domain.model import Model
from service.storage.dataset_store import DatasetStore
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.learngene_store import LearngeneStore
from service.storage.object_store import ObjectStore
from service.worker.assignment import FineTuneAssignment, Stores, assignment_of
from tests.service import tiny
from tests.worker.conftest import Bench
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene

OnBench = Callable[[Callable[[Bench], Awaitable[None]]], None]


def registry(bench: Bench, *, serving: bool = True) -> LearngeneRegistry:
    """Return a process's registry."""
    objects = ObjectStore(bench.settings.object_store_url)
    return LearngeneRegistry(bench.catalogue, LearngeneStore(bench.redis), objects, serving=serving)


async def publish(bench: Bench, learngene: Learngene, *, replace: bool = False) -> Model:
    """Publish a learngene as an API process does, and record a model of it."""
    path = bench.work_dir / f"{learngene.digest[:8]}.safetensors"
    learngene.write(path)
    await registry(bench).publish(path, publication=f"p-{learngene.digest[:8]}", replace=replace)
    family = Family(learngene)
    model = Model.of(family, family.recipe(family.members[2], Variation()))
    await bench.models.add(model)
    return model


async def order(bench: Bench) -> str | None:
    """Queue a job on the bench's model, claim it, and return the key of the learngene that its engine is to fetch."""
    job = await bench.job()
    claim = await bench.jobs.claim(job.id, "worker")
    assert claim is not None
    stores = Stores(
        jobs=bench.jobs,
        models=bench.models,
        datasets=DatasetStore(bench.redis),
        objects=ObjectStore(bench.settings.object_store_url),
        learngenes=registry(bench, serving=False),
    )
    assignment = await assignment_of(claim, stores)
    assert isinstance(assignment, FineTuneAssignment)
    return assignment.order(1.0).learngene_key


def test_a_running_worker_takes_jobs_on_what_was_published_since(on_bench: OnBench) -> None:
    """The job succeeds, and its result has the new learngene's preprocessing and licence."""

    async def scenario(bench: Bench) -> None:
        async with bench.worker():
            first = await bench.ended((await bench.job()).id)
            assert first.status is JobStatus.SUCCEEDED
            provenance = replace(tiny.PROVENANCE, licence="CC-BY-4.0")
            newcomer = await publish(bench, tiny.learngene("newcomer", provenance=provenance))
            bench.model = newcomer
            done = await bench.ended((await bench.job()).id)
            assert done.status is JobStatus.SUCCEEDED, done.error
            result = (await bench.models.get(str(done.result))).model
            assert result.fine_tuning is not None
            assert (result.fine_tuning.parent, result.fine_tuning.licence) == (newcomer.id, "CC-BY-4.0")

    on_bench(scenario)


def test_the_engine_is_told_where_a_published_learngene_lies(on_bench: OnBench) -> None:
    """Superseded too; of one of the worker's own nothing is said."""

    async def scenario(bench: Bench) -> None:
        assert await order(bench) is None
        bench.model = await publish(bench, tiny.learngene("newcomer"))
        key = await order(bench)
        assert key is not None
        assert Path(key).name.endswith(f"-p-{bench.model.recipe.learngene[:8]}.safetensors")
        await publish(bench, tiny.learngene("better").with_description(name="newcomer"), replace=True)
        assert await order(bench) == key

    on_bench(scenario)


def test_a_job_on_a_deleted_learngene_fails_by_its_name(on_bench: OnBench) -> None:
    """`learngene_not_loaded`, and the worker goes on."""

    async def scenario(bench: Bench) -> None:
        own = bench.model
        bench.model = await publish(bench, tiny.learngene("newcomer"))
        await registry(bench).delete("newcomer")
        async with bench.worker():
            failed = await bench.ended((await bench.job()).id)
            assert failed.status is JobStatus.FAILED
            assert failed.error is not None
            assert failed.error.code == "learngene_not_loaded"
            bench.model = own
            assert (await bench.ended((await bench.job()).id)).status is JobStatus.SUCCEEDED

    on_bench(scenario)
