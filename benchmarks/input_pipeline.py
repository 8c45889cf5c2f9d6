"""The input pipelines against what a training step takes: images per second of each, and of timm's loader beside them.

    python -m benchmarks.input_pipeline [--data PATH] [--side 224] [--workers N] [--batch-size 32]

Without `--data`, photographs of the usual size of ImageNet's are made up: smooth noise, 500 x 375, about 100 kB as JPEG. Each
pipeline gives batches on the training device, as a run takes them, for some seconds after its first batch; the pipelines take
turns, what they made ahead meanwhile does not count, and the median of the turns does. The step is that of a plain timm ViT
with AdamW, without the teacher that a learngene's step has beside it, so a learngene needs fewer images than said here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data.loader import create_loader

from tleg_core.description import Preprocessing
from tleg_core.image_source import ImageSource, read_picture
from tleg_core.images import ImageSet, open_images
from tleg_core.training.batches import Batches
from tleg_core.training.decoded import DecodedPixels, InputShape, decoding_threads
from tleg_core.training.pixels import Pixels
from tleg_core.training.random_view import RAND_AUGMENT, mend_posterize
from tleg_core.training.streamed import StreamedPixels, WholeView
from tleg_core.training_config import Augmentation, Crop, TrainingConfig

_PHOTOS = 256
_AHEAD = 4  # batches, at most, that a pipeline makes while it is not asked
_PREPROCESSING = Preprocessing(crop_pct=0.875)

Next: TypeAlias = Callable[[int], object]
"""Gives the batch of a step."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all pipelines work on."""

    data: ImageSource
    side: int
    batch_size: int
    workers: int
    device: torch.device

    @property
    def shape(self) -> InputShape:
        """The network's input."""
        return InputShape.of(self.side, 3, _PREPROCESSING)

    def config(self, **augmentation: Any) -> TrainingConfig:
        """Return a run's settings."""
        return TrainingConfig(epochs=1, batch_size=self.batch_size, augmentation=Augmentation(**augmentation))

    def batches(self, pixels: Pixels, config: TrainingConfig) -> Batches:
        """Return the batches of pixels, made ahead on a GPU as in a run."""
        return Batches(
            pixels,
            torch.arange(len(self.data)),
            torch.from_numpy(self.data.labels.copy()),
            num_classes=len(self.data.class_names),
            batch_size=self.batch_size,
            seed=0,
            augmentation=config.augmentation,
            device=self.device,
            digest="",
        )


@contextmanager
def memory(bench: Bench) -> Iterator[Next]:
    """Pixels of a set in memory, flipped and shifted on the device."""
    data, config = _in_memory(bench), bench.config()
    with Batches.of_images(data, config, bench.device, shape=bench.shape, preprocessing=_PREPROCESSING) as made:
        yield made.of


@contextmanager
def decoded(bench: Bench) -> Iterator[Next]:
    """Pixels that were decoded once and are kept."""
    size = len(bench.data) * bench.shape.image_bytes
    with decoding_threads() as threads:
        kept = DecodedPixels(
            bench.data, bench.shape, device=bench.device, threads=threads, keep_bytes=size, keep_device=bench.device
        )
        for start in range(0, len(bench.data), 64):
            kept.take(range(start, min(start + 64, len(bench.data))), 0)
        with bench.batches(kept, bench.config()) as made:
            yield made.of


@contextmanager
def decoding(bench: Bench) -> Iterator[Next]:
    """Whole images, decoded again each time by worker processes."""
    pixels = StreamedPixels(
        bench.data,
        WholeView(bench.shape),
        bench.shape,
        seed=0,
        device=bench.device,
        batch_size=bench.batch_size,
        workers=bench.workers,
    )
    with bench.batches(pixels, bench.config()) as made:
        yield made.of


@contextmanager
def randaugment(bench: Bench, workers: int) -> Iterator[Next]:
    """The paper's augmentation: random crops with RandAugment by processes or threads, mixed and erased on the device."""
    config = bench.config(
        crop=Crop.RANDOM_RESIZED,
        rand_augment=RAND_AUGMENT,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        label_smoothing=0.1,
        random_erasing=0.25,
        repeats=3,
    )
    with Batches.of_images(
        bench.data, config, bench.device, shape=bench.shape, preprocessing=_PREPROCESSING, workers=workers
    ) as made:
        yield made.of


@contextmanager
def timm_loader(bench: Bench) -> Iterator[Next]:
    """timm's loader with the same random crops and RandAugment, by as many worker processes; it does not mix."""
    dataset = _Encoded(bench.data)
    loader = create_loader(
        dataset,  # type: ignore[arg-type]  # any data set with a transform will do
        (3, bench.side, bench.side),
        bench.batch_size,
        is_training=True,
        use_prefetcher=bench.device.type == "cuda",
        auto_augment=RAND_AUGMENT,
        re_prob=0.25,
        re_mode="pixel",
        interpolation="bicubic",
        num_workers=bench.workers,
        device=bench.device,
        persistent_workers=True,
    )
    mend_posterize(dataset.transform)
    batches = _endless(loader)
    yield lambda _: next(batches)


