"""The training of a learngene: an auxiliary model learns from a teacher or from labels, at one depth or at several.

Source: TLEG's stage 1 (arXiv 2312.05614), which trains one depth; with several it is elastic training, our own step past the
paper. Stage 2, a descendant's fine-tuning, is `fine_tune`.

Shape legend: B images of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tleg_core import __version__
from tleg_core.description import Description, Preprocessing, Provenance
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.learngene import Learngene
from tleg_core.learngene_config import DepthRule, Depths, Distillation, KdNormalisation, LearngeneConfig
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.distillation import distillation_loss, divergence
from tleg_core.training.draws import generator_of
from tleg_core.training.evaluate import measure_top1
from tleg_core.training.keeper import FolderKeeper, Keeper
from tleg_core.training.loop import Outcome, Trainer, Wish
from tleg_core.training.observer import Observer
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import prepare
from tleg_core.training.processes import Processes
from tleg_core.training.source_images import MEASURED_AT_ONCE, HeldOut, SourceImages, check_sources
from tleg_core.training.stateless import INDUCTOR
from tleg_core.training.teacher import Teacher
from tleg_core.training_config import Precision
from tleg_core.training_description import describe_learngene, summary


def depths_of(depths: Depths, seed: int, step: int) -> tuple[int, ...]:
    """Return the depths that the update after `step` updates trains, the largest first; a function of seed and step."""
    low, high = depths.train_min, depths.train
    match depths.rule:
        case DepthRule.FIXED:
            return (high,)
        case DepthRule.UNIFORM:
            return (_drawn(low, high, seed, step),)
        case DepthRule.SANDWICH:
            between = (_drawn(low + 1, high - 1, seed, step),) if high - low > 1 else ()
            return (high, *between, low) if high > low else (high,)


def _drawn(low: int, high: int, seed: int, step: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator_of(seed, "depth", step)))


class LearngeneObjective:
    """The loss of an update: the mean over the depths that it trains.

    Args:
        model: The auxiliary model.
        config: The loss, and which depths.
        teacher: Where the teacher's logits come from; None where alpha is 0.
        preprocessing: How the network's input is normalised.
    """

    def __init__(
        self, model: AuxiliaryModel, config: LearngeneConfig, teacher: Teacher | None, preprocessing: Preprocessing
    ) -> None:
        self._model, self._config, self._teacher, self._preprocessing = model, config, teacher, preprocessing
        loss = config.distillation
        mean = loss.normalisation if loss.alpha == 1.0 else KdNormalisation.BATCHMEAN  # on the scale of the rest of the loss
        self._between_depths = Distillation(temperature=loss.temperature, normalisation=mean)

    def __call__(self, batch: Batch) -> Outcome:
        """Return the loss, and the logits of the largest of its depths."""
        config, model = self._config, self._model
        images = prepare(batch.images, config.network.img_size, self._preprocessing)
        teacher_logits = None if self._teacher is None else self._teacher.logits(batch)
        first, *others = depths_of(config.depths, config.training.seed, batch.step)
        logits: Tensor = model(images, first)
        loss = self._loss(logits, self._largest(images, logits, first), teacher_logits, batch.targets)
        if not others:
            return Outcome(loss=loss, logits=logits)
        for depth in others:
            loss = loss + self._loss(model(images, depth), logits.detach(), teacher_logits, batch.targets)
        return Outcome(loss=loss / (1 + len(others)), logits=logits)

    def _largest(self, images: Tensor, logits: Tensor, depth: int) -> Tensor | None:
        """Return the largest depth's logits for a smaller one to learn from; None where this is the largest, or learns none."""
        largest = self._config.depths.train
        if not self._config.depths.self_distillation or depth == largest:
            return None
        with torch.no_grad():
            taught: Tensor = self._model(images, largest)
        return taught.to(logits.dtype)

    def _loss(self, logits: Tensor, largest: Tensor | None, teacher_logits: Tensor | None, targets: Tensor) -> Tensor:
        share = 0.0 if largest is None else self._config.depths.self_distillation
        if share == 1.0 and largest is not None:
            return divergence(logits, largest, self._between_depths)
        loss = distillation_loss(logits, teacher_logits, targets, self._config.distillation)
        if largest is None or not share:
            return loss
        return (1.0 - share) * loss + share * divergence(logits, largest, self._between_depths)


def learngene_trainer(
    config: LearngeneConfig,
    batches: Batches,
    teacher: Teacher | None,
    *,
    num_classes: int,
    preprocessing: Preprocessing,
    keeper: Keeper,
    observer: Observer,
    device: torch.device,
    measure: Callable[[AuxiliaryModel], Mapping[str, float]] | None = None,
    wish: Callable[[], Wish] | None = None,
    processes: Processes | None = None,
) -> Trainer[AuxiliaryModel]:
    """Return the trainer of a fresh auxiliary model.

    Args:
        config: What is trained, and how.
        batches: The training images, in 0..1.
        teacher: Of the same classes in the same order; None where alpha is 0.
        num_classes: C.
        preprocessing: How the network's input is normalised.
        keeper: Keeps the checkpoints.
        observer: Is told how it goes.
        device: Where it computes.
        measure: Gives named numbers of held-out images after each epoch.
        wish: Says whether to stop; without it, SIGINT and SIGTERM do.
        processes: Those that share the run.

    Raises:
        ConfigError: The loss needs a teacher, or has no use for one, or the teacher has no logits for these batches.
    """
    if (teacher is None) != (config.distillation.alpha == 0.0):
        raise ConfigError("distillation.alpha", "is 0 exactly where there is no ancestry model to learn from")
    if teacher is not None:
        teacher.check(batches, config.training)
    model = AuxiliaryModel(
        config.network.vit(num_classes),
        config.schedule.build(),
        depth=config.depths.train,
        seed=config.training.seed,
        drop_path_rate=config.training.drop_path,
        compiler=INDUCTOR if config.training.compile else None,
        grad_checkpointing=config.training.grad_checkpointing,
    ).to(device)
    decisive = config.to_json()
    identity: dict[str, Any] = {name: decisive[name] for name in ("network", "schedule", "depths", "distillation")}
    identity |= {"preprocessing": asdict(preprocessing), "teacher": None if teacher is None else teacher.identity()}
    return Trainer(
        model,
        LearngeneObjective(model, config, teacher, preprocessing),
        batches,
        config.training,
        identity=identity | {"classes": num_classes},
        keeper=keeper,
        observer=observer,
        device=device,
        measure=measure,
        wish=wish,
        processes=processes,
    )


