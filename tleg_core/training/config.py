"""The settings of a training run: how long, how fast, with what augmentation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tleg_core.errors import ConfigError
from tleg_core.training.augmentation import Augmentation


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How long and how fast.

    Args:
        epochs: Passes over the images; an incomplete last batch is left out of each.
        batch_size: Images for one update.
        micro_batches: Parts that a batch is computed in; the gradient is that of the whole batch.
        lr: Peak learning rate, not scaled by the batch.
        min_lr: Learning rate at the end of the cosine.
        warmup_lr: Learning rate at the start.
        warmup_epochs: Epochs of linear warm-up, fewer than `epochs`.
        weight_decay: AdamW's; not on vectors, biases, norms and the position embedding.
        layer_decay: Factor on the learning rate from each layer to the one before it; 1 for none. Needs a timm model.
        clip_grad: Largest norm of the gradient; None for no limit.
        ema_decay: Decay of the exponential moving average that becomes the result; None for none.
        autocast: bfloat16 where PyTorch thinks it safe.
        seed: Of the order of images, augmentation and stochastic depth.
        augmentation: What is done to a batch.
        checkpoint_every_steps: Updates between checkpoints in a folder; one is also made at each epoch's end.
    """

    epochs: int
    batch_size: int = 128
    micro_batches: int = 1
    lr: float = 5e-4
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: int = 0
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip_grad: float | None = None
    ema_decay: float | None = None
    autocast: bool = True
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    checkpoint_every_steps: int = 200

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batches", "checkpoint_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, not {getattr(self, name)}")
        if self.batch_size % self.micro_batches:
            raise ConfigError("micro_batches", f"{self.micro_batches} does not divide batch_size {self.batch_size}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError("warmup_epochs", f"must be from 0 to {self.epochs - 1}, not {self.warmup_epochs}")
        for name in ("lr", "min_lr", "warmup_lr", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0) or (name == "lr" and value == 0.0):
                raise ConfigError(name, f"must be a finite number above 0, not {value}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError("layer_decay", f"must be above 0 and at most 1, not {self.layer_decay}")
        if self.clip_grad is not None and not (math.isfinite(self.clip_grad) and self.clip_grad > 0.0):
            raise ConfigError("clip_grad", f"must be a finite number above 0, not {self.clip_grad}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ConfigError("ema_decay", f"must be between 0 and 1, not {self.ema_decay}")
        if self.augmentation.mixes and self.batch_size % 2:
            raise ConfigError("batch_size", "must be even for mixup and cutmix")

    def decisive(self) -> dict[str, Any]:
        """Return, as JSON, the settings that decide the result; how often a checkpoint is made does not."""
        settings = asdict(self)
        del settings["checkpoint_every_steps"]
        return settings
