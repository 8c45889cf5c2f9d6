"""The settings of a fine-tune, and good defaults where the user leaves them to us ("auto"). Torch-free.

What they do is `training.fine_tune`'s business; here they are checked, and what is "auto" is derived from the data set and the
network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final, Literal, Self

from tleg_core.errors import ConfigError
from tleg_core.recipe import MAX_SEED

AUTO: Final = "auto"

MAX_EPOCHS = 10_000
MAX_BATCH_SIZE = 65_536
MAX_NPROC = 64

_AUTO_IMAGES = 60_000  # images, repetitions counted, that a short fine-tune sees
_MIN_AUTO_EPOCHS, _MAX_AUTO_EPOCHS = 5, 40
_AUTO_CHECKPOINTS = 5  # that are kept as models, about


class Augmentation(StrEnum):
    """What is done to a training image."""

    NONE = "none"
    LIGHT = "light"  # flip and a small shift, a whole batch at once on the device
    RAND = "rand"  # timm's random resized crop and RandAugment, image by image


class Precision(StrEnum):
    """The arithmetic of the forward and backward pass; weights and optimiser are float32 always."""

    AUTO = "auto"  # decided by the first attempt's worker: bfloat16 where its device computes in it fast
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Start(StrEnum):
    """What training starts from."""

    MODEL = "model"
    SCRATCH = "scratch"  # the same network, initialised as timm does: the baseline


class HeadStart(StrEnum):
    """Where the classifier's first weights come from."""

    KEEP = "keep"  # the model's own; needs the same classes in the same order
    ZERO = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneFacts:
    """What defaults are derived from: the training images that remain after the held-out part, and the network."""

    num_train: int
    num_classes: int
    has_test_split: bool
    img_size: int
    depth: int
    same_classes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSettings:
    """How a model is fine-tuned; every value decided.

    Args:
        epochs: Passes over the training images; an incomplete last batch is left out of each.
        batch_size: Images for one update, over all processes.
        lr: Peak learning rate, not scaled by the batch.
        weight_decay: AdamW's; not on vectors, biases, norms and embeddings.
        layer_decay: The learning rate's factor from each layer to the one before it; 1 for none.
        warmup_epochs: Epochs of linear warm-up, fewer than `epochs`.
        augmentation: What is done to a training image.
        mixup: timm's mixup, parameter of the Beta distribution; 0 is off.
        cutmix: timm's cutmix, likewise.
        random_erasing: Probability of timm's random erasing.
        label_smoothing: Share of the label spread over all classes.
        drop_path: Stochastic depth, the rate of the last block.
        freeze: Leading blocks that are not trained, the embedding with them; -1 trains the head alone.
        clip_grad: Largest norm of the gradient; None for no limit.
        precision: Of the arithmetic.
        compile: Whether the network is compiled by `torch.compile`; "auto" leaves it to the worker, as with the precision.
        seed: Of the order of images, the held-out part, augmentation, stochastic depth and a start from scratch.
        nproc: Processes; above 1 they run under torchrun.
        holdout: Share of each class that is held out where the data set has no test split of its own.
        start: What training starts from.
        head: Where the classifier's first weights come from.
        save_every_epochs: Epochs between checkpoints that are kept as models.

    Raises:
        ConfigError: A value is outside its limits, or two contradict each other.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    layer_decay: float
    warmup_epochs: int
    augmentation: Augmentation
    mixup: float
    cutmix: float
    random_erasing: float
    label_smoothing: float
    drop_path: float
    freeze: int
    clip_grad: float | None
    precision: Precision
    compile: bool | Literal["auto"]
    seed: int
    nproc: int
    holdout: float
    start: Start
    head: HeadStart
    save_every_epochs: int

    def __post_init__(self) -> None:
        _within("epochs", self.epochs, 1, MAX_EPOCHS)
        _within("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        _within("lr", self.lr, 1e-9, 10.0)
        _within("weight_decay", self.weight_decay, 0.0, 1.0)
        _within("layer_decay", self.layer_decay, 0.1, 1.0)
        _within("warmup_epochs", self.warmup_epochs, 0, self.epochs - 1)
        _within("mixup", self.mixup, 0.0, 10.0)
        _within("cutmix", self.cutmix, 0.0, 10.0)
        _within("random_erasing", self.random_erasing, 0.0, 1.0)
        _within("label_smoothing", self.label_smoothing, 0.0, 0.9)
        _within("drop_path", self.drop_path, 0.0, 0.9)
        _within("freeze", self.freeze, -1, 1000)
        if self.clip_grad is not None:
            _within("clip_grad", self.clip_grad, 1e-6, 1e6)
        _within("seed", self.seed, 0, MAX_SEED)
        _within("nproc", self.nproc, 1, MAX_NPROC)
        _within("holdout", self.holdout, 0.01, 0.9)
        _within("save_every_epochs", self.save_every_epochs, 1, MAX_EPOCHS)
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ConfigError("batch_size", f"must be even for mixup and cutmix, not {self.batch_size}")
        if self.batch_size % self.nproc:
            raise ConfigError("batch_size", f"{self.batch_size} is not a multiple of nproc {self.nproc}")
        if (self.mixup or self.cutmix) and self.batch_size // self.nproc % 2:
            raise ConfigError("batch_size", f"must be even in each of the {self.nproc} processes for mixup and cutmix")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object."""
        known: dict[str, Any] = dict(value)
        for name, kind in (("augmentation", Augmentation), ("precision", Precision), ("start", Start), ("head", HeadStart)):
            known[name] = kind(known[name])
        return cls(**known)

    @classmethod
    def resolve(cls, requested: Mapping[str, Any], facts: FineTuneFacts) -> Self:
        """Return the settings of a request: what is missing or "auto" is derived from the facts.

        Raises:
            ConfigError: A value is outside its limits, or names no setting.
        """
        unknown = [name for name in requested if name not in NAMES]
        if unknown:
            raise ConfigError(str(unknown[0])[:80], f"is no setting; there are {', '.join(NAMES)}")
        given = {
            name: _typed(name, value)
            for name, value in requested.items()
            if (value is not None and value != AUTO) or (name == "clip_grad" and value is None)
        }
        settings = cls(**(_defaults(given, facts) | given))
        if settings.batch_size > facts.num_train:
            raise ConfigError("batch_size", f"{settings.batch_size} is more than the {facts.num_train} training images")
        if settings.freeze > facts.depth:
            raise ConfigError("freeze", f"{settings.freeze} blocks of {facts.depth}")
        if settings.head is HeadStart.KEEP and not facts.same_classes:
            raise ConfigError("head", "can be kept only where the model has the data set's classes in the same order")
        if settings.head is HeadStart.KEEP and settings.start is Start.SCRATCH and given.get("head") is not None:
            raise ConfigError("head", "is not kept in a start from scratch")
        return settings


