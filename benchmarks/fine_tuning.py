"""Fine-tuning against timm's own training loop: the same network, weights, images and settings; rate and accuracy.

    python -m benchmarks.fine_tuning [--data FOLDER] [--seeds 4] [--epochs 5] [--depth 6] [--augmentation none|rand]

The peer is written from timm's factories as its training script is: `create_loader` over a data set of encoded images,
`create_optimizer_v2`, `create_scheduler_v2`, its label smoothing. The two take turns, one run each for every seed, in an order
that alternates. Rates count training alone, not the measurement of held-out images.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.data.loader import create_loader
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # as timm's own scripts import it
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn

from service.storage.learngene_registry import shipped_paths
from tleg_core.family import Family, Variation
from tleg_core.fine_tuning import Augmentation, FineTuneFacts, FineTuneSettings, Precision
from tleg_core.image_file import TEST, TRAIN, ImageFile, ImageFileWriter, decode_image
from tleg_core.learngene import Learngene
from tleg_core.recipe import Member
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.decoded import DecodedPixels, InputShape, decoding_threads
from tleg_core.training.fine_tune import FineTune, Lesson, settings_on, split_images
from tleg_core.training.loop import Wish
from tleg_core.training.network import DeviceLearngene, Network
from tleg_core.training.observer import EpochReport, StepReport
from tleg_core.vit import timm_architecture, timm_model_args

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NAME = "openclipart15"


@dataclass(frozen=True)
class Result:
    """One run: images trained on in a second, and the share of held-out images that were classified rightly at its end."""

    images_per_s: float
    top1: float


class Ours:
    """Our loop, with the decoded images kept from run to run as a warm engine keeps them."""

    def __init__(self, lesson: Lesson, device: torch.device, threads: Any) -> None:
        self._lesson, self._device, self._threads = lesson, device, threads

    def run(self, settings: FineTuneSettings) -> Result:
        """Train once."""
        clock = _Clock()
        tuned = FineTune(
            self._lesson,
            settings,
            device=self._device,
            threads=self._threads,
            keeper=_NoKeeper(),
            observer=clock,
            wish=lambda: Wish.GO_ON,
        )
        clock.begin()
        tuned.run()
        return Result(tuned.total_steps * settings.batch_size / clock.training_s, clock.top1)


class _NoKeeper:
    def due(self, step: int, *, ends_epoch: bool) -> bool:  # noqa: ARG002
        return False

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        raise NotImplementedError

    def read(self) -> Checkpoint:
        raise NotImplementedError


class _Clock:
    """An observer that adds up the time between an epoch's beginning and its last update."""

    def __init__(self) -> None:
        self.training_s = 0.0
        self.top1 = 0.0
        self._epoch = 0
        self._begun_s = self._last_s = 0.0

    def begin(self) -> None:
        self._begun_s = time.perf_counter()

    def stepped(self, report: StepReport) -> None:  # noqa: ARG002
        self._last_s = time.perf_counter()

    def epoch_done(self, report: EpochReport) -> None:
        self.training_s += self._last_s - self._begun_s
        self.top1 = report.metrics["top1"]
        self._begun_s = time.perf_counter()

    def note(self, message: str) -> None:
        raise RuntimeError(message)


class _Encoded(torch.utils.data.Dataset[Any]):
    """A data set as timm's `ImageDataset` is: decoded at each access, then transformed."""

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        self._file = ImageFile.open(path)
        self._rows = rows
        self.transform: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = self._rows[index]
        image = decode_image(self._file.encoded(row))
        return (self.transform(image) if self.transform else image), int(self._file.labels[row])


class Timm:
    """timm's own loop, from its factories."""

    def __init__(self, lesson: Lesson, device: torch.device, workers: int) -> None:
        self._lesson, self._device, self._workers = lesson, device, workers

    def run(self, settings: FineTuneSettings) -> Result:
        """Train once."""
        lesson = self._lesson
        split = split_images(lesson.file, settings)
        rand = settings.augmentation is Augmentation.RAND
        prep, side = lesson.preprocessing, lesson.shape.side
        common: dict[str, Any] = {
            "input_size": (3, side, side),
            "use_prefetcher": self._device.type == "cuda",
            "interpolation": prep.interpolation,
            "mean": prep.mean,
            "std": prep.std,
            "num_workers": self._workers,
            "crop_pct": prep.crop_pct,
            "device": self._device,
            "pin_memory": self._device.type == "cuda",
        }
        torch.manual_seed(settings.seed)
        train = create_loader(
            _Encoded(lesson.file.path, split.train.tolist()),  # type: ignore[arg-type]  # any data set with a transform will do
            batch_size=settings.batch_size,
            is_training=True,
            no_aug=not rand,
            auto_augment="rand-m9-mstd0.5-inc1" if rand else None,
            hflip=0.5 if rand else 0.0,
            **common,
        )
        held_out = create_loader(
            _Encoded(lesson.file.path, split.held_out.tolist()),  # type: ignore[arg-type]  # as above
            batch_size=256,
            **common,
        )
        network = timm.create_model(
            lesson.network.architecture, num_classes=lesson.network.num_classes, **lesson.network.model_args
        ).to(self._device)
        network.load_state_dict(lesson.weights or {})
        optimizer = create_optimizer_v2(network, opt="adamw", lr=settings.lr, weight_decay=settings.weight_decay)
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="cosine",
            num_epochs=settings.epochs,
            min_lr=settings.lr * 1e-2,
            warmup_lr=settings.lr * 1e-3,
            warmup_epochs=settings.warmup_epochs,
            step_on_epochs=False,
            updates_per_epoch=len(train),
        )
        loss_of: nn.Module = LabelSmoothingCrossEntropy(settings.label_smoothing)  # type: ignore[no-untyped-call]  # timm's
        autocast = settings.precision is Precision.BFLOAT16
        step, training_s, top1 = 0, 0.0, 0.0
        for _ in range(settings.epochs):
            network.train()
            begun_s = time.perf_counter()
            for images, labels in train:
                with torch.autocast(self._device.type, torch.bfloat16, enabled=autocast):
                    loss = loss_of(network(images.to(self._device)), labels.to(self._device))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                scheduler.step_update(step)
            loss.item()  # waits for the device
            training_s += time.perf_counter() - begun_s
            top1 = self._top1(network, held_out, autocast)
        return Result(step * settings.batch_size / training_s, top1)

    @torch.inference_mode()
    def _top1(self, network: nn.Module, held_out: Any, autocast: bool) -> float:
        network.eval()
        right = total = 0
        for images, labels in held_out:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=autocast):
                found = network(images.to(self._device)).argmax(dim=1).cpu()
            right += int((found == labels.cpu()).sum())
            total += len(labels)
        return right / total


