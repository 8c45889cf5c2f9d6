"""The fine-tune: a timm network trained on a labelled set of images, held-out numbers after each epoch, and the weights' file.

The loop is `loop`'s. Here settings become a network, batches, an objective and a measurement.

Shape legend: B images of a batch, N images, H height, W width, C channels or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.fine_tuning import Augmentation as AugmentationChoice
from tleg_core.fine_tuning import FineTuneSettings, HeadStart, Precision, Start, held_out_count
from tleg_core.image_file import TEST, ImageFile
from tleg_core.training.attention import fuses_attention, use_plain_attention
from tleg_core.training.augmented import RandPixels
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.decoded import DecodedPixels, InputShape
from tleg_core.training.draws import generator_of, seed_of
from tleg_core.training.errors import is_out_of_memory
from tleg_core.training.evaluate import Scores, measure_scores
from tleg_core.training.keeper import Keeper
from tleg_core.training.loop import Outcome, Trainer, Wish
from tleg_core.training.network import Network, WrittenWeights, with_head, write_weights
from tleg_core.training.observer import Observer
from tleg_core.training.preprocessing import normalise, to_unit
from tleg_core.training.processes import Processes
from tleg_core.training.random_view import RandomView
from tleg_core.training.stitched_vit import StitchedVit
from tleg_core.training_config import Augmentation, TrainingConfig
from tleg_core.training_config import Precision as Arithmetic

_SHIFT = 1 / 14  # of the side: 2 px of 28, 16 of 224
_WARMUP_LR, _LAST_LR = 1e-3, 1e-2  # of the peak: where the warm-up begins, and where the cosine ends
_MEASURED_AT_ONCE = 256  # held-out images; halved where memory does not suffice
_COMPILE_STEPS = 3000  # compiling takes a minute or so, and saves perhaps a third of each step


def settings_on(settings: FineTuneSettings, device: torch.device, *, steps: int) -> FineTuneSettings:
    """Return the settings with what depends on the device decided.

    bfloat16 where the device computes in it fast: GPUs that have it, and CPUs with instructions for it. Compiling on a GPU,
    where there are enough updates for it to pay.
    """
    precision = settings.precision
    if precision is Precision.AUTO:
        precision = Precision.BFLOAT16 if computes_bfloat16(device) else Precision.FLOAT32
    compiled = settings.compile
    if compiled == "auto":
        compiled = device.type == "cuda" and settings.nproc == 1 and steps >= _COMPILE_STEPS
    return replace(settings, precision=precision, compile=compiled)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 fast: GPUs that have it, and CPUs with instructions for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(supported is not None and bool(supported()) for supported in asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Rows of a data set: those trained on, and those held out."""

    train: Tensor  # int64
    held_out: Tensor  # int64


class HoldOut(Protocol):
    """How the held-out part is drawn; `FineTuneSettings` says it, and a learngene's training."""

    @property
    def holdout(self) -> float:
        """Share of each class."""
        ...

    @property
    def seed(self) -> int:
        """Of the draw."""
        ...


