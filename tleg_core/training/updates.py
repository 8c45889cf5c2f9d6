"""The updates of a run: AdamW and a cosine schedule with warm-up, both from timm's factories; clipping, loss scale and EMA.

In float16 the loss is multiplied before the backward pass, lest small gradients vanish, and the gradients divided afterwards
(Micikevicius et al., arXiv 1710.03740). Where one of them overflows the update is left out: weights, AdamW's moments and the
EMA stay as they are, and the factor is halved; it doubles after 2,000 updates without that. An update that was left out counts
as one all the same: the schedule, the epochs and the images go on, so that a run is as long as its configuration says.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from tleg_core.errors import CheckpointError
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.errors import TrainingDivergedError
from tleg_core.training.processes import Processes
from tleg_core.training_config import Precision, TrainingConfig

_SMALLEST_SCALE = 2.0**-14  # float16's smallest normal number: gradients that overflow even so are not finite at all

ModelT = TypeVar("ModelT", bound=nn.Module)


class Updates(Generic[ModelT]):
    """What turns the gradients of a module into its next weights.

    Args:
        model: Its weights loaded and on `device`: the EMA starts as its copy. What needs no gradient stays as it is.
        config: How fast.
        steps_per_epoch: Updates in an epoch.
        device: Where it computes.
        processes: Those that share the run.
    """

    def __init__(
        self, model: ModelT, config: TrainingConfig, *, steps_per_epoch: int, device: torch.device, processes: Processes
    ) -> None:
        self._model, self._config, self._processes = model, config, processes
        self._optimizer = create_optimizer_v2(
            model,
            opt="adamw",
            lr=config.lr,
            weight_decay=config.weight_decay,
            layer_decay=None if config.layer_decay == 1.0 else config.layer_decay,
            fused=True,  # one kernel for all parameters: half the time of the default on a CPU, less on a GPU
        )
        self._scheduler, _ = create_scheduler_v2(
            self._optimizer,
            sched="cosine",
            num_epochs=config.epochs,
            min_lr=config.min_lr,
            warmup_lr=config.warmup_lr,
            warmup_epochs=config.warmup_epochs,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision is Precision.FLOAT16)
        self._trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._ema = None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay)

    @property
    def result(self) -> ModelT:
        """The trained module: the EMA where there is one."""
        return self._model if self._ema is None else cast("ModelT", self._ema.module)

    @property
    def lr(self) -> float:
        """The learning rate of the next update, of the layers that it is not scaled down for."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def forget(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss to those that are there."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def apply(self, step: int) -> None:
        """Change the weights by the gradients, or leave that out where float16 overflowed; `step` updates are done then.

        Raises:
            TrainingDivergedError: The gradients overflow however small the loss is scaled.
        """
        self._processes.average_gradients(self._trained)  # one that is not finite is so in all processes afterwards
        self._scaler.unscale_(self._optimizer)
        if self._config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self._trained, self._config.clip_grad)
        if self._step() and self._ema is not None:
            self._ema.update(self._model)
        self._scheduler.step_update(step)

    def _step(self) -> bool:
        """Take AdamW's step; False where it was left out."""
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() >= scale:
            return True
        if scale < _SMALLEST_SCALE:
            raise TrainingDivergedError("the gradients overflow float16 whatever the loss is scaled by: train in bfloat16")
        return False

    def tensors(self) -> dict[str, Tensor]:
        """Return the state: weights, EMA and AdamW's moments."""
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        if self._ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self._ema.module.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        return tensors

    def facts(self) -> dict[str, Any]:
        """Return the loss's scale, as JSON."""
        return self._scaler.state_dict()

    def load(self, checkpoint: Checkpoint, step: int) -> None:
        """Go on from a checkpoint's state after `step` updates.

        Raises:
            CheckpointError: It is not this module's.
        """
        try:
            self._model.load_state_dict(checkpoint.part("model"), strict=True)
            if self._ema is not None:
                self._ema.module.load_state_dict(checkpoint.part("ema"), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.part("optimizer").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(checkpoint.facts["scaler"])
        self._scheduler.step_update(step)
