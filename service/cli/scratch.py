"""`tleg scratch`: a learngene that stores nothing, the baseline that can be asked for like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import err, printable
from service.cli.local import open_learngene
from service.cli.training_options import command_line, learngene_name
from tleg_core import __version__
from tleg_core.description import Description, Method, Preprocessing, Provenance
from tleg_core.designs.scratch import Scratch
from tleg_core.errors import ConfigError
from tleg_core.learngene import Learngene
from tleg_core.vit import VIT_SIZES, VitConfig


def scratch(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The learngene file to write: some hundred bytes.")],
    like: Annotated[
        str | None,
        typer.Option(help="A learngene's file or a shipped one's name: the same networks, of a pool its widest; or say them."),
    ] = None,
    size: Annotated[str | None, typer.Option(help=f"Width: {', '.join(VIT_SIZES)}.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input image, in pixels.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch, in pixels.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Outputs of the head.")] = None,
    class_token: Annotated[bool | None, typer.Option("--class-token/--no-class-token", help="Prepend a class token.")] = None,
    max_depth: Annotated[int | None, typer.Option(help="The largest depth offered.", show_default="12, or --like's")] = None,
    name: Annotated[str | None, typer.Option(help="The learngene's id; default: the name of --out.")] = None,
    licence: Annotated[str, typer.Option(help="The licence that it is given.", show_default="not stated")] = "",
) -> None:
    """Write a learngene of which everything is drawn: networks from scratch, asked for by --method scratch.

    The same seed gives the same weights on any machine. It is what the others are compared with. For example:

    tleg scratch --like tleg-ti-cifar10 --image-size 64 -o my-baseline.safetensors

    A server takes it where its networks are not those of a baseline that ships: depths alone make no other one.
    """
    if (like is None) == (size is None):
        raise ConfigError("--like or --size", "give one of them, which says the networks")
    model = None if like is None else open_learngene(like).description
    config = VIT_SIZES[_known(size)] if model is None else model.config
    given = {
        "img_size": image_size,
        "patch_size": patch_size,
        "num_classes": num_classes,
        "class_token": class_token,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    config = VitConfig.from_json(config.to_json() | changes)
    depths = [12] if model is None else [member.depth for member in model.design.members]
    same_classes = model is not None and model.config.num_classes == config.num_classes
    description = Description(
        name=learngene_name(name, out),
        method=Method.SCRATCH,
        design=Scratch(config=config, max_depth=max_depth if max_depth is not None else max(depths)),
        provenance=Provenance(
            data_set="none",
            ancestry="none",
            command=command_line(),
            version=__version__,
            licence=licence,
            notes="Nothing was trained: linear weights and positions are drawn with a standard deviation of 0.02, the patch "
            "embedding with that of torch's own; biases are zero, norms one, and the head is zero unless asked for random.",
        ),
        preprocessing=Preprocessing() if model is None else model.preprocessing,
        class_names=model.class_names if model is not None and same_classes else (),
    )
    Learngene.create(description, {}).write(out)
    err.print(printable(f"{out}: written"), soft_wrap=True)


def _known(size: str | None) -> str:
    """Return the size's name; raises `ConfigError` where it is none."""
    if size is None or size not in VIT_SIZES:
        raise ConfigError("--size", f"must be one of {', '.join(VIT_SIZES)}, not {size!r}")
    return size