class _Encoded(torch.utils.data.Dataset[Any]):
    """A source as timm's loader reads it."""

    def __init__(self, data: ImageSource) -> None:
        self._data = data
        self.transform: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        image: Any = read_picture(self._data, row)
        return (self.transform(image) if self.transform else image), int(self._data.labels[row])


def _endless(loader: Any) -> Iterator[object]:
    while True:
        yield from loader


def _in_memory(bench: Bench) -> ImageSet:
    images = np.stack([bench.shape.view(read_picture(bench.data, row)) for row in range(len(bench.data))])
    return ImageSet(name="memory", images=images, labels=bench.data.labels.copy(), class_names=bench.data.class_names)


def _rate(next_batch: Next, bench: Bench, seconds: float, first: int, *, ahead: int = _AHEAD) -> tuple[float, int]:
    """Return images per second after what was made ahead at a step, and the step after the last."""
    for step in range(first, first + ahead):
        next_batch(step)
    first = step = first + ahead
    _wait(bench.device)
    begun_s = time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        next_batch(step)
        step += 1
    _wait(bench.device)
    return (step - first) * bench.batch_size / (time.perf_counter() - begun_s), step


def _step_rate(architecture: str, bench: Bench, seconds: float) -> float:
    """Return the images per second that a network is trained on, from one batch that is there."""
    network = timm.create_model(architecture, img_size=bench.side, num_classes=len(bench.data.class_names)).to(bench.device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.rand(bench.batch_size, 3, bench.side, bench.side, device=bench.device)
    labels = torch.zeros(bench.batch_size, dtype=torch.int64, device=bench.device)

    def train(_: int) -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        optimizer.zero_grad()

    train(0)
    return _rate(train, bench, seconds, 0, ahead=0)[0]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _make_photos(folder: Path) -> Path:
    """Write photographs of smooth noise in two classes."""
    rng = np.random.default_rng(0)
    for index in range(_PHOTOS):
        small = Image.fromarray(rng.integers(0, 256, (25, 33, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        grain = rng.integers(-24, 25, (375, 500, 3))
        photo = (np.asarray(small).astype(np.int64) + grain).clip(0, 255).astype(np.uint8)
        where = folder / str(index % 2)
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(where / f"{index:04}.jpg", quality=85)
    return folder


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of class folders, parquet, or a data set file")
    parser.add_argument("--side", type=int, default=224, help="of the network's input, in pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, help="processes that decode; default: the processors less one")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--architecture", default="vit_small_patch16_224", help="a ViT of timm's, whose step is measured")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processors = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_pipelines:
        data = open_images(args.data or _make_photos(Path(folder) / "photos"))
        size = sum(len(data.encoded(row)) for row in range(min(len(data), 64))) / min(len(data), 64)
        bench = Bench(
            data=data,
            side=args.side,
            batch_size=args.batch_size,
            workers=args.workers or max(1, processors - 1),
            device=device,
        )
        made = f"{bench.workers} process{'es' * (bench.workers > 1)}"
        pipelines: dict[str, Any] = {
            "in memory, flipped and shifted": memory(bench),
            "decoded once and kept": decoded(bench),
            f"decoded each time, {made}": decoding(bench),
            f"random crops, RandAugment, mixed, {made}": randaugment(bench, bench.workers),
            "the same, threads": randaugment(bench, 0),
            f"timm's loader, not mixed, {made}": timm_loader(bench),
        }
        first_s: dict[str, float] = {}
        rates: dict[str, list[float]] = {name: [] for name in pipelines}
        steps: dict[str, int] = {}
        running: dict[str, Next] = {}
        for name, pipeline in pipelines.items():
            begun_s = time.perf_counter()
            running[name] = open_pipelines.enter_context(pipeline)
            running[name](0)
            _wait(device)
            first_s[name], steps[name] = time.perf_counter() - begun_s, 1
        needed: list[float] = []
        for _ in range(args.turns):
            needed.append(_step_rate(args.architecture, bench, args.seconds))
            for name, next_batch in running.items():
                rate, steps[name] = _rate(next_batch, bench, args.seconds, steps[name])
                rates[name].append(rate)
        _show(
            {name: statistics.median(found) for name, found in rates.items()},
            first_s,
            needed=statistics.median(needed),
            bench=bench,
            size=size,
            architecture=args.architecture,
        )


def _show(
    rates: dict[str, float], first_s: dict[str, float], *, needed: float, bench: Bench, size: float, architecture: str
) -> None:
    table = Table(
        title=f"input pipelines: {len(bench.data):,} pictures of about {size / 1000:.0f} kB at {bench.side} px, batch "
        f"{bench.batch_size}, {bench.device.type}, {len(os.sched_getaffinity(0))} processors; a step of {architecture} takes "
        f"{needed:.0f} images/s"
    )
    for column in ("pipeline", "images/s", "against the step (target: above 1)", "first batch after"):
        table.add_column(column)
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.0f}", f"{rate / needed:.2f}x", f"{first_s[name]:.1f} s")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
