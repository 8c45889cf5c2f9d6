"""`tleg train`: from a recipe, and what the command line changes of it, to a learngene's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.cli.evaluate import measure_members
from service.cli.recipe_changes import configured
from service.cli.training_options import (
    TEST_HELP,
    DataOption,
    DeviceOption,
    ResumeOption,
    WorkersOption,
    check_file,
    command_line,
    learngene_name,
    read_both,
    resolve_device,
    run_folder,
)
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.images import read_images
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene import Learngene
from tleg_core.pool_config import PoolConfig
from tleg_core.training_recipe import AnyConfig
from tleg_core.vit import VIT_SIZES

if TYPE_CHECKING:
    import torch

    from tleg_core.training.observer import Observer
    from tleg_core.training.processes import Processes
    from tleg_core.training.teacher import AncestryTeacher, Teacher


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
        typer.Option(
            help="The ancestry model's file (`tleg ancestry`), or its stored logits'; default without a recipe: labels alone."
        ),
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A pool's anchor that is there already (safetensors, timm's names): it is not trained alone. May be repeated.",
        ),
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
    licence: Annotated[
        str, typer.Option(help="The licence that the learngene is given, such as Apache-2.0.", show_default="not stated")
    ] = "",
    device: DeviceOption = "auto",
    checkpoint_every_steps: Annotated[int | None, typer.Option(help="Updates between checkpoints.")] = None,
    workers: WorkersOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a learngene, from an ancestry model or from labels: whatever the recipe says.

    TLEG and its like train an auxiliary model that is expanded from the learngene
    at each step; Learngene Pool and SN-Net train several networks and the
    stitches between them; Heur-LG and Auto-LG choose layers of the ancestry
    model.

    Options are short for fields of the recipe: `--epochs 3` is
    `--set training.epochs=3`.

    On several GPUs, sharing each batch:
    `torchrun --nproc-per-node 4 -m service.cli train …`;
    on several machines, with torchrun's options for that.
    """
    from tleg_core.training.journal import JOURNAL_NAME, Journal
    from tleg_core.training.observer import Silent
    from tleg_core.training.process_group import local_device, process_group
    from tleg_core.training.teacher_file import open_teacher

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
    named = learngene_name(name, out)
    anchors = _anchor_files(anchor or [])
    config = configured(recipe, given, changes or [], has_ancestry=ancestry is not None, anchors=anchors)
    if anchors and not isinstance(config, PoolConfig):
        raise ConfigError("anchor", "is for a recipe with anchors")
    if ancestry is not None:
        check_file(ancestry, "ancestry")
    folder = run_folder(out, resume)
    with process_group() as processes:
        where = resolve_device(local_device(device))
        teacher = None if ancestry is None else open_teacher(ancestry, where, config.training.precision)
        side = _side(config, teacher)
        if test_data is None:
            images = read_images(data, side=side, processes=processes.count)
            test_images = None
        else:
            images, test_images = read_both(data, test_data, side=side, processes=processes.count)
        with Journal(folder / JOURNAL_NAME, Console()) if processes.first else nullcontext() as journal:
            if journal is not None:
                journal.write("start", command=command_line(), config=config.to_json())
            run = _Run(
                name=named,
                images=images,
                test_images=test_images,
                folder=folder,
                licence=licence,
                journal=journal or Silent(),
                device=where,
                resume=resume,
                processes=processes,
                workers=workers,
            )
            learngene = run.trained(config, teacher, anchors)
            if journal is None:  # the first process writes it
                return
            learngene.write(out)
            if test_images is not None:
                members = learngene.description.design.members
                progressed = journal.measuring(len(members) * len(test_images))
                measured = measure_members(learngene, test_images, members, device=where, progressed=progressed)
                learngene = learngene.with_description(accuracy=tuple(measured))
                learngene.write(out)
                for entry in learngene.description.accuracy:
                    journal.measured(entry)
            journal.write("done", f"{out}: {learngene.num_params:,} parameters", digest=learngene.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What every kind of recipe is run with."""

    name: str
    images: ImageSource
    test_images: ImageSource | None
    folder: Path
    licence: str
    journal: Observer
    device: torch.device
    resume: bool
    processes: Processes
    workers: int | None

    def trained(self, config: AnyConfig, teacher: Teacher | None, anchors: Mapping[str, Path]) -> Learngene:
        """Return the learngene that the recipe makes, without measured accuracy."""
        rest: dict[str, Any] = {
            "test_data": self.test_images,
            "folder": self.folder,
            "command": command_line(),
            "licence": self.licence,
            "journal": self.journal,
            "device": self.device,
            "resume": self.resume,
            "processes": self.processes,
            "workers": self.workers,
        }
        if isinstance(config, PoolConfig):
            from tleg_core.training.pool_run import train_pool

            return train_pool(self.name, config, teacher, self.images, anchors=anchors, **rest)
        if isinstance(config, InheritanceConfig):
            from tleg_core.training.inheritance_run import inherit_layers

            return inherit_layers(self.name, config, _ancestry_of(teacher).model, self.images, **rest)
        from tleg_core.training.learngene_run import train_learngene

        return train_learngene(self.name, config, teacher, self.images, **rest)


def _side(config: AnyConfig, teacher: Teacher | None) -> int:
    """Return the side of the networks' input, in pixels; where layers are inherited, the ancestry model's."""
    return _ancestry_of(teacher).card.img_size if isinstance(config, InheritanceConfig) else config.network.img_size


def _ancestry_of(teacher: Teacher | None) -> AncestryTeacher:
    """Return the ancestry model as a teacher; raises `ConfigError` where there are its logits alone."""
    from tleg_core.training.teacher import AncestryTeacher

    if not isinstance(teacher, AncestryTeacher):
        raise ConfigError("ancestry", "must be a model's file, not stored logits: its layers are inherited")
    return teacher


def _anchor_files(texts: Sequence[str]) -> dict[str, Path]:
    """Return the files of `NAME=FILE` texts, by name; raises `ConfigError` where one is of another form or is no file."""
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ConfigError("anchor", f"must be like ti=tiny.safetensors, not {text[:80]!r}")
        if name in files:
            raise ConfigError("anchor", f"{name[:80]!r} is given twice")
        check_file(Path(file), "anchor")
        files[name] = Path(file)
    return files
