"""The training loop: any module and objective over batches of images, resumable to the bit from any update.

Gradient accumulation equal to the large batch, and more of it where memory runs out; several processes. Every random number
follows from the seed and the update's number, so a run that was killed ends with the weights of one that was not (on one CPU;
GPU kernels may round otherwise). What is learned, from what loss, is the objective's business; which images, `batches`'; what
gradients become, `updates`'; where checkpoints lie, the keeper's; who is told, the observer's.

Shape legend: B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, NamedTuple, TypeAlias

import torch
from torch import Tensor

from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.draws import seed_of
from tleg_core.training.errors import (
    MeasurementStoppedError,
    TrainingDivergedError,
    TrainingInterruptedError,
    TrainingMemoryError,
    is_out_of_memory,
)
from tleg_core.training.interruption import stop_requests
from tleg_core.training.keeper import Keeper
from tleg_core.training.observer import EpochReport, Observer, StepReport
from tleg_core.training.processes import Processes
from tleg_core.training.updates import ModelT, Updates
from tleg_core.training_config import Precision, TrainingConfig

_REPORT_S = 0.5
_RATE_S = 10.0  # the rate is that of the last so many seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an objective makes of a batch: the scalar loss (mean over the batch) and the logits (B, C)."""

    loss: Tensor
    logits: Tensor


Objective: TypeAlias = Callable[[Batch], Outcome]
"""Takes a batch, or a part of one."""