def training_batches(
    config: LearngeneConfig,
    data: ImageSource,
    device: torch.device,
    processes: Processes | None = None,
    workers: int | None = None,
) -> Batches:
    """Return the batches that a learngene is trained on, as `train_learngene` makes them: stored logits must be of the same.

    Images of a set in memory keep its size, others are brought to the network's; `workers` is as in `Batches.of_images`.
    """
    return SourceImages(data, config, device, processes, workers).batches(config.training)


def learngene_of(model: AuxiliaryModel, description: Description) -> Learngene:
    """Return the learngene that a trained auxiliary model holds."""
    tensors = {name: tensor.float().cpu().numpy() for name, tensor in model.learngene_tensors().items()}
    return Learngene.create(description, tensors)


def measured_depths(depths: Depths) -> tuple[int, ...]:
    """Return the depths measured after each epoch: the largest, and in elastic training a middle one and the smallest."""
    if depths.rule is DepthRule.FIXED:
        return (depths.train,)
    return tuple(sorted({depths.train, (depths.train + depths.train_min) // 2, depths.train_min}, reverse=True))


def depth_metrics(
    model: AuxiliaryModel,
    data: ImageSource,
    config: LearngeneConfig,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    pixels: Pixels | None = None,
) -> dict[str, float]:
    """Return `top1` and `images` at the largest depth, and `top1_depth_<d>` at the other measured ones.

    `pixels` are those of `data`; a set in memory needs none.
    """
    metrics: dict[str, float] = {}
    for depth in measured_depths(config.depths):

        def logits_of(images: Tensor, depth: int = depth) -> Tensor:
            return model(prepare(images, config.network.img_size, preprocessing), depth)  # type: ignore[no-any-return]

        autocast = config.training.precision is not Precision.FLOAT32
        top1 = measure_top1(logits_of, data, device=device, pixels=pixels, batch_size=MEASURED_AT_ONCE, autocast=autocast)
        metrics |= top1.metrics() if depth == config.depths.train else {f"top1_depth_{depth}": top1.fraction}
    return metrics


def train_learngene(
    name: str,
    config: LearngeneConfig,
    teacher: Teacher | None,
    data: ImageSource,
    *,
    test_data: ImageSource | None,
    folder: Path,
    command: str,
    licence: str,
    journal: Observer,
    device: torch.device,
    resume: bool = False,
    processes: Processes | None = None,
    workers: int | None = None,
) -> Learngene:
    """Train an auxiliary model and return its learngene, without measured accuracy.

    Args:
        name: The learngene's id.
        config: What is trained, and how.
        teacher: Of the same classes as `data`; None where alpha is 0.
        data: Training images.
        test_data: Images to measure on after each epoch, or None.
        folder: Where checkpoints lie.
        command: The command line, for the provenance.
        licence: The licence that the learngene is given.
        journal: Where progress is told.
        device: Where it computes.
        resume: Go on from the checkpoint in `folder`.
        processes: Those that share the run; the first one measures, and keeps the checkpoints.
        workers: Processes that decode and augment, for each of those; 0 for threads; None to choose.

    Raises:
        ConfigError: The classes of data, test data and teacher are not the same.
    """
    check_sources(data, test_data, teacher)
    provenance = Provenance(
        data_set=f"{data.name} ({len(data):,} images)",
        ancestry="none: trained on labels" if teacher is None else teacher.describe(),
        command=command,
        version=__version__,
        licence=licence,
        notes=summary(config),
    )
    preprocessing = config.preprocessing
    together = processes or Processes()

    description = describe_learngene(name, config, provenance, data.class_names, preprocessing)
    with ExitStack() as opened:
        held_out: HeldOut | None = None
        if test_data is not None:
            held_out = opened.enter_context(closing(HeldOut(test_data, config, device, together, workers)))
        trainer = learngene_trainer(
            config,
            opened.enter_context(training_batches(config, data, device, together, workers)),
            teacher,
            num_classes=len(data.class_names),
            preprocessing=preprocessing,
            keeper=FolderKeeper(folder, config.training.checkpoint_every_steps),
            observer=journal,
            device=device,
            measure=None if held_out is None else partial(_measure, held_out, config, device),
            processes=together,
        )
        if resume:
            trainer.load()
        return learngene_of(trainer.run(), description)


def _measure(held_out: HeldOut, config: LearngeneConfig, device: torch.device, model: AuxiliaryModel) -> dict[str, float]:
    """Return the accuracy at some depths, which the first process measures."""
    return held_out.metrics(
        lambda pixels: depth_metrics(model, held_out.data, config, config.preprocessing, device, pixels=pixels)
    )
