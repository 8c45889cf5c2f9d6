"""The training loop: any module and objective over an image set, resumable to the bit.

AdamW and a cosine schedule with warm-up, both from timm's factories; gradient accumulation equal to the large batch; EMA. The
order of the images follows from the seed and the epoch, every other random number from generators whose states are in the
checkpoint, so a run that was killed ends with the weights of one that was not (on one CPU; GPU kernels may round otherwise).
What is learned, from what loss, is the objective's business.

Shape legend: B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.images import ImageSet
from tleg_core.training.augmentation import flip_and_shift, mix
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.config import TrainingConfig
from tleg_core.training.errors import TrainingDivergedError, TrainingInterruptedError
from tleg_core.training.evaluate import Top1
from tleg_core.training.interruption import stop_requests
from tleg_core.training.journal import Journal
from tleg_core.training.preprocessing import to_unit

CHECKPOINT_NAME = "checkpoint.safetensors"
JOURNAL_NAME = "journal.jsonl"
_SHOW_EVERY_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an objective makes of a batch: the scalar loss (mean over the batch) and the logits (B, C)."""

    loss: Tensor
    logits: Tensor


ModelT = TypeVar("ModelT", bound=nn.Module)

Objective: TypeAlias = Callable[[Tensor, Tensor], Outcome]
"""Takes images (B, 3, H, W) in 0..1 and targets, int64 (B,) or float (B, C), on the training device."""


