"""What an attempt is to do: the order that its engine gets, and how what comes of it is recorded. One class a kind of job.

Recording is done before the job says so and may be done twice: what is recorded follows from the job and the file alone.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from service.domain.catalogue import Catalogue
from service.domain.dataset import Dataset
from service.domain.errors import ObjectStoreError
from service.domain.export import MAX_EXPORTED_BYTES, ExportFile
from service.domain.job import ExportSpec, FineTuneSpec, TrainingSpec
from service.domain.model import FineTuning, Model, Usage
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import Claim, JobStore
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.model_store import ModelStore
from service.storage.object_store import EXPORTS_FOLDER, ObjectStore
from service.worker.protocol import AnchorModel, EpochDone, ExportRun, FineTuneRun, Finished, Run, TrainingRun, Weights

logger = logging.getLogger(__name__)

_UNRECORDED_S: Final = 60.0
"""Seconds for which no export is deleted: its worker stores it and then records it, seldom more than a second later. Were it
deleted in between, by a worker that has no room for both, the job would succeed without a file."""

_MEASURED: Final = ("train_loss", "loss", "top1", "top5")  # of a model, in the last epoch; the others on the held-out part


class Stores:
    """Where an attempt's work comes from and its results go."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        models: ModelStore,
        datasets: DatasetStore,
        objects: ObjectStore,
        learngenes: LearngeneRegistry,
        max_exported_bytes: int = MAX_EXPORTED_BYTES,
    ) -> None:
        self.jobs = jobs
        self.models = models
        self.datasets = datasets
        self.objects = objects
        self.learngenes = learngenes
        self.max_exported_bytes = max_exported_bytes

    @property
    def catalogue(self) -> Catalogue:
        """The learngenes as they are now."""
        return self.learngenes.catalogue


class Assignment(Protocol):
    """What an attempt is to do."""

    def order(self, checkpoint_s: float) -> Run:
        """Return the engine's order."""
        ...

    async def record(self, report: EpochDone | Finished, weights: Weights, settings: Mapping[str, Any]) -> str:
        """Record what the engine made, and return what the job names it by.

        Raises:
            StoreUnavailableError: Redis does not answer; ask again.
            FencedError: Another attempt has the job.
            ServiceError: It cannot be recorded.
        """
        ...


async def assignment_of(claim: Claim, stores: Stores) -> Assignment:
    """Read what an attempt is to do; raises `ServiceError` where it is not to be had."""
    spec = claim.job.spec
    match spec:
        case ExportSpec():
            model = await _model(spec.model, stores)
            key = await stores.learngenes.object_key(model)
            usage = stores.catalogue.usage(model)
            return ExportAssignment(claim, stores, spec=spec, model=model, learngene_key=key, usage=usage)
        case FineTuneSpec():
            dataset = (await stores.datasets.get(spec.dataset)).dataset
            model = await _model(spec.model, stores)
            key = await stores.learngenes.object_key(model)
            usage = stores.catalogue.usage(model)
            return FineTuneAssignment(claim, stores, model=model, learngene_key=key, usage=usage, dataset=dataset)
        case TrainingSpec():
            dataset = (await stores.datasets.get(spec.dataset)).dataset
            teacher = None if spec.teacher is None else await _model(spec.teacher, stores)
            key = None if teacher is None else await stores.learngenes.object_key(teacher)
            anchors = [await _anchor(name, model_id, stores) for name, model_id in spec.anchors.items()]
            return TrainingAssignment(
                claim, stores, spec=spec, teacher=teacher, learngene_key=key, dataset=dataset, anchors=anchors
            )


async def _anchor(name: str, model_id: str, stores: Stores) -> AnchorModel:
    """Return a model as an anchor of a pool."""
    model = await _model(model_id, stores)
    return AnchorModel(name=name, model=model.to_json(), learngene_key=await stores.learngenes.object_key(model))


async def _model(model_id: str, stores: Stores) -> Model:
    """Return a recorded model, with the learngene that it is expanded from at hand where that is published."""
    model = (await stores.models.get(model_id)).model
    await stores.learngenes.provide_for(model)
    return model


