"""The training of a learngene in the engine: from an order to the learngene's file in the object store.

The file follows from the order alone: another attempt, on the same kind of device, makes the same bytes.

Shape legend: B images of a batch, H height, W width, C channels or classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.domain.dataset import Dataset
from service.domain.model import Model
from service.domain.training import provenance_of
from service.storage.object_store import trained_learngene_key
from service.worker.model_teacher import ModelTeacher
from service.worker.protocol import Finished, Started, TrainingRun, Weights
from service.worker.run_reporter import Report, Reporter
from service.worker.state_keeper import StateKeeper
from service.worker.workbench import Workbench
from tleg_core.canonical import sha256_hex
from tleg_core.description import Description, Measurement
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.fine_tuning import AUTO
from tleg_core.learngene import Learngene
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.training.augmented import RandPixels
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.batches import Batches
from tleg_core.training.decoded import InputShape
from tleg_core.training.errors import MeasurementStoppedError, TrainingInterruptedError
from tleg_core.training.evaluate import Scores, measure_scores
from tleg_core.training.fine_tune import computes_bfloat16, split_images
from tleg_core.training.learngene_run import learngene_of, learngene_trainer, measured_depths
from tleg_core.training.loop import Trainer, Wish
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import prepare, to_unit
from tleg_core.training.random_view import RandomView
from tleg_core.training_config import Crop, Precision
from tleg_core.training_description import describe_learngene

logger = logging.getLogger(__name__)

_CHANNELS = 3
_MEASURED_AT_ONCE = 256  # held-out images; halved where memory does not suffice


@dataclass(frozen=True, slots=True)
class _Part:
    """How the held-out part is drawn."""

    holdout: float
    seed: int


def do_training(run: TrainingRun, bench: Workbench, report: Report, wish: Callable[[], Wish]) -> None:
    """Train a learngene, and report its file; raises what the training does."""
    if run.settings["nproc"] != bench.processes.count:
        raise ConfigError("nproc", f"is {run.settings['nproc']}, but {bench.processes.count} processes run")
    reporter = Reporter(run.job, report)
    training = _Training(run, bench, StateKeeper(run, bench, report), reporter, wish)
    training.begin()
    if run.resume_key is not None:
        try:
            training.trainer.load()
        except CheckpointError as error:
            logger.warning("a state is not used: %s", error, extra={"action": "state_unusable", "job": run.job})
            reporter.note("the saved state cannot be used; training begins again, to the same result")
            training.begin()
    report(Started(job=run.job, settings=training.settings, steps=training.trainer.total_steps))
    training.trainer.run()
    accuracy = training.measure_members()
    if bench.processes.first:
        report(
            Finished(
                job=run.job,
                epoch=training.config.training.epochs,
                step=training.trainer.total_steps,
                metrics=reporter.last_metrics | training.metrics_of(accuracy),
                weights=training.stored(accuracy),
            )
        )


class _Training:
    """One training: what it needs, made ready once, and a trainer, made anew where a state cannot be used."""

    trainer: Trainer[AuxiliaryModel]

    def __init__(
        self, run: TrainingRun, bench: Workbench, keeper: StateKeeper, reporter: Reporter, wish: Callable[[], Wish]
    ) -> None:
        self._run, self._bench, self._keeper, self._reporter, self._wish = run, bench, keeper, reporter, wish
        dataset = Dataset.from_json(run.dataset)
        self.settings = dict(run.settings) | {"config": _decided(run.settings["config"], bench.device)}
        self.config = config = LearngeneConfig.from_json(self.settings["config"])
        self._file = file = bench.images(dataset)
        self._preprocessing = config.preprocessing
        self._shape = InputShape.of(config.network.img_size, _CHANNELS, self._preprocessing)
        self._pixels = bench.pixels(dataset, file, self._shape)
        self._data_set = dataset.name or dataset.id
        self._digest = dataset.id
        split = split_images(file, _Part(run.settings["holdout"], config.training.seed))
        self._labels = torch.from_numpy(file.labels)
        self._train, self._held_out = split.train, split.held_out
        model = None if run.teacher is None else Model.from_json(run.teacher)
        self._teacher = None if model is None else ModelTeacher(model, file.class_names, bench)
        provenance = provenance_of(
            dataset,
            config,
            name=run.name,
            images=len(split.train),
            teacher=None if model is None else model.id,
            licence=run.licence,
        )
        self._description: Description = describe_learngene(run.name, config, provenance, file.class_names, self._preprocessing)

    def begin(self) -> None:
        """Begin at the first update."""
        config, bench = self.config, self._bench
        num_classes = len(self._file.class_names)
        augmentation = config.training.augmentation
        pixels: Pixels = self._pixels
        if augmentation.crop is Crop.RANDOM_RESIZED:
            view = RandomView.of(augmentation, self._shape, self._preprocessing)
            pixels = RandPixels(self._file, view, seed=config.training.seed, device=bench.device, threads=bench.threads)
        batches = Batches(
            pixels,
            self._train,
            self._labels[self._train],
            num_classes=num_classes,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            augmentation=augmentation,
            device=bench.device,
            digest=self._digest,
            processes=bench.processes,
        )
        self.trainer = learngene_trainer(
            config,
            batches,
            self._teacher,
            num_classes=num_classes,
            preprocessing=self._preprocessing,
            keeper=self._keeper,
            observer=self._reporter,
            device=bench.device,
            measure=self._measure,
            wish=self._wish,
            processes=bench.processes,
        )

    def measure_members(self) -> tuple[Measurement, ...]:
        """Classify the held-out images at every depth that is offered, in float32; what stops the training stops it."""
        model, images = self.trainer.result.eval(), len(self._held_out)
        measured = []
        try:
            for member in self._description.design.members:
                top1 = self._scores(model, member.depth, autocast=False).top1
                measured.append(Measurement.of(member, data_set=self._data_set, top1=top1, images=images))
        except MeasurementStoppedError:
            if self._wish() is Wish.SAVE:
                self.trainer.save()
            raise TrainingInterruptedError("stopped while every depth was measured") from None
        return tuple(measured)

    def metrics_of(self, accuracy: tuple[Measurement, ...]) -> dict[str, float]:
        """Return what was measured of every depth, by the names of metrics; `top1` is the largest trained depth's."""
        measured = {entry.depth: entry.top1 for entry in accuracy}
        metrics = {f"top1_depth_{depth}": top1 for depth, top1 in measured.items()}
        trained = self.config.depths.train
        return metrics | ({"top1": measured[trained]} if trained in measured else {})

    def stored(self, accuracy: tuple[Measurement, ...]) -> Weights:
        """Put the learngene into the object store."""
        learngene: Learngene = learngene_of(self.trainer.result, self._description).with_description(accuracy=accuracy)
        path = self._bench.work_dir / "learngene.safetensors"
        try:
            path.write_bytes(learngene.content)
            sha256 = sha256_hex(learngene.content)
            key = trained_learngene_key(self._run.job, sha256)
            self._bench.store.move_file(key, path)
        finally:
            path.unlink(missing_ok=True)
        return Weights(key=key, sha256=sha256, size_bytes=len(learngene.content), images=len(self._held_out))

    def _measure(self, model: AuxiliaryModel) -> dict[str, float]:
        """Return loss and top-1 of the largest depth, and top-1 of some others."""
        metrics: dict[str, float] = {}
        for depth in measured_depths(self.config.depths):
            scores = self._scores(model, depth, autocast=self.config.training.precision is Precision.BFLOAT16)
            largest = depth == self.config.depths.train
            metrics |= {"loss": scores.loss, "top1": scores.top1} if largest else {f"top1_depth_{depth}": scores.top1}
        return metrics

    def _scores(self, model: AuxiliaryModel, depth: int, *, autocast: bool) -> Scores:
        side = self.config.network.img_size

        def logits_of(pixels: Tensor) -> Tensor:
            return model(prepare(to_unit(pixels), side, self._preprocessing), depth)  # type: ignore[no-any-return]

        return measure_scores(
            logits_of,
            self._pixels,
            self._held_out.tolist(),
            self._labels[self._held_out],
            device=self._bench.device,
            batch_size=_MEASURED_AT_ONCE,
            autocast=autocast,
            processes=self._bench.processes,
            stopped=self._is_stopped,
        )

    def _is_stopped(self) -> bool:
        """Whether to stop measuring; several processes stop between updates only, where they can agree."""
        return self._bench.processes.count == 1 and self._wish() is not Wish.GO_ON


def _decided(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the configuration with the precision decided, where it was left to the device."""
    training = dict(config["training"])
    if training["precision"] == AUTO:
        training["precision"] = (Precision.BFLOAT16 if computes_bfloat16(device) else Precision.FLOAT32).value
    return {**config, "training": training}
