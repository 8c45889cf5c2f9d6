"""Fine-tuned models without any training: real networks of timm's with random weights, in a real object store and Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from redis.asyncio import Redis
from safetensors.torch import save_file

from service.domain.dataset import Dataset
from service.domain.job import FineTuneSpec, Progress
from service.domain.model import FineTuning, Model
from service.storage import keys
from service.storage.job_store import JobStore
from service.storage.learngene_registry import load_catalogue
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore, weights_key
from tleg_core.training import stitched_vit as _registers_with_timm  # noqa: F401

ResultT = TypeVar("ResultT")

CLASS_NAMES = ("rose", "tulip | daisy", "<b>poppy</b>")
METRICS = {"train_loss": 0.5, "loss": 0.25, "top1": 0.875, "top5": 1.0}
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 16,
    "lr": 0.001,
    "clip_grad": None,
    "holdout": 0.2,
    "head": "zero",
    "start": "model",
    "save_every_epochs": 1,
}


def data_set(class_names: Sequence[str] = CLASS_NAMES, name: str = "petals") -> Dataset:
    """Return the record of a data set of 100 images a class."""
    digest = hashlib.sha256(json.dumps(list(class_names)).encode()).hexdigest()
    return Dataset(
        id=f"ds-{digest[:32]}",
        name=name,
        class_names=tuple(class_names),
        train_counts=(100,) * len(class_names),
        test_counts=(0,) * len(class_names),
        size_bytes=1000,
        min_side=32,
        max_side=64,
        formats={"PNG": 100 * len(class_names)},
        refused={},
        refused_examples=(),
        object_key=f"datasets/{digest}.arrow",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where fine-tuned models are put: a server's Redis and object store."""

    redis_url: str
    objects: ObjectStore
    learngenes: Sequence[Path]
    folder: Path

    def run(self, use: Callable[[Redis], Awaitable[ResultT]]) -> ResultT:
        """Use the server's Redis."""

        async def run() -> ResultT:
            async with Redis.from_url(self.redis_url, decode_responses=True) as client:
                return await use(client)

        return asyncio.run(run())

    def file(self, model: Model) -> Path:
        """Return where a fine-tuned model's file lies."""
        assert model.fine_tuning is not None
        path = self.objects.local_path(model.fine_tuning.weights_key)
        assert path is not None
        return path

    def publish(
        self,
        base_id: str,
        *,
        dataset: Dataset | None = None,
        seed: int = 0,
        epoch: int = 3,
        job: str = "ft-" + "1" * 32,
        settings: Mapping[str, Any] = SETTINGS,
    ) -> Model:
        """Store a network with random weights as a fine-tune of a recorded model, and record it."""
        dataset = dataset or data_set()
        base = self.run(lambda redis: ModelStore(redis).get(base_id)).model
        torch.manual_seed(seed)
        network = timm.create_model(base.architecture, num_classes=len(dataset.class_names), **base.model_args)
        path = self.folder / "weights.safetensors"
        save_file(network.state_dict(), path, metadata={"format": "pt"})
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.objects.put_file(weights_key(sha256), path)
        tuning = FineTuning.of(
            dataset,
            parent=base.id,
            usage=load_catalogue(list(self.learngenes), shipped=False).usage(base),
            job=job,
            settings=settings,
            epoch=epoch,
            step=10 * epoch,
            metrics=METRICS,
            images=60,
            weights_sha256=sha256,
            weights_key=weights_key(sha256),
            size_bytes=path.stat().st_size,
        )
        model = Model.fine_tuned(base, tuning)
        self.run(lambda redis: ModelStore(redis).add(model))
        return model

    def job_with_epochs(self, model: str, epochs: Sequence[int], dataset: Dataset | None = None) -> str:
        """Record a running job that has reported these epochs, one after the other; return its id."""
        dataset = dataset or data_set()

        async def use(redis: Redis) -> str:
            await redis.hset(keys.dataset(dataset.id), "record", json.dumps(dataset.to_json()))
            jobs = JobStore(redis, heartbeat_s=60, max_deaths=3)
            spec = FineTuneSpec(model=model, dataset=dataset.id, settings=SETTINGS, requested={})
            job, _ = await jobs.create(spec)
            await self.report_epochs(jobs, job.id, epochs)
            return job.id

        return self.run(use)

    @staticmethod
    async def report_epochs(jobs: JobStore, job_id: str, epochs: Sequence[int]) -> None:
        """Claim a job and report epochs; the numbers fall and rise with the epoch's place in the line."""
        claim = await jobs.claim(job_id, "worker")
        assert claim is not None
        for place, epoch in enumerate(epochs):
            metrics = {"train_loss": 2.0 - 0.1 * place, "loss": 1.5 - 0.1 * place, "top1": 0.1 + 0.05 * place, "top5": 0.9}
            progress = Progress(epoch=epoch, step=10 * epoch, steps=30, metrics=metrics)
            await jobs.report(claim, progress, event=("epoch", {"epoch": epoch, "step": 10 * epoch, "metrics": metrics}))
