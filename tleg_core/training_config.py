"""The settings of a training run: how long, how fast, in what arithmetic, with what augmentation. Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from tleg_core.errors import ConfigError

MAX_EPOCHS = 10_000
MAX_BATCH_SIZE = 65_536


class Precision(StrEnum):
    """The arithmetic of the forward and backward pass; weights and optimiser are float32 always."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"  # with a scaled loss


class Crop(StrEnum):
    """How a training image is cut out of a stored one."""

    LIGHT = "light"  # the whole image, flipped and shifted, a batch at once on the device
    RANDOM_RESIZED = "random-resized"  # timm's random resized crop, image by image


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to a training batch.

    Args:
        flip: Probability of a horizontal flip.
        shift: Largest shift along each axis, in pixels; what comes in is a copy of the edge. With `Crop.LIGHT`.
        crop: How the image is cut out.
        rand_augment: timm's RandAugment policy, such as `rand-m9-mstd0.5-inc1`; None for none. With `Crop.RANDOM_RESIZED`.
        color_jitter: timm's colour jitter, used where RandAugment is not. With `Crop.RANDOM_RESIZED`.
        mixup_alpha: timm's mixup: parameter of the Beta distribution; 0 is off.
        cutmix_alpha: timm's cutmix, likewise; a batch gets the one or the other.
        random_erasing: Probability of timm's random erasing, with noise.
        label_smoothing: Share of a mixed label that is spread over all classes; of one not mixed, the loss's business.
        repeats: How often each image comes in an epoch, in different draws (DeiT's repeated augmentation); an epoch stays
            as long.
        views: With a number V, the draws of an image follow from its row and the epoch modulo V alone, so that a teacher's
            logits can be stored beforehand, once for runs of any seed; None draws anew in each epoch.
    """

    flip: float = 0.5
    shift: int = 2
    crop: Crop = Crop.LIGHT
    rand_augment: str | None = None
    color_jitter: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    random_erasing: float = 0.0
    label_smoothing: float = 0.0
    repeats: int = 1
    views: int | None = None

    def __post_init__(self) -> None:
        within("flip", self.flip, 0.0, 1.0)
        if not 0 <= self.shift <= 64:
            raise ConfigError("shift", f"must be from 0 to 64 pixels, not {self.shift}")
        for name in ("mixup_alpha", "cutmix_alpha"):
            within(name, getattr(self, name), 0.0, 10.0)
        within("random_erasing", self.random_erasing, 0.0, 1.0)
        within("label_smoothing", self.label_smoothing, 0.0, 0.9)
        within("color_jitter", self.color_jitter, 0.0, 1.0)
        within("repeats", self.repeats, 1, 16)
        if self.rand_augment is not None and self.crop is Crop.LIGHT:
            raise ConfigError("rand_augment", f"needs crop {Crop.RANDOM_RESIZED}")
        if self.color_jitter and self.crop is Crop.LIGHT:
            raise ConfigError("color_jitter", f"needs crop {Crop.RANDOM_RESIZED}")
        if self.views is not None:
            within("views", self.views, 1, 1000)
            if self.mixes or self.random_erasing:
                raise ConfigError("views", "cannot be had with mixup, cutmix or random erasing, which are drawn batch by batch")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup_alpha > 0.0 or self.cutmix_alpha > 0.0


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
        drop_path: Stochastic depth, the rate of the last block.
        clip_grad: Largest norm of the gradient; None for no limit.
        ema_decay: Decay of the exponential moving average that becomes the result; None for none.
        precision: The arithmetic of the passes, where PyTorch thinks it safe.
        compile: Whether the network is compiled.
        grad_checkpointing: Whether activations are computed again in the backward pass instead of kept.
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
    drop_path: float = 0.0
    clip_grad: float | None = None
    ema_decay: float | None = None
    precision: Precision = Precision.BFLOAT16
    compile: bool = False
    grad_checkpointing: bool = False
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    checkpoint_every_steps: int = 200

    def __post_init__(self) -> None:
        for name, limit in (
            ("epochs", MAX_EPOCHS),
            ("batch_size", MAX_BATCH_SIZE),
            ("micro_batches", MAX_BATCH_SIZE),
            ("checkpoint_every_steps", 10**9),
        ):
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(name, f"must be at least 1 and at most {limit}, not {getattr(self, name)}")
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
        within("drop_path", self.drop_path, 0.0, 0.9)
        if self.clip_grad is not None and not (math.isfinite(self.clip_grad) and self.clip_grad > 0.0):
            raise ConfigError("clip_grad", f"must be a finite number above 0, not {self.clip_grad}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ConfigError("ema_decay", f"must be between 0 and 1, not {self.ema_decay}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError("seed", f"must be from 0 to 2^63 - 1, not {self.seed}")
        if self.augmentation.mixes and self.batch_size % 2:
            raise ConfigError("batch_size", "must be even for mixup and cutmix")

    def decisive(self) -> dict[str, Any]:
        """Return, as JSON, the settings that decide the result; how often a checkpoint is made does not."""
        settings = asdict(self)
        del settings["checkpoint_every_steps"]
        return settings


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless `value` is a finite number from `low` to `high`."""
    if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, f"must be from {low:g} to {high:g}, not {value}")