def _pack(folder: Path, target: Path) -> ImageFile:
    """Return the parquet files' images as a data set file."""
    tables = {split: pq.read_table(folder / f"{NAME}-{name}.parquet") for split, name in ((TRAIN, "train"), (TEST, "test"))}
    features = json.loads(tables[TRAIN].schema.metadata[b"huggingface"])["info"]["features"]
    with ImageFileWriter(target, features["label"]["names"]) as writer:
        for split, table in tables.items():
            for cell, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
                writer.add(cell["bytes"], cell["path"] or "", label, split)
    return ImageFile.open(target)


def _interval(differences: Sequence[float]) -> float:
    """Return the half-width of the 95 % interval of the mean (normal approximation; infinite for a single one)."""
    if len(differences) < 2:
        return math.inf
    return 1.96 * statistics.stdev(differences) / math.sqrt(len(differences))


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fine_tuning", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with {NAME}-train.parquet and {NAME}-test.parquet")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="of timm's loader")
    parser.add_argument("--augmentation", choices=("none", "rand"), default="none")
    args = parser.parse_args()
    if not (args.data / f"{NAME}-train.parquet").is_file():
        sys.exit(f"{args.data} has no {NAME}-train.parquet: give the folder by --data")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = Family(Learngene.open(shipped_paths()[0]))
    prep = family.learngene.description.preprocessing
    with tempfile.TemporaryDirectory() as folder, decoding_threads() as threads:
        file = _pack(args.data, Path(folder) / "images.arrow")
        classes = len(file.class_names)
        config = family.config(num_classes=classes)
        shape = InputShape.of(config.img_size, config.in_chans, prep)
        lesson = Lesson(
            network=Network(
                architecture=timm_architecture(config), model_args=timm_model_args(config, args.depth), num_classes=classes
            ),
            weights=DeviceLearngene(family, device).expand(
                family.recipe(Member(depth=args.depth), Variation(num_classes=classes))
            ),
            preprocessing=prep,
            file=file,
            pixels=DecodedPixels(file, shape, device=device, threads=threads, keep_bytes=2**30, keep_device=device),
            shape=shape,
            digest="",
        )
        facts = FineTuneFacts(
            num_train=int((file.splits == TRAIN).sum()),
            num_classes=classes,
            has_test_split=True,
            img_size=config.img_size,
            depth=args.depth,
            same_classes=False,
        )
        requested = {"epochs": args.epochs, "batch_size": args.batch_size, "augmentation": args.augmentation}
        settings = settings_on(FineTuneSettings.resolve(requested, facts), device, steps=0)
        sides: tuple[Ours | Timm, Ours | Timm] = (Ours(lesson, device, threads), Timm(lesson, device, args.workers))
        results: dict[type, list[Result]] = {Ours: [], Timm: []}
        for seed in range(args.seeds):
            for side in sides if seed % 2 == 0 else reversed(sides):
                result = side.run(replace(settings, seed=seed))
                results[type(side)].append(result)
                name = type(side).__name__.lower()
                print(f"seed {seed}  {name:5}  {result.images_per_s:7.0f} images/s  top-1 {result.top1:.4f}", flush=True)
    _show(results, args, settings, device)


def _show(
    results: dict[type, list[Result]], args: argparse.Namespace, settings: FineTuneSettings, device: torch.device
) -> None:
    ours, theirs = results[Ours], results[Timm]
    rates = [statistics.median(result.images_per_s for result in side) for side in (ours, theirs)]
    means = [statistics.fmean(result.top1 for result in side) for side in (ours, theirs)]
    gaps = [one.top1 - other.top1 for one, other in zip(ours, theirs, strict=True)]
    table = Table(
        title=f"fine-tuning a ViT-Ti of depth {args.depth} on {NAME}, {args.epochs} epochs, batch {args.batch_size}, "
        f"{settings.precision}, augmentation {args.augmentation}, {args.seeds} seeds, {device.type} "
        f"({torch.get_num_threads()} threads)"
    )
    for column in ("", "ours", "timm", "ours against timm"):
        table.add_column(column)
    table.add_row("images/s, median", *(f"{rate:.0f}" for rate in rates), f"{rates[0] / rates[1]:.2f}x (target 1.0x)")
    table.add_row(
        "top-1, mean",
        *(f"{mean:.4f}" for mean in means),
        f"{statistics.fmean(gaps):+.4f} ± {_interval(gaps):.4f} (95 %)",
    )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
