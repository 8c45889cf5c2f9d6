"""Heur-LG: how stable each layer of an ancestry model is while it learns one task after the other.

A layer whose weight gradients stay small, and alike from task to task, holds what all tasks share. The ancestry ViT is trained
on a sequence of tasks, each with a fresh head and an optimiser of its own; before every update the share of each layer's
weight-gradient entries that are above a threshold is noted. From these rates `layer_choice` chooses. The gradients are those of
the parameters themselves, of the cross-entropy alone: the penalty that holds earlier tasks' weights is taken off.

Source: Learngene (AAAI 2022, arXiv 2106.06788). The authors' collective model also grows wider from task to task; a ViT whose
layers are to be compared, and inherited, keeps its width here.

Shape legend: S tasks, W windows of a task, L layers, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tleg_core.canonical import Json
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.inheritance_config import Stability
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.class_tasks import ClassTask, TaskBatches, draw_tasks
from tleg_core.training.collective_model import CollectiveModel
from tleg_core.training.draws import generator_of
from tleg_core.training.keeper import Keeper
from tleg_core.training.loop import Outcome, Trainer, Wish, autocast
from tleg_core.training.observer import EpochReport, Observer, StepReport
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import prepare, to_unit
from tleg_core.training_config import TrainingConfig

MAX_EVIDENCE = 20_000
"""Numbers that the evidence may have: it becomes part of the learngene's description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityEvidence:
    """What a sequence of tasks shows.

    Args:
        rates: (S, W, L), each a share from 0 to 1.
        threshold: What gradients were compared with.
        tasks: The classes of each task.
        weights: The network after the last task, without a head, on the CPU.
    """

    rates: npt.NDArray[np.float64]
    threshold: float
    tasks: tuple[tuple[int, ...], ...]
    weights: Mapping[str, Tensor]

    def details(self) -> dict[str, Json]:
        """Return the evidence as a JSON object, rates rounded to six places."""
        rates = self.rates
        tables: dict[str, npt.NDArray[np.float64]] = {
            "rate_by_task": rates.mean(axis=1),
            "rate_by_window": rates.mean(axis=0),
            "mean_rate": rates.mean(axis=(0, 1)),
            "deviation_across_tasks": rates.std(axis=0).mean(axis=0),
        }
        details: dict[str, Json] = {name: table.round(6).tolist() for name, table in tables.items()}
        return details | {"threshold": self.threshold, "tasks": [list(classes) for classes in self.tasks]}