@dataclass(frozen=True, slots=True)
class FineTuneAssignment:
    """To fine-tune a model."""

    claim: Claim
    stores: Stores
    model: Model
    learngene_key: str | None  # of the published learngene that it is expanded from
    usage: Usage
    dataset: Dataset

    def order(self, checkpoint_s: float) -> FineTuneRun:
        """Return the engine's order."""
        return FineTuneRun(
            model=self.model.to_json(),
            learngene_key=self.learngene_key,
            **_common(self.claim, self.dataset, checkpoint_s),
        )

    async def record(self, report: EpochDone | Finished, weights: Weights, settings: Mapping[str, Any]) -> str:
        """Record the model of these weights, and return its id."""
        fine_tuning = FineTuning.of(
            self.dataset,
            parent=self.model.id,
            usage=self.usage,
            job=self.claim.job.id,
            settings=settings,
            epoch=report.epoch,
            step=report.step,
            metrics={name: report.metrics[name] for name in _MEASURED if name in report.metrics},
            images=weights.images,
            weights_sha256=weights.sha256,
            weights_key=weights.key,
            size_bytes=weights.size_bytes,
        )
        model = Model.fine_tuned(self.model, fine_tuning)
        await self.stores.models.add(model)
        return model.id


@dataclass(frozen=True, slots=True)
class TrainingAssignment:
    """To train a learngene."""

    claim: Claim
    stores: Stores
    spec: TrainingSpec
    teacher: Model | None
    learngene_key: str | None  # of the published learngene that the teacher is expanded from
    dataset: Dataset
    anchors: Sequence[AnchorModel] = ()

    def order(self, checkpoint_s: float) -> TrainingRun:
        """Return the engine's order."""
        return TrainingRun(
            name=self.spec.name,
            licence=self.spec.licence,
            teacher=None if self.teacher is None else self.teacher.to_json(),
            anchors=list(self.anchors),
            learngene_key=self.learngene_key,
            **_common(self.claim, self.dataset, checkpoint_s),
        )

    async def record(
        self,
        report: EpochDone | Finished,  # noqa: ARG002 (the file says it)
        weights: Weights,
        settings: Mapping[str, Any],  # noqa: ARG002
    ) -> str:
        """Publish the learngene of this file, and return its digest; the publication is the job's, however often it is done."""
        with tempfile.TemporaryDirectory(prefix="tleg-learngene-") as folder:
            path = Path(folder) / "learngene.safetensors"
            try:
                await asyncio.to_thread(self.stores.objects.fetch_file, weights.key, path, sha256=weights.sha256)
            except FileNotFoundError as error:
                raise ObjectStoreError(f"the object store has no {weights.key}") from error
            await self.stores.jobs.beat(self.claim)  # an attempt that lost its job publishes nothing
            job_id = self.claim.job.id
            publication = await self.stores.learngenes.publish(path, publication=job_id, replace=self.spec.replace)
        return publication.record.digest


@dataclass(frozen=True, slots=True)
class ExportAssignment:
    """To export a model."""

    claim: Claim
    stores: Stores
    spec: ExportSpec
    model: Model
    learngene_key: str | None  # of the published learngene that it is expanded from
    usage: Usage

    def order(self, checkpoint_s: float) -> ExportRun:  # noqa: ARG002 (it has no states)
        """Return the engine's order."""
        return ExportRun(
            job=self.claim.job.id,
            attempt=self.claim.attempt,
            learngene_key=self.learngene_key,
            model=self.model.to_json(),
            class_names=list(self.usage.class_names),
            licence=self.usage.licence,
            format=self.spec.format,
        )

    async def record(
        self,
        report: EpochDone | Finished,  # noqa: ARG002 (the file says it)
        weights: Weights,
        settings: Mapping[str, Any],  # noqa: ARG002
    ) -> str:
        """Return the file's digest and length: the job's own result is its record. The oldest exports make room for it."""
        objects, limit = self.stores.objects, self.stores.max_exported_bytes
        try:
            gone = await asyncio.to_thread(
                objects.delete_oldest, EXPORTS_FOLDER, limit, keep=weights.key, min_age_s=_UNRECORDED_S
            )
        except ObjectStoreError as error:  # the next export tries again
            logger.warning("%s", error, extra={"action": "exports_kept"})
        else:
            if gone:
                logger.info("%d exports made room", len(gone), extra={"action": "exports_deleted", "objects": gone})
        return str(ExportFile(sha256=weights.sha256, size_bytes=weights.size_bytes))


def _common(claim: Claim, dataset: Dataset, checkpoint_s: float) -> dict[str, Any]:
    job = claim.job
    return {
        "job": job.id,
        "attempt": claim.attempt,
        "dataset": dataset.to_json(),
        "settings": dict(job.settings_used or job.spec.settings),
        "resume_key": job.resume_key,
        "checkpoint_s": checkpoint_s,
    }
