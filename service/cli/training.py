"""`tleg import`: a checkpoint of the authors' code becomes a learngene file.

The work is `tleg_core.training`'s, which is imported inside the command because torch takes seconds to load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli.training_options import command_line, learngene_name
from tleg_core import __version__


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
    licence: Annotated[str, typer.Option(help="Its licence, for the provenance.", show_default="not stated")] = "",
) -> None:
    """Convert a checkpoint of the authors' code into a learngene file, strictly."""
    from tleg_core.description import Provenance
    from tleg_core.training.official_checkpoint import import_official

    provenance = Provenance(data_set=data_set, ancestry=ancestry, command=command_line(), version=__version__, licence=licence)
    gene = import_official(
        checkpoint,
        name=learngene_name(name, out),
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
