"""`tleg ancestry`: the trained teachers that learngenes are distilled from, fitted to a data set or taken as they are.

Options become typed configurations here; the work is `tleg_core.training`'s, which is imported inside the commands because
torch takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.cli.ancestry_options import (
    ArchitectureOption,
    CropOption,
    ImgSizeOption,
    InterpolationOption,
    LicenceOption,
    MeanOption,
    ModelArgOption,
    OriginOption,
    OutOption,
    StdOption,
    read_architecture,
    read_class_names,
)
from service.cli.recipe_changes import BASE
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
    resolve_device,
    run_folder,
)
from tleg_core.amount import amount
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.images import load_image_set, read_images
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.training_config import Augmentation, Precision, TrainingConfig
from tleg_core.training_recipe import learngene_recipe

app = typer.Typer(help="Ancestry models: the trained teachers that learngenes are distilled from.", no_args_is_help=True)

_DEFAULT_VIEWS = 4

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
    shape = read_architecture(architecture, model_arg or (), img_size, mean, std, interpolation, crop_pct)
    folder = run_folder(out, resume)
    images, test_images = _read_both(data, test_data, shape.img_size)
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
        with _progress(console, "images", len(images) + len(test_images)) as progressed:
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
    shape = read_architecture(architecture, model_arg or (), img_size, mean, std, interpolation, crop_pct)
    images = None if test_data is None else read_images(test_data, split="test", side=shape.img_size)
    names = images.class_names if classes is None and images is not None else read_class_names(classes or "")
    if images is not None and names != images.class_names:
        raise ConfigError("classes", f"are not those of {images.name}, or stand in another order")
    card = AncestryCard.of(shape, class_names=names, data_set=data_set, origin=origin, licence=licence, fit=Fit.IMPORTED)
    top1 = import_ancestry(card, weights, images, out=out, device=resolve_device(device))
    measured = "" if top1 is None or images is None else f", top-1 {top1.fraction:.2%} on {images.name}"
    Console().print(f"{out}: {architecture}, {len(names)} classes{measured}", highlight=False, soft_wrap=True)


@app.command("logits")
def logits(
    *,
    ancestry: Annotated[Path, typer.Option(help="The ancestry model's file, from `tleg ancestry fit` or `import`.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The safetensors file to write; finished views wait in a folder beside it.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe of the trainings to come, by name or file: it says how images are augmented."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change a field of it, as `tleg train` does."),
    ] = None,
    views: Annotated[int | None, typer.Option(help="Different draws of each image. Default: the recipe's, else 4.")] = None,
    flip: Annotated[float | None, typer.Option(help="Probability of a horizontal flip, 0..1.")] = None,
    shift: Annotated[int | None, typer.Option(help="Largest random shift, in pixels of the stored image.")] = None,
    dtype: Annotated[
        DType, typer.Option(metavar="DTYPE", help="float16, or float32: to the bit as on the fly.")
    ] = DType.FLOAT16,
    precision: Annotated[
        Precision, typer.Option(metavar="PRECISION", help=f"The ancestry model's arithmetic: {', '.join(Precision)}.")
    ] = Precision.FLOAT32,
    batch_size: Annotated[int | None, typer.Option(help="Images at once. Default: the recipe's.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Ask an ancestry model once about every view of every image, so that `tleg train` need not run it.

    An interrupted command goes on where it stood when it is given again.

    Train with the file as `--ancestry` and `--set augmentation.views=VIEWS`.
    """
    from tleg_core.training.ancestry import AncestryModel
    from tleg_core.training.learngene_run import training_batches
    from tleg_core.training.stored_logits import store_logits
    from tleg_core.training.teacher import AncestryTeacher, check_classes

    check_file(ancestry, "ancestry")
    _check_suffix(out)
    base = LearngeneConfig.from_json(BASE) if recipe is None else learngene_recipe(recipe)
    if views is None:
        views = base.training.augmentation.views or _DEFAULT_VIEWS
    given: dict[str, dict[str, float | None]] = {
        "augmentation": {"views": views, "flip": flip, "shift": shift},
        "training": {"batch_size": batch_size},
    }
    said = {section: {name: value for name, value in fields.items() if value is not None} for section, fields in given.items()}
    config = base.with_changes(said).with_overrides(changes or [])
    where, console = resolve_device(device), Console()
    images = load_image_set(data)
    teacher = AncestryTeacher(AncestryModel.open(ancestry), where, precision)
    check_classes(teacher, images.class_names, images.name)
    num_views = config.training.augmentation.views or 0
    with (
        training_batches(config, images, where) as batches,
        _progress(console, "logits", num_views * len(images)) as progressed,
    ):
        store_logits(
            teacher,
            batches,
            config.training,
            out,
            num_images=len(images),
            folder=out.with_suffix(".run"),
            dtype=dtype,
            progressed=progressed,
        )
    console.print(
        f"{out}: {amount(num_views, 'view')} of {len(images):,} images, {out.stat().st_size / 1e6:.1f} MB; "
        f"train with --ancestry {out} "
        f"--set augmentation.views={num_views}",
        highlight=False,
        soft_wrap=True,
    )


def _check_start(weights: Path | None, *, from_scratch: bool, head_only: bool) -> None:
    """Raise `ConfigError` unless it is said, once, what the model begins with."""
    if (weights is None) != from_scratch:
        raise ConfigError("weights", "are needed, or --from-scratch; not both")
    if from_scratch and head_only:
        raise ConfigError("head_only", "needs pretrained --weights: the features of random ones are worth little")
    if weights is not None:
        check_file(weights, "weights")


def _read_both(data: Path, test_data: Path, side: int) -> tuple[ImageSource, ImageSource]:
    """Return training and test images, in memory where all fit and are of one size."""
    images, test_images = read_images(data, side=side), read_images(test_data, split="test", side=side)
    if images.class_names != test_images.class_names:
        raise ConfigError("test_data", f"the classes of {test_images.name} are not those of {images.name}")
    if images.digest() == test_images.digest():
        raise ConfigError("test_data", "holds the very images of --data")
    return images, test_images


def _check_suffix(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError("out", f"must end in .safetensors, not {out.name!r}")


@contextmanager
def _progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar over so many images; give what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