class Trainer(Generic[ModelT]):
    """One run of a module through an image set.

    Args:
        model: What is trained, its weights loaded and on `device`; the EMA starts as a copy of it.
        objective: Computes the loss through `model`.
        data: The training images.
        config: How long and how fast.
        folder: Where the checkpoint lies.
        identity: What else must be equal for a run to go on, as JSON: the network, the objective.
        journal: Where progress is told.
        device: Where it computes.
        measure: Gives the accuracy after each epoch; None for no test images.
    """

    def __init__(
        self,
        model: ModelT,
        objective: Objective,
        data: ImageSet,
        config: TrainingConfig,
        *,
        folder: Path,
        identity: Mapping[str, Any],
        journal: Journal,
        device: torch.device,
        measure: Callable[[ModelT], Top1] | None = None,
    ) -> None:
        self._model, self._objective, self._config = model, objective, config
        self._journal, self._device, self._measure = journal, device, measure
        self._checkpoint_path = folder / CHECKPOINT_NAME
        self._pixels = torch.from_numpy(data.images).to(device)  # (N, H, W, 3)
        self._labels = torch.from_numpy(data.labels).to(device)  # (N,)
        self._num_classes = data.num_classes
        self._steps_per_epoch = len(data) // config.batch_size
        if not self._steps_per_epoch:
            raise ConfigError("batch_size", f"{config.batch_size} is more than the {len(data)} images of {data.name}")
        self._total_steps = config.epochs * self._steps_per_epoch
        self._identity = json.loads(json.dumps({**identity, "training": config.decisive(), "data": data.digest()}))
        self._optimizer = create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)
        self._scheduler, _ = create_scheduler_v2(
            self._optimizer,
            sched="cosine",
            num_epochs=config.epochs,
            min_lr=config.min_lr,
            warmup_lr=config.warmup_lr,
            warmup_epochs=config.warmup_epochs,
            step_on_epochs=False,
            updates_per_epoch=self._steps_per_epoch,
        )
        self._ema = None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._global_states: dict[str, Tensor] = {}  # of PyTorch's own generators, which stochastic depth draws from
        self._step = 0
        self._epoch_loss = torch.zeros((), dtype=torch.float64, device=device)
        self._epoch_correct = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def result(self) -> ModelT:
        """The trained module: the EMA where there is one."""
        return self._model if self._ema is None else cast("ModelT", self._ema.module)

    def run(self) -> ModelT:
        """Train to the end, from wherever the run stands, and return `result`.

        Raises:
            TrainingInterruptedError: The process was asked to stop; the checkpoint is written.
            TrainingDivergedError: The loss is not finite; the last checkpoint stands.
        """
        started_s, started_step = time.monotonic(), self._step
        self._restore_global_generators()
        with stop_requests() as stop_requested:
            while self._step < self._total_steps:
                self._model.train()
                self._update(*self._batch())
                done = self._step % self._steps_per_epoch or self._steps_per_epoch
                rate = (self._step - started_step) * self._config.batch_size / (time.monotonic() - started_s)
                if self._step % _SHOW_EVERY_STEPS == 0 or self._step == self._total_steps:
                    state = f"loss {self._mean_loss(done):.4f}, {rate:.0f} images/s"
                    self._journal.show_step(self._step, self._total_steps, state)
                if done == self._steps_per_epoch:
                    self._end_epoch(rate)
                    self.save()
                elif self._step % self._config.checkpoint_every_steps == 0:
                    self.save()
                if stop_requested() and self._step < self._total_steps:
                    self.save()
                    raise TrainingInterruptedError(
                        f"stopped after step {self._step} of {self._total_steps}; "
                        f"{self._checkpoint_path} is written: give the same command with --resume to go on"
                    )
        return self.result

    def _restore_global_generators(self) -> None:
        """Bring PyTorch's own generators to where the run stands, whatever drew from them in between."""
        torch.manual_seed(self._config.seed)
        if "cpu" in self._global_states:
            torch.set_rng_state(self._global_states["cpu"])
        if "cuda" in self._global_states and self._device.type == "cuda":
            torch.cuda.set_rng_state(self._global_states["cuda"], self._device)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, H, W) in 0..1 and targets of the next update."""
        config = self._config
        epoch, position = divmod(self._step, self._steps_per_epoch)
        shuffle = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._labels), generator=shuffle)
        chosen = order[position * config.batch_size : (position + 1) * config.batch_size].to(self._device)
        pixels = flip_and_shift(self._pixels[chosen], config.augmentation, self._generator)
        return mix(to_unit(pixels), self._labels[chosen], config.augmentation, self._num_classes, self._generator)

    def _update(self, images: Tensor, targets: Tensor) -> None:
        """Take one optimiser step on the mean loss of the whole batch, computed part by part."""
        parts = self._config.micro_batches
        self._optimizer.zero_grad()
        for part, part_targets in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._config.autocast):
                outcome = self._objective(part, part_targets)
            loss = outcome.loss / parts
            loss.backward()  # type: ignore[no-untyped-call]
            labels = part_targets if part_targets.ndim == 1 else part_targets.argmax(dim=1)
            self._epoch_loss += loss.detach()
            self._epoch_correct += (outcome.logits.detach().argmax(dim=1) == labels).sum()
        self._optimizer.step()
        self._step += 1
        self._scheduler.step_update(self._step)
        if self._ema is not None:
            self._ema.update(self._model)

    def _mean_loss(self, steps: int) -> float:
        loss = self._epoch_loss.item() / steps
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"the loss is {loss} at step {self._step}: lower the learning rate")
        return loss

    def _end_epoch(self, rate: float) -> None:
        loss, steps = self._mean_loss(self._steps_per_epoch), self._steps_per_epoch
        train_top1 = int(self._epoch_correct) / (steps * self._config.batch_size)
        self._epoch_loss.zero_()
        self._epoch_correct.zero_()
        epoch = self._step // steps
        test = None if self._measure is None else self._measure(self.result.eval())
        words = f"epoch {epoch}/{self._config.epochs}: loss {loss:.5f}, train top-1 {train_top1:.2%} (augmented)"
        self._journal.write(
            "epoch",
            words + (f", test top-1 {test.fraction:.2%}" if test else "") + f", {rate:.0f} images/s",
            epoch=epoch,
            step=self._step,
            loss=loss,
            train_top1=train_top1,
            test_top1=test.fraction if test else None,
            test_images=test.images if test else None,
            next_lr=self._optimizer.param_groups[0]["lr"],
            images_per_s=round(rate, 1),
        )

    def save(self) -> None:
        """Publish the checkpoint; nothing that is not finite gets there."""
        self._mean_loss(self._steps_per_epoch)
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        if self._ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self._ema.module.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors |= {"generator.augmentation": self._generator.get_state(), "global.cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors["global.cuda"] = torch.cuda.get_rng_state(self._device)
        tensors |= {"epoch.loss": self._epoch_loss, "epoch.correct": self._epoch_correct}
        Checkpoint(tensors=tensors, facts={"step": self._step, "identity": self._identity}).write(self._checkpoint_path)

    def load(self) -> None:
        """Go on from the checkpoint.

        Raises:
            CheckpointError: There is none, it is broken, or it is of another run (the difference is named).
        """
        checkpoint = Checkpoint.read(self._checkpoint_path)
        before = checkpoint.facts["identity"]
        changed = sorted(name for name in before.keys() | self._identity.keys() if before.get(name) != self._identity.get(name))
        if changed:
            details = "; ".join(f"{name} was {before.get(name)}, is {self._identity.get(name)}" for name in changed)
            raise CheckpointError(f"{self._checkpoint_path} is of another run: {details}")
        try:
            self._model.load_state_dict(checkpoint.part("model"), strict=True)
            if self._ema is not None:
                self._ema.module.load_state_dict(checkpoint.part("ema"), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"{self._checkpoint_path} does not fit the model: {error}") from error
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.part("optimizer").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})
        self._generator.set_state(checkpoint.tensors["generator.augmentation"])
        self._global_states = checkpoint.part("global")
        self._epoch_loss.copy_(checkpoint.tensors["epoch.loss"])
        self._epoch_correct.copy_(checkpoint.tensors["epoch.correct"])
        self._step = int(checkpoint.facts["step"])
        self._scheduler.step_update(self._step)
