"""`tleg ancestry`: the trained teachers that learngenes are distilled from, fitted to a data set or taken as they are.

Options become typed configurations here; the work is `tleg_core.training`'s, which is imported inside the commands because
torch takes seconds to load.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.cli.training_options import (
    TEST_HELP,
    AutocastOption,
    BatchOption,
    CheckpointOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    FlipOption,
    ResumeOption,
    SeedOption,
    ShiftOption,
    TestDataOption,
    WarmupOption,
    check_file,
    command_line,
    load_both,
    resolve_device,
    run_folder,
)
from tleg_core.errors import ConfigError
from tleg_core.images import load_image_set
from tleg_core.training_config import Augmentation, Precision, TrainingConfig

if TYPE_CHECKING:
    from tleg_core.training.architecture import Architecture

app = typer.Typer(help="Ancestry models: the trained teachers that learngenes are distilled from.", no_args_is_help=True)

ArchitectureOption = Annotated[str, typer.Option(help="timm's model name.")]
ModelArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg", metavar="KEY=VALUE", help="A further argument of timm's create_model; may be given several times."
    ),
]
ImgSizeOption = Annotated[
    int | None,
    typer.Option(help="Side of the model's input, in pixels; images are resized to it. Default: timm's for this model."),
]
MeanOption = Annotated[str | None, typer.Option(help="Mean of each channel, such as 0.5,0.5,0.5. Default: timm's.")]
StdOption = Annotated[str | None, typer.Option(help="Standard deviation of each channel. Default: timm's.")]
InterpolationOption = Annotated[str | None, typer.Option(help="bilinear or bicubic. Default: timm's.")]
CropOption = Annotated[
    float | None, typer.Option(help="Share of the resized image's side that is kept, 1 for all. Default: timm's.")
]
OriginOption = Annotated[str, typer.Option(help="Where the weights come from, for the card.")]
LicenceOption = Annotated[str, typer.Option(help="Licence of the weights, for the card.")]
OutOption = Annotated[Path, typer.Option(help="The safetensors file to write; a run's files go to a folder beside it.")]

_WHOLE_ONLY = ("epochs", "lr", "warmup_epochs", "flip", "shift", "checkpoint_every_steps", "resume")
"""Options that say how a whole network is trained; a head alone is fitted to its minimum."""


@app.command("fit")
def fit(
    context: typer.Context,
    *,
    data: DataOption,
    test_data: TestDataOption,
    out: OutOption,
    weights: Annotated[
        Path | None,
        typer.Option(help="Pretrained weights: timm's names, safetensors, any float type, with or without the head."),
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Begin with random weights instead.")] = False,
    head_only: Annotated[
        bool,
        typer.Option("--head-only", help="Fit the last layer on frozen features: minutes on a CPU; no augmentation."),
    ] = False,
    architecture: ArchitectureOption = "tf_efficientnet_lite0",
    model_arg: ModelArgOption = None,
    img_size: ImgSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    interpolation: InterpolationOption = None,
    crop_pct: CropOption = None,
    origin: OriginOption = "unknown origin",
    licence: LicenceOption = "unknown licence",
    epochs: EpochsOption = 2,
    batch_size: BatchOption = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate (AdamW, cosine).")] = 1e-3,
    warmup_epochs: WarmupOption = 0,
    flip: FlipOption = 0.5,
    shift: ShiftOption = 2,
    autocast: AutocastOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    checkpoint_every_steps: CheckpointOption = 200,
    resume: ResumeOption = False,
) -> None:
    """Fit a timm model to a data set: the whole network, or its last layer alone."""
    from tleg_core.training.ancestry import AncestryCard, Fit
    from tleg_core.training.ancestry_fit import fit_ancestry, fit_ancestry_head
    from tleg_core.training.journal import JOURNAL_NAME, Journal

    _check_start(weights, from_scratch=from_scratch, head_only=head_only)
    if head_only:
        for name in _WHOLE_ONLY:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise ConfigError(name, "is of no use with --head-only")
    shape = _architecture(architecture, model_arg or (), img_size, mean, std, interpolation, crop_pct)
    folder = run_folder(out, resume)
    images, test_images = load_both(data, test_data)
    card = AncestryCard.of(
        shape,
        class_names=images.class_names,
        data_set=images.name,
        origin=f"random weights, seed {seed}" if from_scratch else origin,
        licence="none needed" if from_scratch else licence,
        fit=Fit.SCRATCH if from_scratch else Fit.HEAD if head_only else Fit.WHOLE,
    )
    precision = Precision.BFLOAT16 if autocast else Precision.FLOAT32
    where = resolve_device(device)
    console = Console()
    if head_only and weights is not None:
        journal = Journal(folder / JOURNAL_NAME, console)
        journal.write("start", command=command_line())
        with _progress(console, "features", len(images)) as progressed:
            fit_ancestry_head(
                card,
                weights,
                images,
                test_images,
                seed=seed,
                precision=precision,
                batch_size=batch_size,
                out=out,
                folder=folder,
                journal=journal,
                device=where,
                progressed=progressed,
            )
        return
    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        warmup_epochs=min(warmup_epochs, epochs - 1),
        precision=precision,
        seed=seed,
        augmentation=Augmentation(flip=flip, shift=shift),
        checkpoint_every_steps=checkpoint_every_steps,
    )
    with Journal(folder / JOURNAL_NAME, console) as journal:
        journal.write("start", command=command_line())
        fit_ancestry(
            card,
            weights,
            images,
            test_images,
            config,
            out=out,
            folder=folder,
            journal=journal,
            device=where,
            resume=resume,
        )


@app.command("import")
def import_model(
    *,
    weights: Annotated[Path, typer.Option(help="The whole model's weights: timm's names, safetensors, any float type.")],
    architecture: Annotated[str, typer.Option(help="timm's model name.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    classes: Annotated[
        str | None,
        typer.Option(help="The head's classes in order: names with commas, or a file of one a line. Default: the test data's."),
    ] = None,
    test_data: Annotated[Path | None, typer.Option(help=f"Images to measure it on. {TEST_HELP}")] = None,
    data_set: Annotated[str, typer.Option(help="What it was trained on, for the card.")] = "unknown data",
    model_arg: ModelArgOption = None,
    img_size: ImgSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    interpolation: InterpolationOption = None,
    crop_pct: CropOption = None,
    origin: OriginOption = "unknown origin",
    licence: LicenceOption = "unknown licence",
    device: DeviceOption = "auto",
) -> None:
    """Take a timm model that knows the data set's classes already; nothing is trained."""
    from tleg_core.training.ancestry import AncestryCard, Fit
    from tleg_core.training.ancestry_fit import import_ancestry

    check_file(weights, "weights")
    _check_suffix(out)
    if classes is None and test_data is None:
        raise ConfigError("classes", "are needed: give --classes, or --test-data to take its classes")
    shape = _architecture(architecture, model_arg or (), img_size, mean, std, interpolation, crop_pct)
    images = None if test_data is None else load_image_set(test_data, split="test")
    names = images.class_names if classes is None and images is not None else _class_names(classes or "")
    if images is not None and names != images.class_names:
        raise ConfigError("classes", f"are not those of {images.name}, or stand in another order")
    card = AncestryCard.of(shape, class_names=names, data_set=data_set, origin=origin, licence=licence, fit=Fit.IMPORTED)
    top1 = import_ancestry(card, weights, images, out=out, device=resolve_device(device))
    measured = "" if top1 is None or images is None else f", top-1 {top1.fraction:.2%} on {images.name}"
    Console().print(f"{out}: {architecture}, {len(names)} classes{measured}", highlight=False, soft_wrap=True)


