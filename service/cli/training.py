"""The training commands: `tleg train`, `tleg evaluate`, `tleg import`, `tleg ancestry fit`.

Options become typed configurations here; the work is `tleg_core.training`'s, which is imported inside the commands because
torch takes seconds to load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.cli.training_options import (
    TEST_HELP,
    AutocastOption,
    BatchOption,
    CheckpointOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    FlipOption,
    MicroOption,
    ResumeOption,
    SeedOption,
    ShiftOption,
    TestDataOption,
    WarmupOption,
    check_file,
    command_line,
    load_both,
    parse_depths,
    resolve_device,
    run_folder,
)
from tleg_core import __version__
from tleg_core.errors import ConfigError
from tleg_core.images import load_image_set
from tleg_core.vit import VIT_SIZES, VitConfig

ancestry_app = typer.Typer(
    help="Ancestry models: the trained teachers that learngenes are distilled from.", no_args_is_help=True
)


@ancestry_app.command("fit")
def fit(
    *,
    weights: Annotated[
        Path, typer.Option(help="Pretrained weights of the architecture: timm's names, safetensors, any float type.")
    ],
    data: DataOption,
    test_data: TestDataOption,
    out: Annotated[Path, typer.Option(help="The safetensors file to write; checkpoints go to a folder beside it.")],
    architecture: Annotated[str, typer.Option(help="timm's model name.")] = "tf_efficientnet_lite0",
    img_size: Annotated[int, typer.Option(help="Side of the model's input, in pixels; images are resized to it.")] = 64,
    origin: Annotated[str, typer.Option(help="Where the weights come from, for the card.")] = "unknown origin",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "unknown licence",
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
    """Fine-tune a pretrained timm model on a data set, to be the ancestry model of `tleg train`."""
    from tleg_core.training.ancestry import AncestryCard, fit_ancestry
    from tleg_core.training.augmentation import Augmentation
    from tleg_core.training.config import TrainingConfig
    from tleg_core.training.journal import JOURNAL_NAME, Journal

    console = Console()
    check_file(weights, "weights")
    folder = run_folder(out, resume)
    images, test_images = load_both(data, test_data)
    card = AncestryCard(
        architecture=architecture,
        img_size=img_size,
        class_names=images.class_names,
        data_set=images.name,
        origin=origin,
        licence=licence,
    )
    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        warmup_epochs=min(warmup_epochs, epochs - 1),
        autocast=autocast,
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
            device=resolve_device(device),
            resume=resume,
        )


def train(
    *,
    data: DataOption,
    ancestry: Annotated[Path, typer.Option(help="The ancestry model's file, from `tleg ancestry fit`.")],
    out: Annotated[Path, typer.Option(help="The learngene file to write; checkpoints and journal go to a folder beside it.")],
    test_data: Annotated[Path | None, typer.Option(help=f"Test images, measured after each epoch. {TEST_HELP}")] = None,
    name: Annotated[str | None, typer.Option(help="The learngene's id; default: the name of --out.")] = None,
    size: Annotated[str, typer.Option(help=f"Width and heads by name: {', '.join(VIT_SIZES)}.")] = "tiny",
    embed_dim: Annotated[int | None, typer.Option(help="Width, instead of the size's.")] = None,
    num_heads: Annotated[int | None, typer.Option(help="Attention heads, instead of the size's.")] = None,
    img_size: Annotated[int, typer.Option(help="Side of the network's input, in pixels.")] = 28,
    patch_size: Annotated[int, typer.Option(help="Side of a patch, in pixels.")] = 7,
    depth: Annotated[int, typer.Option(help="Depth of the auxiliary model; the paper's is 12.")] = 12,
    epochs: EpochsOption = 10,
    batch_size: BatchOption = 128,
    micro_batches: MicroOption = 1,
    lr: Annotated[float, typer.Option(help="Peak learning rate (AdamW, cosine), as it is, whatever the batch.")] = 5e-4,
    warmup_epochs: WarmupOption = 1,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 0.05,
    ema_decay: Annotated[float | None, typer.Option(help="Decay of the weights' moving average; none without it.")] = None,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth, 0..1.")] = 0.0,
    alpha: Annotated[float, typer.Option(help="Share of the distillation loss, 0..1; 1, the paper's, uses no labels.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Temperature of the distillation.")] = 1.0,
    kd_normalisation: Annotated[
        str, typer.Option(help="batchmean, or numel: divided by the classes too, as published.")
    ] = "numel",
    flip: FlipOption = 0.5,
    shift: ShiftOption = 2,
    mixup: Annotated[float, typer.Option(help="Mixup's Beta parameter; 0 is off.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing, with mixup.")] = 0.0,
    licence: Annotated[str, typer.Option(help="The licence that the learngene is given.")] = "Apache-2.0",
    autocast: AutocastOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    checkpoint_every_steps: CheckpointOption = 200,
    resume: ResumeOption = False,
) -> None:
    """Train a learngene (TLEG, stage 1): distil an ancestry model into an auxiliary model expanded from it."""
    from tleg_core.training.ancestry import AncestryModel
    from tleg_core.training.augmentation import Augmentation
    from tleg_core.training.config import TrainingConfig
    from tleg_core.training.distillation import Distillation, KdNormalisation
    from tleg_core.training.evaluate import measure_depths
    from tleg_core.training.journal import JOURNAL_NAME, Journal
    from tleg_core.training.stage_one import StageOne, train_learngene

    console = Console()
    if kd_normalisation not in set(KdNormalisation):
        raise ConfigError("kd_normalisation", f"must be one of {', '.join(KdNormalisation)}, not {kd_normalisation!r}")
    check_file(ancestry, "ancestry")
    training = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        micro_batches=micro_batches,
        lr=lr,
        warmup_epochs=min(warmup_epochs, epochs - 1),
        weight_decay=weight_decay,
        ema_decay=ema_decay,
        autocast=autocast,
        seed=seed,
        augmentation=Augmentation(flip=flip, shift=shift, mixup_alpha=mixup, label_smoothing=label_smoothing),
        checkpoint_every_steps=checkpoint_every_steps,
    )
    distillation = Distillation(alpha=alpha, temperature=temperature, normalisation=KdNormalisation(kd_normalisation))
    folder = run_folder(out, resume)
    if test_data is None:
        images, test_images = load_image_set(data), None
    else:
        images, test_images = load_both(data, test_data)
    stage = StageOne(
        name=out.stem if name is None else name,
        config=_network(
            size=size,
            embed_dim=embed_dim,
            num_heads=num_heads,
            img_size=img_size,
            patch_size=patch_size,
            num_classes=images.num_classes,
        ),
        depth=depth,
        training=training,
        distillation=distillation,
        drop_path_rate=drop_path,
    )
    where = resolve_device(device)
    with Journal(folder / JOURNAL_NAME, console) as journal:
        journal.write("start", command=command_line())
        learngene = train_learngene(
            stage,
            AncestryModel.open(ancestry),
            images,
            test_data=test_images,
            folder=folder,
            command=command_line(),
            licence=licence,
            journal=journal,
            device=where,
            resume=resume,
        )
        learngene.write(out)
        if test_images is not None:
            depths = range(learngene.description.min_depth, learngene.description.max_depth + 1)
            accuracy = tuple(measure_depths(learngene, test_images, depths=depths, device=where))
            learngene = learngene.with_description(accuracy=accuracy)
            learngene.write(out)
            for entry in accuracy:
                journal.write("measurement", f"depth {entry.depth}: top-1 {entry.top1:.2%}", depth=entry.depth, top1=entry.top1)
        journal.write("done", f"{out}: {learngene.num_params:,} parameters", digest=learngene.digest)


def evaluate(
    *,
    learngene: Annotated[Path, typer.Argument(help="The learngene's file; the accuracy is written into it.")],
    data: Annotated[Path, typer.Option(help=f"Test images. {TEST_HELP}")],
    depths: Annotated[str | None, typer.Option(help="Depths such as 3,6,9-12; default: all that the learngene offers.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first so many images only.")] = None,
    batch_size: BatchOption = 500,
    write: Annotated[bool, typer.Option("--write/--no-write", help="Write the result into the file.")] = True,
    device: DeviceOption = "auto",
) -> None:
    """Measure the top-1 accuracy of the descendants of a learngene, as expanded, without fine-tuning."""
    from tleg_core.learngene import Learngene
    from tleg_core.training.evaluate import measure_depths

    gene = Learngene.open(learngene)
    config = gene.description.config
    images = load_image_set(data, split="test")
    if limit is not None:
        if limit < 1:
            raise ConfigError("limit", f"must be at least 1, not {limit}")
        images = images.head(limit)
    chosen = parse_depths(depths, gene.description.min_depth, gene.description.max_depth)
    table = Table("depth", "top-1", title=f"{gene.name} on {images.name} ({len(images):,} images, {config.img_size} px)")
    measured = []
    for entry in measure_depths(gene, images, depths=chosen, device=resolve_device(device), batch_size=batch_size):
        measured.append(entry)
        table.add_row(str(entry.depth), f"{entry.top1:.2%}")
    Console().print(table)
    if write:
        replaced = {(entry.depth, entry.data_set) for entry in measured}
        kept = [entry for entry in gene.description.accuracy if (entry.depth, entry.data_set) not in replaced]
        accuracy = sorted([*kept, *measured], key=lambda entry: (entry.data_set, entry.depth))
        gene.with_description(accuracy=tuple(accuracy)).write(learngene)


def import_checkpoint(
    *,
    checkpoint: Annotated[
        Path, typer.Argument(help="A .pth of the authors' TLEG code: an auxiliary model's training checkpoint.")
    ],
    out: Annotated[Path, typer.Option(help="The learngene file to write.")],
    name: Annotated[str | None, typer.Option(help="The learngene's id; default: the name of --out.")] = None,
    num_heads: Annotated[
        int | None, typer.Option(help="Attention heads, which the file cannot tell; default: width / 64.")
    ] = None,
    depth: Annotated[int, typer.Option(help="Depth that the auxiliary model was trained at; the authors' is 12.")] = 12,
    max_depth: Annotated[int, typer.Option(help="The largest depth to offer.")] = 12,
    data_set: Annotated[str, typer.Option(help="What it was trained on, for the provenance.")] = "unknown",
    ancestry: Annotated[str, typer.Option(help="What it was distilled from, for the provenance.")] = "unknown",
    licence: Annotated[str, typer.Option(help="Its licence, for the provenance.")] = "unknown",
) -> None:
    """Convert a checkpoint of the authors' code into a learngene file, strictly."""
    from tleg_core.description import Provenance
    from tleg_core.training.official_checkpoint import import_official

    provenance = Provenance(data_set=data_set, ancestry=ancestry, command=command_line(), version=__version__, licence=licence)
    gene = import_official(
        checkpoint,
        name=out.stem if name is None else name,
        num_heads=num_heads,
        trained_depth=depth,
        max_depth=max_depth,
        provenance=provenance,
    )
    gene.write(out)
    config = gene.description.config
    Console().print(
        f"{out}: width {config.embed_dim}, {config.num_heads} heads, {config.img_size} px, patch {config.patch_size}, "
        f"{config.num_classes} classes, {gene.num_params:,} parameters, {gene.digest}",
        highlight=False,
    )


def _network(
    *, size: str, embed_dim: int | None, num_heads: int | None, img_size: int, patch_size: int, num_classes: int
) -> VitConfig:
    if size not in VIT_SIZES:
        raise ConfigError("size", f"must be one of {', '.join(VIT_SIZES)}, not {size!r}")
    named = VIT_SIZES[size]
    return VitConfig(
        embed_dim=named.embed_dim if embed_dim is None else embed_dim,
        num_heads=named.num_heads if num_heads is None else num_heads,
        img_size=img_size,
        patch_size=patch_size,
        num_classes=num_classes,
    )