def split_images(file: ImageFile, settings: HoldOut) -> Split:
    """Return the data set's own split, or else hold out a share of each class, drawn by the seed.

    Raises:
        ConfigError: Nothing is left to train on, or nothing can be held out.
    """
    rows = torch.arange(len(file))
    test = torch.from_numpy(np.asarray(file.splits == TEST))
    held = test
    if not test.any():
        held = torch.zeros(len(file), dtype=torch.bool)
        labels = torch.from_numpy(file.labels)
        for label in range(len(file.class_names)):
            own = rows[labels == label]
            shuffled = own[torch.randperm(len(own), generator=generator_of(settings.seed, "split", label))]
            held[shuffled[: held_out_count(len(own), settings.holdout)]] = True
    split = Split(train=rows[~held], held_out=rows[held])
    if not len(split.train):
        raise ConfigError("dataset", "has no training images")
    if not len(split.held_out):
        raise ConfigError("dataset", "has one image of each class and no test split: nothing can be held out")
    return split


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is to be learned.

    Args:
        network: What timm builds, with the data set's classes.
        weights: What training starts from, any head; None only for a start from scratch.
        preprocessing: What the network expects of its input.
        file: The images.
        pixels: The same images at the network's size.
        shape: That size.
        digest: Identifies images and weights: a run goes on only with the same.
    """

    network: Network
    weights: Mapping[str, Tensor] | None
    preprocessing: Preprocessing
    file: ImageFile
    pixels: DecodedPixels
    shape: InputShape
    digest: str


class FineTune:
    """One fine-tune.

    Attributes:
        settings: As they are used: nothing in them is "auto".
        images: In the held-out part.

    Args:
        lesson: What is to be learned.
        settings: How.
        device: Where it computes.
        threads: Where images are decoded.
        keeper: Keeps its checkpoints.
        observer: Is told how it goes.
        wish: Says whether to stop.
        processes: Those that share the run.

    Raises:
        ConfigError: The settings, the network and the data contradict each other.
        CheckpointError: The weights are not the network's.
    """

    def __init__(
        self,
        lesson: Lesson,
        settings: FineTuneSettings,
        *,
        device: torch.device,
        threads: Executor,
        keeper: Keeper,
        observer: Observer,
        wish: Callable[[], Wish] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._lesson, self._device, self._wish, self._processes = lesson, device, wish, processes or Processes()
        split = split_images(lesson.file, settings)
        steps = settings.epochs * (len(split.train) // settings.batch_size)
        optional = settings.compile == "auto"
        self.settings = settings = settings_on(settings, device, steps=steps)
        self.images = len(split.held_out)
        labels = torch.from_numpy(lesson.file.labels)
        self._held_out, self._held_out_labels = split.held_out.tolist(), labels[split.held_out]
        self._network = self._built()
        if not fuses_attention(device, half=settings.precision is Precision.BFLOAT16):
            use_plain_attention(self._network)
        freeze(self._network, settings.freeze)
        self._forward: Callable[[Tensor], Tensor] = self._compiled(optional=optional) if settings.compile else self._network
        settings = self.settings
        pixels = (
            RandPixels(
                lesson.file,
                RandomView(shape=lesson.shape, mean=lesson.preprocessing.mean),
                seed=settings.seed,
                device=device,
                threads=threads,
            )
            if settings.augmentation is AugmentationChoice.RAND
            else lesson.pixels
        )
        config = _config(settings, lesson.shape.side)
        batches = Batches(
            pixels,
            split.train,
            labels[split.train],
            num_classes=lesson.network.num_classes,
            batch_size=settings.batch_size,
            seed=settings.seed,
            augmentation=config.augmentation,
            device=device,
            digest=lesson.digest,
            prepare=self._prepare,
            processes=self._processes,
        )
        self._trainer = Trainer(
            self._network,
            self._objective,
            batches,
            config,
            identity={"settings": _decisive(settings)},
            keeper=keeper,
            observer=observer,
            device=device,
            measure=lambda _: self.measure().metrics(),
            wish=wish,
            processes=self._processes,
        )

    @property
    def total_steps(self) -> int:
        """Updates in all."""
        return self._trainer.total_steps

    def load(self) -> None:
        """Go on from the kept checkpoint; raises `CheckpointError`."""
        self._trainer.load()

    def run(self) -> None:
        """Train to the end; raises as `Trainer.run` does."""
        self._trainer.run()

    def measure(self) -> Scores:
        """Classify the held-out images."""
        self._network.eval()
        return measure_scores(
            lambda pixels: self._forward(self._prepare(pixels)),
            self._lesson.pixels,
            self._held_out,
            self._held_out_labels,
            device=self._device,
            batch_size=_MEASURED_AT_ONCE,
            autocast=self.settings.precision is Precision.BFLOAT16,
            processes=self._processes,
            stopped=self._measuring_is_stopped,
        )

    def _measuring_is_stopped(self) -> bool:
        """Whether to stop; several processes stop between updates only, where they can agree."""
        return self._wish is not None and self._processes.count == 1 and self._wish() is not Wish.GO_ON

    def write_weights(self, path: Path) -> WrittenWeights:
        """Write the weights as they are now; raises OSError."""
        return write_weights(self._network, path)

    def _built(self) -> nn.Module:
        lesson, settings = self._lesson, self.settings
        if settings.start is Start.SCRATCH:
            network = lesson.network.build(drop_path=settings.drop_path, seed=seed_of(settings.seed, "scratch"))
            return network.to(self._device)
        if lesson.weights is None:
            raise ConfigError("start", "from a model needs its weights")
        weights = with_head(lesson.weights, lesson.network.num_classes, keep=settings.head is HeadStart.KEEP)
        return lesson.network.load(weights, drop_path=settings.drop_path, device=self._device)

    def _compiled(self, *, optional: bool) -> Callable[[Tensor], Tensor]:
        """Return the network compiled, tried on a batch; as it is where that is impossible and nobody asked for it."""
        forward: Callable[[Tensor], Tensor] = torch.compile(self._network)
        settings, shape = self.settings, self._lesson.shape
        size = (settings.batch_size // settings.nproc, shape.channels, shape.side, shape.side)
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=settings.precision is Precision.BFLOAT16):
                logits = forward(torch.zeros(size, device=self._device))
            logits.float().sum().backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # the compiler's errors are of many kinds, and so are those of what it calls
            if is_out_of_memory(error):
                return forward  # the loop will take smaller parts
            if not optional:
                raise ConfigError("compile", f"this worker cannot compile the network ({type(error).__name__})") from error
            self.settings = replace(settings, compile=False)
            return self._network
        finally:
            self._network.zero_grad()
        return forward

    def _prepare(self, pixels: Tensor) -> Tensor:
        return normalise(to_unit(pixels), self._lesson.preprocessing)

    def _objective(self, batch: Batch) -> Outcome:
        logits = self._forward(batch.images)
        smoothing = self.settings.label_smoothing if batch.targets.ndim == 1 else 0.0  # mixed targets are smoothed already
        loss = nn.functional.cross_entropy(logits.float(), batch.targets, label_smoothing=smoothing)
        return Outcome(loss=loss, logits=logits)


def freeze(network: nn.Module, blocks: int) -> None:
    """Leave the embedding and the leading `blocks` of a timm ViT as they are; -1 leaves everything but the head.

    A stitch goes with the block that it leads to.

    Raises:
        ConfigError: It has fewer blocks.
    """
    if blocks == 0:
        return
    own = cast("Any", network)
    if blocks > len(own.blocks):
        raise ConfigError("freeze", f"{blocks} blocks of {len(own.blocks)}")
    network.requires_grad_(False)
    trained = [own.head] if blocks == -1 else [*own.blocks[blocks:], own.norm, own.head]
    if isinstance(network, StitchedVit) and blocks > 0:
        trained += network.stitches_from(blocks)
    for module in trained:
        module.requires_grad_(True)


def _config(settings: FineTuneSettings, side: int) -> TrainingConfig:
    light = settings.augmentation is AugmentationChoice.LIGHT
    return TrainingConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        min_lr=settings.lr * _LAST_LR,
        warmup_lr=settings.lr * _WARMUP_LR,
        warmup_epochs=settings.warmup_epochs,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        clip_grad=settings.clip_grad,
        precision=Arithmetic.BFLOAT16 if settings.precision is Precision.BFLOAT16 else Arithmetic.FLOAT32,
        seed=settings.seed,
        augmentation=Augmentation(
            flip=0.0 if settings.augmentation is AugmentationChoice.NONE else 0.5,
            shift=min(64, max(1, round(side * _SHIFT))) if light else 0,
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            random_erasing=settings.random_erasing,
            label_smoothing=settings.label_smoothing,
        ),
    )


def _decisive(settings: FineTuneSettings) -> dict[str, Any]:
    """Return, as JSON, the settings that decide the result; how often a model is kept does not."""
    value = settings.to_json()
    del value["save_every_epochs"]
    return value
