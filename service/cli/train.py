"""`tleg train`: from a recipe, and what the command line changes of it, to a learngene's file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.cli.training_options import (
    TEST_HELP,
    DataOption,
    DeviceOption,
    ResumeOption,
    WorkersOption,
    check_file,
    command_line,
    read_both,
    resolve_device,
    run_folder,
)
from tleg_core.config_section import parse_overrides
from tleg_core.errors import ConfigError
from tleg_core.images import read_images
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.training_recipe import read_recipe
from tleg_core.vit import VIT_SIZES

if TYPE_CHECKING:
    from tleg_core.training.teacher import Teacher

BASE = {"training": {"epochs": 10, "warmup_epochs": 1}, "network": {"img_size": 28, "patch_size": 7}}


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe's name (`tleg recipes list`) or TOML file; default: TLEG for small images."),
    ] = None,
    *,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The learngene file to write; checkpoints and journal go to a folder beside it.")],
    ancestry: Annotated[
        Path | None,
        typer.Option(help="The ancestry model's file (`tleg ancestry`), or its stored logits'; default: labels alone."),
    ] = None,
    test_data: Annotated[Path | None, typer.Option(help=f"Test images, measured after each epoch. {TEST_HELP}")] = None,
    name: Annotated[str | None, typer.Option(help="The learngene's id; default: the name of --out.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change a field of the recipe; may be given several times."),
    ] = None,
    size: Annotated[str | None, typer.Option(help=f"Width and heads by name: {', '.join(VIT_SIZES)}.")] = None,
    embed_dim: Annotated[int | None, typer.Option(help="Width, instead of the size's.")] = None,
    num_heads: Annotated[int | None, typer.Option(help="Attention heads, instead of the size's.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch, in pixels.")] = None,
    depth: Annotated[int | None, typer.Option(help="Largest depth that is trained; the paper's is 12.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images for one update.")] = None,
    micro_batches: Annotated[int | None, typer.Option(help="Compute each batch in this many parts: less memory.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (AdamW, cosine), as it is, whatever the batch.")] = None,
    warmup_epochs: Annotated[int | None, typer.Option(help="Epochs of linear warm-up.")] = None,
    ema_decay: Annotated[float | None, typer.Option(help="Decay of the weights' moving average.")] = None,
    flip: Annotated[float | None, typer.Option(help="Probability of a horizontal flip, 0..1.")] = None,
    shift: Annotated[int | None, typer.Option(help="Largest random shift, in pixels of the stored image.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the initial weights, the images' order and augmentation.")] = None,
    licence: Annotated[str, typer.Option(help="The licence that the learngene is given.")] = "Apache-2.0",
    device: DeviceOption = "auto",
    checkpoint_every_steps: Annotated[int | None, typer.Option(help="Updates between checkpoints.")] = None,
    workers: WorkersOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a learngene: an auxiliary model, expanded from it at each step, learns from an ancestry model or from labels.

    Options are short for fields of the recipe: `--epochs 3` is `--set training.epochs=3`. On several GPUs, sharing each batch:
    `torchrun --nproc-per-node 4 -m service.cli train …`; on several machines, with torchrun's options for that.
    """
    from tleg_core.training.evaluate import measure_depths
    from tleg_core.training.journal import JOURNAL_NAME, Journal
    from tleg_core.training.learngene_run import train_learngene
    from tleg_core.training.observer import Silent
    from tleg_core.training.process_group import local_device, process_group

    given: dict[str, dict[str, Any]] = {
        "network": {
            "size": size,
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "img_size": img_size,
            "patch_size": patch_size,
        },
        "depths": {"train": depth, "offer_max": None if depth is None else max(depth, 12)},
        "training": {
            "epochs": epochs,
            "batch_size": batch_size,
            "micro_batches": micro_batches,
            "lr": lr,
            "warmup_epochs": warmup_epochs,
            "ema_decay": ema_decay,
            "precision": precision,
            "seed": seed,
            "checkpoint_every_steps": checkpoint_every_steps,
        },
        "augmentation": {"flip": flip, "shift": shift},
    }
    config = _config(recipe, given, changes or [], labels_only=ancestry is None)
    if ancestry is not None:
        check_file(ancestry, "ancestry")
    folder = run_folder(out, resume)
    with process_group() as processes:
        where = resolve_device(local_device(device))
        if test_data is None:
            images = read_images(data, side=config.network.img_size, processes=processes.count)
            test_images = None
        else:
            images, test_images = read_both(data, test_data, side=config.network.img_size, processes=processes.count)
        teacher: Teacher | None = None
        if ancestry is not None:
            from tleg_core.training.teacher_file import open_teacher

            teacher = open_teacher(ancestry, where, config.training.precision)
        with Journal(folder / JOURNAL_NAME, Console()) if processes.first else nullcontext() as journal:
            if journal is not None:
                journal.write("start", command=command_line(), config=config.to_json())
            learngene = train_learngene(
                out.stem if name is None else name,
                config,
                teacher,
                images,
                test_data=test_images,
                folder=folder,
                command=command_line(),
                licence=licence,
                journal=journal or Silent(),
                device=where,
                resume=resume,
                processes=processes,
                workers=workers,
            )
            if journal is None:  # the first process writes it
                return
            learngene.write(out)
            if test_images is not None:
                depths = [member.depth for member in learngene.description.design.members]
                accuracy = tuple(measure_depths(learngene, test_images, depths=depths, device=where))
                learngene = learngene.with_description(accuracy=accuracy)
                learngene.write(out)
                for entry in accuracy:
                    journal.measured(entry)
            journal.write("done", f"{out}: {learngene.num_params:,} parameters", digest=learngene.digest)


def _config(
    recipe: str | None, given: Mapping[str, Mapping[str, Any]], changes: list[str], *, labels_only: bool
) -> LearngeneConfig:
    """Return the recipe with what the command line changes of it.

    Without an ancestry model alpha is 0: a recipe that distils is refused, unless the command line says alpha = 0 itself.
    """
    base = LearngeneConfig.from_json(BASE) if recipe is None else read_recipe(recipe)
    if recipe is None and labels_only:
        base = base.with_changes({"distillation": {"alpha": 0.0}})
    said = {
        section: {field: value for field, value in fields.items() if value is not None} for section, fields in given.items()
    }
    for section, fields in parse_overrides(changes).items():
        said[section] = said.get(section, {}) | fields
    training = said.get("training", {})
    epochs = training.get("epochs")
    if isinstance(epochs, int) and epochs >= 1 and "warmup_epochs" not in training:  # a short trial needs no other one named
        said["training"] = training | {"warmup_epochs": min(base.training.warmup_epochs, epochs - 1)}
    config = base.with_changes(said)
    if labels_only and config.distillation.alpha != 0.0:
        raise ConfigError("ancestry", "is needed: the recipe distils (or give --set distillation.alpha=0 to learn from labels)")
    if not labels_only and config.distillation.alpha == 0.0:
        raise ConfigError("ancestry", "has no use: the recipe learns from labels alone (distillation.alpha is 0)")
    return config