class _Sequence:
    """The tasks' common circumstances, as `measure_stability` takes them."""

    def __init__(
        self, ancestry: AncestryVit, plain: Pixels, stability: Stability, training: TrainingConfig, device: torch.device
    ) -> None:
        self._ancestry, self._plain, self._stability = ancestry, plain, stability
        self._training, self._device = training, device
        self.model = CollectiveModel(ancestry, stability, drop_path=training.drop_path, device=device)
        if training.grad_checkpointing:
            network: Any = self.model.network
            network.set_grad_checkpointing(True)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy, a scalar, and the logits (B, C)."""
        logits: Tensor = self.model(self._input(batch.images))
        return functional.cross_entropy(logits.float(), batch.targets), logits

    def calibrate(self, batches: Batches) -> None:
        """Set the threshold by the first batch, computed in as many parts as it is trained in."""
        self.model.eval()
        self.model.set_threshold(self._shares(batches.of(0)))

    def trainer(
        self,
        task: ClassTask,
        batches: Batches,
        *,
        steps: int,
        keeper: Keeper,
        observer: Observer,
        wish: Callable[[], Wish] | None,
    ) -> Trainer[CollectiveModel]:
        """Return the run of one task; the optimiser is its own, from its first update to its last."""

        def objective(batch: Batch) -> Outcome:
            loss, logits = self.loss(batch)
            return Outcome(loss=loss + self.model.consolidation.penalty(), logits=logits)

        def gradients(step: int) -> None:
            self.model.note_gradients(task.number, step * self._stability.windows // steps)

        identity: dict[str, Any] = {"ancestry": self._ancestry.identity, "stability": asdict(self._stability)}
        return Trainer(
            self.model,
            objective,
            batches,
            self._training,
            identity=identity | {"task": task.number, "classes": list(task.classes)},
            keeper=keeper,
            observer=observer,
            device=self._device,
            wish=wish,
            gradients=gradients,
        )

    def hold(self, task: ClassTask) -> None:
        """Have the weights held that a task ended with, by some of its images as they are."""
        if not self._stability.ewc_lambda:
            return
        generator = generator_of(self._training.seed, "fisher", task.number)
        chosen = torch.randperm(len(task.rows), generator=generator)[: self._stability.fisher_images]
        images = to_unit(self._plain.take(task.rows[chosen.numpy()].tolist(), 0))
        self.model.hold_task(self._input(images), generator)

    def _shares(self, batch: Batch) -> Iterator[Tensor]:
        """Yield what each part of a batch adds to its loss."""
        for part in batch.chunk(self._training.micro_batches):
            with autocast(self._device, self._training.precision):
                loss, _ = self.loss(part)
            yield loss * (len(part) / len(batch))

    def _input(self, images: Tensor) -> Tensor:
        return prepare(images, self._ancestry.config.img_size, self._ancestry.preprocessing)


def stability_steps(labels: npt.NDArray[np.int64], stability: Stability, training: TrainingConfig) -> int:
    """Return the updates of the whole sequence on images of these classes; raises `ConfigError` as `draw_tasks` does."""
    tasks = draw_tasks(labels, num_tasks=stability.num_tasks, classes_per_task=stability.classes_per_task, seed=training.seed)
    return sum(_steps(task, training) for task in tasks)


def _steps(task: ClassTask, training: TrainingConfig) -> int:
    return len(task.rows) // training.batch_size * training.epochs


def measure_stability(
    ancestry: AncestryVit,
    data: ImageSource,
    pixels: Pixels,
    stability: Stability,
    training: TrainingConfig,
    *,
    plain: Pixels,
    keeper: Keeper,
    observer: Observer,
    device: torch.device,
    wish: Callable[[], Wish] | None = None,
    resume: bool = False,
) -> StabilityEvidence:
    """Train the ancestry through the tasks and return what was seen. One checkpoint serves the whole sequence.

    Args:
        ancestry: What is looked at; stays as it is.
        data: The images and classes that tasks are made of.
        pixels: Those of `data`, as tasks are trained on them.
        stability: The tasks.
        training: How each is trained, and the seed of all draws.
        plain: The pixels of `data` whose images no draw changes.
        keeper: Keeps the checkpoint.
        observer: Is told how it goes; epochs and updates are counted through all tasks.
        device: Where it computes.
        wish: As the training loop's.
        resume: Go on from the kept checkpoint.

    Raises:
        ConfigError: A task cannot be made of these images.
        TrainingInterruptedError: It was asked to stop; the checkpoint is kept.
        TrainingDivergedError: The loss is not finite.
    """
    tasks = draw_tasks(
        data.labels, num_tasks=stability.num_tasks, classes_per_task=stability.classes_per_task, seed=training.seed
    )
    steps = [_steps(task, training) for task in tasks]
    _check(ancestry, stability, tasks, steps, training)
    all_batches = TaskBatches(data, pixels, training, ancestry.preprocessing, device)
    sequence = _Sequence(ancestry, plain, stability, training, device)
    model = sequence.model
    first = _task_of(keeper, len(tasks)) if resume else 0
    for task in tasks[first:]:
        before, total = sum(steps[: task.number]), sum(steps)
        with all_batches.of(task) as batches:
            model.begin(task.number, training.seed)
            if task.number == 0:
                sequence.calibrate(batches)
            trainer = sequence.trainer(
                task,
                batches,
                steps=steps[task.number],
                keeper=_KeptInSequence(keeper, before),
                observer=_InSequence(observer, task.number, len(tasks), training.epochs, before=before, total=total),
                wish=wish,
            )
            if resume and task.number == first:
                trainer.load()
            observer.note(f"task {task.number + 1} of {len(tasks)}: classes {', '.join(map(str, task.classes))}")
            trainer.run()
        if task.number + 1 < len(tasks):
            sequence.hold(task)
    rates = model.rates / model.counts[..., None]
    return StabilityEvidence(
        rates=rates.cpu().numpy(),
        threshold=float(model.threshold),
        tasks=tuple(task.classes for task in tasks),
        weights=model.body(),
    )


def _check(
    ancestry: AncestryVit, stability: Stability, tasks: list[ClassTask], steps: list[int], training: TrainingConfig
) -> None:
    """Raise `ConfigError` where the sequence cannot be trained, or its evidence would not fit the learngene."""
    for task, count in zip(tasks, steps, strict=True):
        if not count:
            raise ConfigError(
                "training.batch_size", f"{training.batch_size} is more than the {len(task.rows)} images of task {task.number}"
            )
        if count < stability.windows:
            raise ConfigError("stability.windows", stability.lacking_updates(count, f"task {task.number} has"))
    numbers = (stability.num_tasks + stability.windows) * ancestry.depth + stability.num_tasks * stability.classes_per_task
    if numbers > MAX_EVIDENCE:
        raise ConfigError("stability.num_tasks", f"gives {numbers:,} numbers of evidence, more than {MAX_EVIDENCE:,}")


def _task_of(keeper: Keeper, count: int) -> int:
    """Return the task that a kept checkpoint is in the middle, or at the end, of."""
    number = keeper.read().facts["identity"].get("task")
    if not isinstance(number, int) or not 0 <= number < count:
        raise CheckpointError(f"{keeper} is of another run: it is in no task of this sequence")
    return number


class _KeptInSequence:
    """Keeps one task's checkpoints, its updates counted from the sequence's beginning."""

    def __init__(self, keeper: Keeper, before: int) -> None:
        self._keeper, self._before = keeper, before

    def __str__(self) -> str:
        """Return what the sequence's keeper is called."""
        return str(self._keeper)

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether the sequence's keeper wants one."""
        return self._keeper.due(self._before + step, ends_epoch=ends_epoch)

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep it."""
        self._keeper.keep(checkpoint, self._before + step)

    def read(self) -> Checkpoint:
        """Return the kept checkpoint."""
        return self._keeper.read()


class _InSequence:
    """Passes on one task's reports as those of the whole sequence."""

    def __init__(self, observer: Observer, task: int, tasks: int, epochs: int, *, before: int, total: int) -> None:
        self._observer, self._epochs_before, self._epochs = observer, task * epochs, tasks * epochs
        self._steps_before, self._steps = before, total

    def stepped(self, report: StepReport) -> None:
        """Pass it on."""
        epoch, step = self._epochs_before + report.epoch, self._steps_before + report.step
        self._observer.stepped(replace(report, epoch=epoch, step=step, steps=self._steps))

    def epoch_done(self, report: EpochReport) -> None:
        """Pass it on."""
        epoch, step = self._epochs_before + report.epoch, self._steps_before + report.step
        self._observer.epoch_done(replace(report, epoch=epoch, epochs=self._epochs, step=step))

    def note(self, message: str) -> None:
        """Pass it on."""
        self._observer.note(message)
