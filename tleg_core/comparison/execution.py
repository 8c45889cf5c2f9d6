"""What a unit does: trains, measures, and leaves its file and its numbers. One process does one unit after the other.

Learngenes and networks are kept as `artefacts/<unit>.safetensors`; while they train, their checkpoint lies in `work/<unit>`, so
that a killed comparison goes on within them. Fine-tunes are short and begin again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tleg_core import __version__
from tleg_core.atomic_file import atomic_file
from tleg_core.comparison.ancestor import ancestor_model, inherit
from tleg_core.comparison.image_store import ImageStore, held_back
from tleg_core.comparison.initial_weights import initial_weights
from tleg_core.comparison.plan import Stage
from tleg_core.comparison.pool_unit import PoolFiles, make_pool, paths_of
from tleg_core.comparison.results import Result
from tleg_core.comparison.start import stack_of
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.config_section import read_section
from tleg_core.description import Preprocessing, Provenance
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.learngene_config import Distillation, LearngeneConfig
from tleg_core.stack import Stack
from tleg_core.tensor_source import Array
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.distillation import distillation_loss
from tleg_core.training.errors import TrainingDivergedError
from tleg_core.training.evaluate import measure_top1
from tleg_core.training.keeper import CHECKPOINT_NAME, FolderKeeper
from tleg_core.training.learngene_run import learngene_of, learngene_trainer
from tleg_core.training.loop import Outcome, Trainer, Wish
from tleg_core.training.network import Network, with_head, write_weights
from tleg_core.training.observer import EpochReport, Silent
from tleg_core.training.preprocessing import prepare
from tleg_core.training.stored_logits import store_logits
from tleg_core.training.teacher import AncestryTeacher, Teacher, check_classes
from tleg_core.training.teacher_file import open_teacher
from tleg_core.training_config import Augmentation, Precision, TrainingConfig
from tleg_core.training_description import describe_learngene, summary
from tleg_core.vit import VitConfig

_PREPROCESSING = Preprocessing()


class Bench:
    """Where units are done.

    Args:
        folder: The comparison's folder.
        device: Where it computes.
        ancestry: The ancestry model's file, or None.
    """

    def __init__(self, folder: Path, device: torch.device, ancestry: Path | None) -> None:
        self._folder, self._device, self._ancestry = folder, device, ancestry
        self._images = lru_cache(maxsize=8)(ImageStore(folder / "data").read)
        for name in ("artefacts", "work"):
            (folder / name).mkdir(exist_ok=True)

    def run(self, unit: Unit, needed: Sequence[Result]) -> Result:
        """Do a unit and return its result.

        Args:
            unit: What is to be done.
            needed: The results of the units that it needs, in its order.

        Raises:
            TlegError: It cannot be done.
        """
        started_s = time.monotonic()
        found = self._work_of(unit)(unit, needed)
        return {
            "unit": unit.id,
            "kind": unit.kind.value,
            "label": unit.label,
            **found,
            "images": unit.images,
            "flops": unit.flops,
            "seconds": round(time.monotonic() - started_s, 2),
        }

    def _work_of(self, unit: Unit) -> Callable[[Unit, Sequence[Result]], dict[str, Any]]:
        return {
            UnitKind.LOGITS: self._logits,
            UnitKind.LEARNGENE: self._learngene,
            UnitKind.NETWORK: self._network,
            UnitKind.POOL: self._pool,
            UnitKind.INHERITANCE: self._inheritance,
            UnitKind.PATHS: self._paths,
            UnitKind.MEASURE: self._measure,
            UnitKind.TUNING: self._tuning,
            UnitKind.FINE_TUNE: self._fine_tune,
        }[unit.kind]

    def _artefact(self, unit_id: str) -> Path:
        return self._folder / "artefacts" / f"{unit_id}.safetensors"

    def _teacher(self, unit: Unit, data: ImageSet) -> Teacher | None:
        """Return where the teacher's logits of `data` come from: stored ones where the unit needs them."""
        asked = unit.settings["teacher"]
        if asked is None:
            return None
        if "depth" in asked:
            model = ancestor_model(self._artefact(unit.needs[-1]), asked, data)
            return AncestryTeacher(model, self._device, Precision(asked["precision"]))
        if self._ancestry is None:
            return None
        path = self._artefact(unit.needs[0]) if unit.needs else self._ancestry
        teacher = open_teacher(path, self._device, Precision(asked["precision"]))
        check_classes(teacher, data.class_names, data.name)
        return teacher

    def _logits(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Store what the ancestry model says of each view of each image."""
        assert self._ancestry is not None  # noqa: S101 (such a unit is planned only with one)
        training, data = _training(unit.settings["training"]), self._images(unit.settings["train"])
        teacher = open_teacher(self._ancestry, self._device, Precision(unit.settings["teacher"]["precision"]))
        if not isinstance(teacher, AncestryTeacher):
            raise ConfigError("ancestry.stored", f"is of no use: {self._ancestry} holds stored logits already")
        folder = self._work(unit)
        folder.mkdir(exist_ok=True)
        batches = Batches.of_image_set(data, training, self._device)
        stored = store_logits(teacher, batches, training, self._artefact(unit.id), num_images=len(data), folder=folder)
        return {"views": stored.num_views}

    def _learngene(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Train a learngene."""
        config = LearngeneConfig.from_json(unit.settings["config"])
        data = self._images(unit.settings["train"])
        teacher = self._teacher(unit, data)
        provenance = Provenance(
            data_set=f"{data.name} ({len(data):,} images)",
            ancestry="none: trained on labels" if teacher is None else teacher.describe(),
            command=f"tleg compare, unit {unit.id} ({unit.label})",
            version=__version__,
            licence="as the data set's",
            notes=summary(config),
        )
        description = describe_learngene(f"learngene-{unit.id}", config, provenance, data.class_names, _PREPROCESSING)
        trainer = learngene_trainer(
            config,
            Batches.of_image_set(data, config.training, self._device),
            teacher,
            num_classes=data.num_classes,
            preprocessing=_PREPROCESSING,
            keeper=self._keeper(unit, config.training),
            observer=(curve := _Curve(self._work(unit))),
            device=self._device,
            wish=_go_on,
        )
        learngene = learngene_of(self._completed(unit, trainer), description)
        learngene.write(self._artefact(unit.id))
        return {"train_losses": curve.losses, "params": learngene.num_params, "digest": learngene.digest}

    def _network(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Train a network with weights of its own by the loss that learngenes are trained by."""
        settings = unit.settings
        training = _training(settings["training"])
        distillation = read_section(Distillation, "distillation", settings["distillation"])
        data = self._images(settings["train"])
        teacher = self._teacher(unit, data)
        batches = Batches.of_image_set(data, training, self._device)
        if teacher is not None:
            teacher.check(batches, training)
        vit = VitConfig.from_json(settings["network"])
        network = _network_of(Stack.plain(vit, settings["depth"]))
        model = network.build(drop_path=training.drop_path, seed=training.seed).to(self._device)

        def objective(batch: Batch) -> Outcome:
            logits = model(prepare(batch.images, vit.img_size, _PREPROCESSING))
            taught = None if teacher is None else teacher.logits(batch)
            return Outcome(loss=distillation_loss(logits, taught, batch.targets, distillation), logits=logits)

        trainer = Trainer(
            model,
            objective,
            batches,
            training,
            identity={"unit": unit.id},
            keeper=self._keeper(unit, training),
            observer=(curve := _Curve(self._work(unit))),
            device=self._device,
            wish=_go_on,
        )
        trained = self._completed(unit, trainer)
        path = self._artefact(unit.id)
        unfinished = path.with_suffix(".part")
        write_weights(trained, unfinished)
        unfinished.replace(path)
        return {"train_losses": curve.losses}

    def _pool(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Make a pool."""
        data = self._images(unit.settings["train"])
        files = PoolFiles(whole=self._artefact(unit.id), stitched=self._stitched(unit.id), work=self._work(unit))
        pool = make_pool(
            unit,
            data,
            self._teacher(unit, data),
            anchors=self._stitched(unit.needs[0], otherwise_whole=True) if unit.settings["given"] else None,
            files=files,
            observer=(curve := _Curve(self._work(unit))),
            device=self._device,
        )
        return {"train_losses": curve.losses, "params": pool.num_params, "digest": pool.digest}

    def _inheritance(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Choose layers of the ancestry network."""
        data = self._images(unit.settings["train"])
        learngene = inherit(
            unit,
            data,
            ancestor_model(self._artefact(unit.needs[-1]), unit.settings["teacher"], data),
            file=self._artefact(unit.id),
            work=self._work(unit),
            observer=(curve := _Curve(self._work(unit))),
            device=self._device,
        )
        selection = learngene.description.selection
        chosen = None if selection is None else list(selection.chosen)
        return {"train_losses": curve.losses, "params": learngene.num_params, "digest": learngene.digest, "layers": chosen}

    def _stitched(self, unit_id: str, *, otherwise_whole: bool = False) -> Path:
        """Return the file of a pool before its joint training; that of the pool itself where it has none."""
        path = self._folder / "artefacts" / f"{unit_id}-stitched.safetensors"
        return self._artefact(unit_id) if otherwise_whole and not path.exists() else path

    def _paths(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Measure every member of a pool."""
        (pool,) = unit.needs
        stitched = unit.settings["stage"] == Stage.STITCHED
        file = self._stitched(pool) if stitched else self._artefact(pool)
        return {"paths": paths_of(file, self._images(unit.settings["test"]), self._device)}

    def _measure(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Measure an initialisation as it is."""
        stack = stack_of(unit.settings["start"])
        model = self._load(stack, self._weights(unit))
        return {"top1": self._top1(model, stack.config, self._images(unit.settings["test"]), Precision.FLOAT32)}

    def _tuning(self, unit: Unit, _needed: Sequence[Result]) -> dict[str, Any]:
        """Fine-tune on most of the training images and measure on those held back."""
        train, test = held_back(self._images(unit.settings["train"]), unit.settings["validation"])
        training = _training(unit.settings["training"])
        return self._fine_tuned(unit, train, test, training)

    def _fine_tune(self, unit: Unit, needed: Sequence[Result]) -> dict[str, Any]:
        """Fine-tune at the learning rate that was best on held-back images, and measure on test images."""
        tried = [result for result in needed if result["kind"] == UnitKind.TUNING]
        lr = max(tried, key=lambda result: (result["top1"], -result["lr"]))["lr"] if tried else unit.settings["lrs"][0]
        training = _training(unit.settings["training"] | {"lr": lr})
        train, test = self._images(unit.settings["train"]), self._images(unit.settings["test"])
        return self._fine_tuned(unit, train, test, training)

    def _fine_tuned(self, unit: Unit, train: ImageSet, test: ImageSet, training: TrainingConfig) -> dict[str, Any]:
        settings = unit.settings
        stack = stack_of(settings["start"]).with_changes(num_classes=settings["classes"])
        vit = stack.config
        weights = {name: torch.from_numpy(array.copy()) for name, array in self._weights(unit).items()}
        headed = with_head(weights, settings["classes"], keep=settings["keeps_head"])
        model = self._load(stack, {name: tensor.numpy() for name, tensor in headed.items()})

        def objective(batch: Batch) -> Outcome:
            logits = model(prepare(batch.images, vit.img_size, _PREPROCESSING))
            return Outcome(loss=nn.functional.cross_entropy(logits.float(), batch.targets), logits=logits)

        trainer = Trainer(
            model,
            objective,
            Batches.of_image_set(train, training, self._device),
            training,
            identity={},
            keeper=_NoKeeper(),
            observer=(curve := _Curve()),
            device=self._device,
            measure=lambda trained: {"top1": self._top1(trained, vit, test, training.precision)},
            wish=_go_on,
        )
        found: dict[str, Any] = {"lr": training.lr, "curve": curve.top1, "train_losses": curve.losses}
        try:
            trainer.run()
        except TrainingDivergedError as error:
            found["diverged"] = str(error)
            curve.top1 += [0.0] * (training.epochs - len(curve.top1))
        return found | {"top1": curve.top1[-1]}

    def _weights(self, unit: Unit) -> Mapping[str, Array]:
        return initial_weights(unit.settings["start"], self._artefact(unit.needs[0]) if unit.needs else None)

    def _load(self, stack: Stack, weights: Mapping[str, Array]) -> nn.Module:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        return _network_of(stack).load(tensors, drop_path=0.0, device=self._device)

    def _top1(self, model: nn.Module, vit: VitConfig, data: ImageSet, precision: Precision) -> float:
        model.eval()
        return measure_top1(
            lambda images: model(prepare(images, vit.img_size, _PREPROCESSING)),
            data,
            device=self._device,
            autocast=precision is not Precision.FLOAT32,
        ).fraction

    def _work(self, unit: Unit) -> Path:
        """Return the folder of a unit that is under way."""
        return self._folder / "work" / unit.id

    def _keeper(self, unit: Unit, training: TrainingConfig) -> FolderKeeper:
        return FolderKeeper(self._work(unit), training.checkpoint_every_steps)

    def _completed(self, unit: Unit, trainer: Trainer[Any]) -> Any:
        """Return what a run trains, going on from its checkpoint if there is one, and clear its folder away."""
        folder = self._work(unit)
        if (folder / CHECKPOINT_NAME).exists():
            trainer.load()
        trained = trainer.run().eval()
        shutil.rmtree(folder, ignore_errors=True)
        return trained


class _Curve(Silent):
    """An observer that keeps what each epoch gave; with a folder, beside the checkpoint, for a run that goes on from it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.top1: list[float] = []
        self._file = None if folder is None else folder / "curve.json"
        self._losses: dict[int, float] = {}  # by epoch: one that is done again gives the same
        if self._file is not None and self._file.exists():
            self._losses = {int(epoch): loss for epoch, loss in json.loads(self._file.read_text()).items()}

    @property
    def losses(self) -> list[float]:
        """The mean loss of each epoch."""
        return [self._losses[epoch] for epoch in sorted(self._losses)]

    def epoch_done(self, report: EpochReport) -> None:
        """Keep loss and accuracy; an epoch is told before its checkpoint is kept, so no loss is missed."""
        self._losses[report.epoch] = round(report.train_loss, 6)
        if "top1" in report.metrics:
            self.top1.append(report.metrics["top1"])
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._file) as file:
                file.write(json.dumps(self._losses).encode())


class _NoKeeper:
    """Keeps nothing: what is short begins again."""

    def due(self, step: int, *, ends_epoch: bool) -> bool:  # noqa: ARG002 (the port's names)
        """Return that it never is."""
        return False

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Do nothing; it is not asked."""

    def read(self) -> Checkpoint:
        """Raise, for there is none."""
        raise FileNotFoundError


def _go_on() -> Wish:
    return Wish.GO_ON


def _network_of(stack: Stack) -> Network:
    return Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=stack.config.num_classes)


def _training(settings: Mapping[str, Any]) -> TrainingConfig:
    """Return a run's settings from those that decide its result."""
    rest = dict(settings)
    augmentation = read_section(Augmentation, "augmentation", rest.pop("augmentation"))
    return read_section(TrainingConfig, "training", rest, augmentation=augmentation)
