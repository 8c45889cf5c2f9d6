"""The options that the training commands share, and what they are turned into: image sets, folders, depths, a device."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tleg_core.description import check_name
from tleg_core.errors import ConfigError, TlegError
from tleg_core.image_source import ImageSource
from tleg_core.images import read_images

if TYPE_CHECKING:
    import torch

DATA_HELP = (
    "Parquet (Hub convention), one file or a folder of shards; a folder of class folders, such as ImageNet's; a data set file; "
    "or a folder of gzipped IDX files. Of a folder with parts, the train part is read."
)
TEST_HELP = "The same kinds; of a folder with parts, the test part is read."

DataOption = Annotated[Path, typer.Option("--data", help=f"Training images: {DATA_HELP}")]
TestDataOption = Annotated[Path, typer.Option("--test-data", help=f"Test images: {TEST_HELP}")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: auto (a GPU where there is one), cpu, cuda, cuda:1, ...")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=256,
        help="Processes that decode and augment images that are not kept; 0: threads. Default: by the processors.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the initial weights, the images' order and augmentation.")]
EpochsOption = Annotated[int, typer.Option(help="Passes over the training images.")]
BatchOption = Annotated[int, typer.Option(help="Images for one update.")]
MicroOption = Annotated[int, typer.Option(help="Compute each batch in this many parts: less memory, the same gradient.")]
WarmupOption = Annotated[int, typer.Option(help="Epochs of linear warm-up, cut to one fewer than all.")]
AutocastOption = Annotated[bool, typer.Option("--bf16/--fp32", help="bfloat16 autocast, or everything in float32.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")]
CheckpointOption = Annotated[int, typer.Option(help="Updates between checkpoints.")]
FlipOption = Annotated[float, typer.Option(help="Probability of a horizontal flip, 0..1.")]
ShiftOption = Annotated[int, typer.Option(help="Largest random shift, in pixels of the stored image.")]


def read_both(data: Path, test_data: Path, *, side: int, processes: int = 1) -> tuple[ImageSource, ImageSource]:
    """Return training and test images; raises `ConfigError` where they are the same or have other classes.

    Args:
        data: Where the training images are.
        test_data: Where the test images are.
        side: Of the network's input, in pixels.
        processes: Those that read them on this machine, each into memory of its own.
    """
    images = read_images(data, side=side, processes=processes)
    test_images = read_images(test_data, split="test", side=side, processes=processes)
    if images.class_names != test_images.class_names:
        raise ConfigError("test_data", f"the classes of {test_images.name} are not those of {images.name}")
    if images.digest() == test_images.digest():
        raise ConfigError("test_data", "holds the very images of --data")
    return images, test_images


def check_file(path: Path, option: str) -> None:
    """Raise `ConfigError` where there is no file, before anything that takes time."""
    if not path.is_file():
        raise ConfigError(option, f"there is no file {path}")


def learngene_name(name: str | None, out: Path) -> str:
    """Return the name that is given, or that of the file; raises `ConfigError` where a learngene cannot be called so."""
    try:
        check_name(out.stem if name is None else name)
    except ConfigError as error:
        if name is None:
            raise ConfigError("--name", f"is needed, for that of --out is none: it {error.reason}") from None
        raise
    return out.stem if name is None else name


def run_folder(out: Path, resume: bool) -> Path:
    """Return the folder of checkpoints beside `out`; raises `ConfigError` where a new run would overwrite an old one."""
    from tleg_core.training.keeper import CHECKPOINT_NAME

    if out.suffix != ".safetensors":
        raise ConfigError("out", f"must end in .safetensors, not {out.name!r}")
    folder = out.with_suffix(".run")
    if not resume and (folder / CHECKPOINT_NAME).exists():
        raise ConfigError("out", f"{folder} holds the checkpoint of an earlier run: give --resume, or remove it")
    return folder


def parse_depths(text: str | None, low: int, high: int) -> list[int]:
    """Return the depths of `3,6,9-12`, or all from `low` to `high`."""
    if text is None:
        return list(range(low, high + 1))
    depths: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            start, stop = int(first), int(last if dash else first)
        except ValueError:
            raise ConfigError("depths", f"must be like 3,6,9-12, not {text!r}") from None
        if not low <= start <= stop <= high:
            raise ConfigError("depths", f"must lie within {low} to {high}, the smaller first, not {text!r}")
        depths |= set(range(start, stop + 1))
    return sorted(depths)


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`, tried out; raises `TlegError` where it is none, or does not work."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.device(name)
    except RuntimeError:
        raise ConfigError("device", f"must be auto, cpu, cuda or one of several as cuda:1, not {name!r}") from None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TlegError(f"device: cannot compute on {name!r}: {str(error).splitlines()[0]}") from error


def command_line() -> str:
    """Return the command line that makes the same from the start, under the program's name."""
    return shlex.join(["tleg", *(word for word in sys.argv[1:] if word != "--resume")])