def _defaults(given: Mapping[str, Any], facts: FineTuneFacts) -> dict[str, Any]:
    """Return a value for every setting; those that follow from others follow from the given ones."""
    nproc: int = max(1, given.get("nproc", 1))
    epochs: int = given.get("epochs", min(_MAX_AUTO_EPOCHS, max(_MIN_AUTO_EPOCHS, round(_AUTO_IMAGES / facts.num_train))))
    start: Start = given.get("start", Start.MODEL)
    kept = facts.same_classes and start is Start.MODEL
    return {
        "epochs": epochs,
        "batch_size": _default_batch_size(facts.num_train, nproc),
        "lr": 1e-3,
        "weight_decay": 0.05,
        "layer_decay": 1.0,
        "warmup_epochs": min(5, epochs // 10, epochs - 1),
        "augmentation": Augmentation.LIGHT,
        "mixup": 0.0,
        "cutmix": 0.0,
        "random_erasing": 0.0,
        "label_smoothing": 0.1,
        "drop_path": 0.0,
        "freeze": 0,
        "clip_grad": None,
        "precision": Precision.AUTO,
        "compile": AUTO,
        "seed": 0,
        "nproc": nproc,
        "holdout": 0.2,
        "start": start,
        "head": HeadStart.KEEP if kept else HeadStart.ZERO,
        "save_every_epochs": max(1, math.ceil(epochs / _AUTO_CHECKPOINTS)),
    }


def _default_batch_size(num_train: int, nproc: int) -> int:
    """Return a batch size that leaves an epoch about eight updates, from 64 down; a multiple of 2 for each process."""
    size = 64
    while size > 2 and size * 8 > num_train:
        size //= 2
    size = max(size, 2 * nproc)
    return size - size % (2 * nproc) if size <= num_train else nproc


_KINDS: Final[Mapping[str, type[StrEnum]]] = {
    "augmentation": Augmentation,
    "precision": Precision,
    "start": Start,
    "head": HeadStart,
}
_WHOLE: Final = frozenset({"epochs", "batch_size", "warmup_epochs", "freeze", "seed", "nproc", "save_every_epochs"})


def _typed(name: str, value: object) -> Any:
    """Return a requested value in its setting's type; raises `ConfigError` where it has another."""
    if name in _KINDS:
        kinds = _KINDS[name]
        if not isinstance(value, str) or value not in set(kinds):
            raise ConfigError(name, f"must be one of {', '.join(kinds)}, not {str(value)[:80]!r}")
        return kinds(value)
    if name == "compile":
        if not isinstance(value, bool):
            raise ConfigError(name, f"must be true, false or {AUTO!r}, not {str(value)[:80]!r}")
        return value
    if name == "clip_grad" and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(name, f"must be a number, not {str(value)[:80]!r}")
    if abs(value) > MAX_SEED:  # an int of any length: too long for a float, and for a message
        raise ConfigError(name, "is too large")
    if name not in _WHOLE:
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ConfigError(name, f"must be a whole number, not {value}")
    return int(value)


def held_out_count(images: int, share: float) -> int:
    """Return how many of a class's `images` are held out: their share, rounded; at least one of several, and never all."""
    return min(max(1, round(images * share)), images - 1) if images > 1 else 0


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, f"must be from {low:g} to {high:g}, not {value}")


NAMES: Final = tuple(item.name for item in fields(FineTuneSettings))