def _check_start(weights: Path | None, *, from_scratch: bool, head_only: bool) -> None:
    """Raise `ConfigError` unless it is said, once, what the model begins with."""
    if (weights is None) != from_scratch:
        raise ConfigError("weights", "are needed, or --from-scratch; not both")
    if from_scratch and head_only:
        raise ConfigError("head_only", "needs pretrained --weights: the features of random ones are worth little")
    if weights is not None:
        check_file(weights, "weights")


def _check_suffix(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError("out", f"must end in .safetensors, not {out.name!r}")


def _architecture(
    name: str,
    model_args: Sequence[str],
    img_size: int | None,
    mean: str | None,
    std: str | None,
    interpolation: str | None,
    crop_pct: float | None,
) -> Architecture:
    from tleg_core.training.architecture import Architecture

    return Architecture.named(
        name,
        model_args=dict(_model_arg(text) for text in model_args),
        img_size=img_size,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        interpolation=interpolation,
        crop_pct=crop_pct,
    )


def _model_arg(text: str) -> tuple[str, Any]:
    """Return name and value of `name=value`; the value is JSON's, Python's, or failing that a bare word."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ConfigError("model_arg", f"must be like img_size=112, not {text[:80]!r}")
    for read in (json.loads, ast.literal_eval):
        try:
            return name, json.loads(json.dumps(read(value)))  # as the card will have it
        except (ValueError, SyntaxError, TypeError, RecursionError):
            continue
    return name, value


def _numbers(field: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of `0.5,0.5,0.5`."""
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(field, f"must be like 0.5,0.5,0.5, not {text[:80]!r}") from None


def _class_names(text: str) -> tuple[str, ...]:
    """Return the class names of a file, one a line, or of a list with commas."""
    path = Path(text)
    try:
        words = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("classes", f"cannot be read from {path}: {error}") from error
    names = tuple(word.strip() for word in words if word.strip())
    if len(set(names)) != len(names) or not names:
        raise ConfigError("classes", "must be names, each once")
    return names


@contextmanager
def _progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar over so many images; give what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
