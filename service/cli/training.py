"""The training commands: `tleg train`, `tleg evaluate`, `tleg import`, `tleg ancestry fit`.

Options become typed configurations here; the work is `tleg_core.training`'s, which is imported inside the commands because
torch takes seconds to load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli.training_options import (
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
from tleg_core import __version__
from tleg_core.training_config import Augmentation, Precision, TrainingConfig

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
        precision=Precision.BFLOAT16 if autocast else Precision.FLOAT32,
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