_HALF = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a network computes in `precision` where PyTorch thinks it safe."""
    half = _HALF.get(precision)
    return torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)


class Wish(IntEnum):
    """What is wanted of a run between two updates."""

    GO_ON = 0
    SAVE = 1  # save a checkpoint and stop
    DROP = 2  # stop at once


class _Plan(NamedTuple):
    """What happens after an update."""

    report: bool
    save: bool
    wish: Wish


def check_share(config: TrainingConfig, processes: Processes) -> None:
    """Raise `ConfigError` where the processes cannot share a batch evenly."""
    each, rest = divmod(config.batch_size, processes.count)
    if rest or (config.augmentation.mixes and each % 2):
        what = "a multiple of the processes, each part even for mixup and cutmix"
        raise ConfigError("training.batch_size", f"must be {what}, not {config.batch_size} for {processes.count}")


class Trainer(Generic[ModelT]):
    """One run of a module through images.

    Args:
        model: What is trained, its weights loaded and on `device`; what needs no gradient stays. The EMA starts as its copy.
        objective: Computes the loss through `model`.
        batches: The training images.
        config: How long and how fast.
        identity: What else must be equal for a run to go on, as JSON: the network, the objective.
        keeper: Says when to save, and keeps what is saved.
        observer: Is told how it goes.
        device: Where it computes.
        measure: Gives named numbers of held-out images after each epoch; None for no such images. It may ask for `wish` and
            raise `MeasurementStoppedError`.
        wish: Says whether to stop, asked after each update; without it, SIGINT and SIGTERM do.
        processes: Those that share the run.
        gradients: Is told, before each update, that this process's gradients of the whole batch are there, and the number of
            updates so far; they are neither clipped nor, but in float16, scaled.

    Raises:
        ConfigError: The processes cannot share the batch evenly.
    """

    def __init__(
        self,
        model: ModelT,
        objective: Objective,
        batches: Batches,
        config: TrainingConfig,
        *,
        identity: Mapping[str, Any],
        keeper: Keeper,
        observer: Observer,
        device: torch.device,
        measure: Callable[[ModelT], Mapping[str, float]] | None = None,
        wish: Callable[[], Wish] | None = None,
        processes: Processes | None = None,
        gradients: Callable[[int], None] = lambda _step: None,
    ) -> None:
        self._gradients = gradients
        self._model, self._objective, self._batches, self._config = model, objective, batches, config
        self._keeper, self._observer, self._device, self._measure, self._wish = keeper, observer, device, measure, wish
        self._processes = processes or Processes()
        self._steps_per_epoch = batches.steps_per_epoch
        self._total_steps = config.epochs * self._steps_per_epoch
        check_share(config, self._processes)
        self._identity = json.loads(json.dumps({**identity, "training": config.decisive(), "data": batches.digest}))
        self._updates = Updates(model, config, steps_per_epoch=self._steps_per_epoch, device=device, processes=self._processes)
        self._parts = config.micro_batches
        self._step = 0
        self._epoch_ended = True  # its end was measured and reported
        self._epoch_loss = torch.zeros((), dtype=torch.float64, device=device)
        self._epoch_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._marks: deque[tuple[float, int]] = deque()  # times and updates that the rate is taken from
        self._rate: float | None = None

    @property
    def result(self) -> ModelT:
        """The trained module: the EMA where there is one."""
        return self._updates.result

    @property
    def total_steps(self) -> int:
        """Updates in all."""
        return self._total_steps

    def run(self) -> ModelT:
        """Train to the end, from wherever the run stands, and return `result`.

        Raises:
            TrainingInterruptedError: It was asked to stop; the checkpoint is saved, if that was asked for.
            TrainingDivergedError: The loss, or what was measured, is not finite; the last checkpoint stands.
            TrainingMemoryError: One image at a time does not fit the memory.
        """
        with self._wishes() as wish:
            reported_s = -math.inf  # the first update is reported at once
            if not self._epoch_ended:
                self._end_epoch(wish)
            self._restart_rate()
            while self._step < self._total_steps:
                self._model.train()
                self._update(self._batch())
                ends_epoch = self._step % self._steps_per_epoch == 0
                report = ends_epoch or time.monotonic() - reported_s >= _REPORT_S
                plan = self._agreed(_Plan(report, self._keeper.due(self._step, ends_epoch=ends_epoch), Wish(wish())))
                if plan.report:
                    reported_s = time.monotonic()
                    self._report_step()
                is_last = self._step == self._total_steps
                if not is_last:
                    self._heed(plan.wish)
                elif plan.save:  # before the measurement, which a run that goes on from here has to report again
                    self.save()
                if ends_epoch:
                    self._end_epoch(wish)
                if plan.save and not is_last:
                    self.save()
                if ends_epoch:
                    self._restart_rate()
        return self.result

    def _wishes(self) -> AbstractContextManager[Callable[[], int]]:
        """Give the function that says what is wanted."""
        return stop_requests() if self._wish is None else nullcontext(self._wish)

    def _agreed(self, plan: _Plan) -> _Plan:
        """Return the first process's plan: what depends on clocks and orders is its to say."""
        if self._processes.count == 1:
            return plan
        report, save, wish = plan
        number = self._processes.largest(report + 2 * save + 4 * wish if self._processes.first else 0)
        return _Plan(bool(number & 1), bool(number & 2), Wish(number >> 2))

    def _heed(self, wish: Wish) -> None:
        if wish is Wish.GO_ON:
            return
        stopped = f"stopped after step {self._step} of {self._total_steps}"
        if wish is Wish.DROP:
            raise TrainingInterruptedError(stopped)
        self.save()
        raise TrainingInterruptedError(f"{stopped}; {self._keeper} is written: give the same command with --resume to go on")

    def _batch(self) -> Batch:
        """Return the batch of the next update."""
        return self._batches.of(self._step)

    def _update(self, batch: Batch) -> None:
        """Take one optimiser step on the mean loss of the whole batch; in more parts if memory does not suffice."""
        while not self._computed_gradients(batch):
            self._halve_parts(len(batch))
        self._gradients(self._step)
        self._step += 1
        self._epoch_ended = self._step % self._steps_per_epoch != 0
        self._updates.apply(self._step)

    def _computed_gradients(self, batch: Batch) -> bool:
        """Compute the gradient part by part; False where any process ran out of memory."""
        torch.manual_seed(seed_of(self._config.seed, "forward", self._step, self._processes.rank))  # stochastic depth
        self._updates.forget()
        loss_sum, correct = torch.zeros_like(self._epoch_loss), torch.zeros_like(self._epoch_correct)
        failed = False
        try:
            for part in batch.chunk(self._parts):
                with autocast(self._device, self._config.precision):
                    outcome = self._objective(part)
                loss = outcome.loss * (len(part) / len(batch))
                self._updates.backward(loss)
                loss_sum += loss.detach()
                labels = part.targets if part.targets.ndim == 1 else part.targets.argmax(dim=1)
                correct += (outcome.logits.detach().argmax(dim=1) == labels).sum()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        if self._processes.largest(failed):
            return False
        self._epoch_loss += loss_sum
        self._epoch_correct += correct
        return True

    def _halve_parts(self, batch: int) -> None:
        """Compute this and every later update in parts half as large."""
        if self._parts >= batch:
            raise TrainingMemoryError
        self._updates.forget()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._parts = min(2 * self._parts, batch)
        self._observer.note(
            f"out of memory at step {self._step + 1}: each batch is now computed in {self._parts} parts; the result is the "
            "same but for rounding and, where drop_path is not 0, for its draws"
        )

    def _mean_loss(self, steps: int) -> float:
        loss = self._processes.sum(self._epoch_loss).item() / (max(steps, 1) * self._processes.count)
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"the loss is {loss} at step {self._step}: lower the learning rate")
        return loss

    @property
    def _steps_of_epoch(self) -> int:
        """Updates that the sums of this epoch are over; 0 only before the first."""
        return self._step % self._steps_per_epoch or min(self._step, self._steps_per_epoch)

    def _restart_rate(self) -> None:
        """Forget the time that passed with other things than training."""
        self._marks.clear()
        self._marks.append((time.monotonic(), self._step))

    def _measure_rate(self) -> None:
        now_s = time.monotonic()
        while len(self._marks) > 1 and now_s - self._marks[0][0] > _RATE_S:
            self._marks.popleft()
        since_s, step = self._marks[0]
        if self._step > step and now_s > since_s:
            self._rate = (self._step - step) * self._config.batch_size / (now_s - since_s)
        self._marks.append((now_s, self._step))

    def _report_step(self) -> None:
        self._measure_rate()
        self._observer.stepped(
            StepReport(
                epoch=self._step // self._steps_per_epoch,
                epoch_steps=self._steps_of_epoch,
                step=self._step,
                steps=self._total_steps,
                train_loss=self._mean_loss(self._steps_of_epoch),
                lr=self._updates.lr,
                images_per_s=self._rate,
            )
        )

    def _end_epoch(self, wish: Callable[[], int]) -> None:
        """Measure and report; what stops the measurement is heeded here, and a run that goes on then measures first."""
        loss, steps = self._mean_loss(self._steps_per_epoch), self._steps_per_epoch
        correct = int(self._processes.sum(self._epoch_correct))
        try:
            metrics = {} if self._measure is None else self._measure(self.result.eval())
        except MeasurementStoppedError:
            self._heed(Wish(wish()))
            raise
        if not all(math.isfinite(value) for value in metrics.values()):  # the last update of the epoch was one too far
            raise TrainingDivergedError(
                f"held-out images give {dict(metrics)} after step {self._step}: lower the learning rate"
            )
        self._epoch_loss.zero_()
        self._epoch_correct.zero_()
        self._epoch_ended = True
        self._observer.epoch_done(
            EpochReport(
                epoch=self._step // steps,
                epochs=self._config.epochs,
                step=self._step,
                train_loss=loss,
                train_top1=correct / (steps * self._config.batch_size),
                lr=self._updates.lr,
                images_per_s=self._rate,
                metrics=metrics,
            )
        )

    def save(self) -> None:
        """Have a checkpoint kept; nothing that is not finite gets there."""
        self._mean_loss(self._steps_per_epoch)
        sums = {"epoch.loss": self._processes.sum(self._epoch_loss), "epoch.correct": self._processes.sum(self._epoch_correct)}
        if not self._processes.first:
            return
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise TrainingDivergedError(f"{name} is not finite after step {self._step}: lower the learning rate")
        facts = {"step": self._step, "ended": self._epoch_ended, "parts": self._parts, "identity": self._identity}
        facts["scaler"] = self._updates.facts()
        self._keeper.keep(Checkpoint(tensors=self._updates.tensors() | sums, facts=facts), self._step)

    def load(self) -> None:
        """Go on from the kept checkpoint.

        Raises:
            CheckpointError: There is none, it is broken, or it is of another run (the difference is named).
        """
        checkpoint = self._keeper.read()
        before = checkpoint.facts["identity"]
        changed = sorted(name for name in before.keys() | self._identity.keys() if before.get(name) != self._identity.get(name))
        if changed:
            details = "; ".join(f"{name} was {before.get(name)}, is {self._identity.get(name)}" for name in changed)
            raise CheckpointError(f"{self._keeper} is of another run: {details}")
        self._step, self._epoch_ended = int(checkpoint.facts["step"]), bool(checkpoint.facts["ended"])
        self._updates.load(checkpoint, self._step)
        if self._processes.first:
            self._epoch_loss.copy_(checkpoint.tensors["epoch.loss"])
            self._epoch_correct.copy_(checkpoint.tensors["epoch.correct"])
        self._parts = int(checkpoint.facts["parts"])
