"""`tleg expand`, `tleg budget` and `tleg inspect`: commands on learngene files, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.api.schemas.members import MeasuredMember
from service.cli import budget_options as options
from service.cli.console import compact, err, out, percent, print_facts, print_json, print_table, transfer_bar
from service.domain.catalogue import Catalogue
from service.storage.learngene_registry import load_catalogue, shipped_paths
from tleg_core.amount import amount
from tleg_core.atomic_file import atomic_file
from tleg_core.budget import Candidate, Objective
from tleg_core.descendant import Descendant
from tleg_core.description import Description
from tleg_core.designs.basis import Basis
from tleg_core.designs.pool import Pool
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.markdown import stated_licence
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member

LearngeneFile = Annotated[str, typer.Argument(help="A learngene's file, or the name of a shipped one.", show_default=False)]


def expand(
    learngene: LearngeneFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.", show_default=False)],
    depth: Annotated[int | None, typer.Option(help="Blocks of the descendant.", show_default=False)] = None,
    path: Annotated[str | None, typer.Option(help="Of a pool: the path, such as 0.0-7_1.8-11.", show_default=False)] = None,
    num_classes: options.NumClasses = None,
    image_size: options.ImageSize = None,
    head: options.HeadSource = None,
    seed: options.Seed = 0,
    dtype: options.DTypeName = DType.FLOAT32,
) -> None:
    """Expand one descendant from a learngene's file, byte for byte what a server would send."""
    family = Family(open_learngene(learngene))
    variation = Variation(num_classes=num_classes, img_size=image_size, dtype=dtype)
    descendant = Descendant(family, family.recipe(_member(depth, path), variation, head=head, seed=seed))
    _write(descendant, output)
    err.print(f"{output}: {descendant.recipe.model_id}, {descendant.size:,} bytes")


def budget(
    depth: options.Depth = None,
    path: options.PathName = None,
    max_params: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    max_flops: options.MaxFlops = None,
    max_weights_bytes: options.MaxWeightsBytes = None,
    max_memory_bytes: options.MaxMemoryBytes = None,
    batch_size: options.BatchSize = 1,
    learngene: options.LearngeneName = None,
    method: options.MethodName = None,
    objective: options.ObjectiveName = Objective.ACCURACY,
    accuracy_on: options.AccuracyOn = None,
    num_classes: options.NumClasses = None,
    image_size: options.ImageSize = None,
    head: options.HeadSource = None,
    dtype: options.DTypeName = DType.FLOAT32,
    files: options.LearngeneFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what a budget would get: every member, which of them fit, and the one chosen."""
    options.refuse_file(learngene, "give a file by --learngene-file")
    body = options.request_body(
        depth=depth,
        path=path,
        max_params=max_params,
        max_macs=max_macs,
        max_flops=max_flops,
        max_weights_bytes=max_weights_bytes,
        max_memory_bytes=max_memory_bytes,
        batch_size=batch_size,
        learngene=learngene,
        method=method,
        objective=objective,
        accuracy_on=accuracy_on,
        num_classes=num_classes,
        image_size=image_size,
        head=head,
        dtype=dtype,
    )
    request = body.to_domain()
    catalogue = _catalogue(files)
    chosen = catalogue.resolve(request).choice
    candidates = catalogue.candidates(request)
    rows = [(candidate, request.budget.allows(candidate), candidate == chosen.candidate) for candidate in candidates]
    if as_json:
        print_json(
            [
                MeasuredMember.of(candidate).model_dump(mode="json") | {"fits": fits, "chosen": is_chosen}
                for candidate, fits, is_chosen in rows
            ]
        )
        return
    print_table(
        ("member", "params", "MACs", "weights", "memory", "top-1", ""),
        [
            (
                f"{candidate.learngene} {candidate.member.label}",
                compact(candidate.cost.params),
                compact(candidate.cost.macs),
                f"{compact(candidate.cost.weights_bytes)}B",
                f"{compact(candidate.cost.memory_bytes)}B",
                percent(_top1(candidate, chosen.data_set)),
                "chosen" if is_chosen else "fits" if fits else "",
            )
            for candidate, fits, is_chosen in rows
        ],
    )
    why = f"most accurate on {chosen.data_set}" if chosen.data_set else "largest"
    err.print(f"chosen: {chosen.candidate.learngene} {chosen.candidate.member.label}, the {why} that fits")
    others = {name for candidate in candidates if chosen.data_set not in candidate.accuracy for name in candidate.accuracy}
    if chosen.data_set and others:
        err.print(
            f"top-1 is that on {chosen.data_set}: what was measured on {', '.join(sorted(others))} alone does not compare"
            " (--accuracy-on NAME: let another decide)"
        )


def inspect(learngene: LearngeneFile, as_json: options.AsJson = False) -> None:
    """Check a learngene's file and show what it says of itself."""
    opened = open_learngene(learngene)
    description = opened.description
    family = Family(opened)
    if as_json:
        print_json(description.to_json(opened.digest))
        return
    config, provenance, choice = description.config, description.provenance, description.selection
    facts = [
        ("name", description.name),
        ("method", f"{description.method.value} ({description.design})"),
        ("network", f"{_width(description)}{config.img_size} px in patches of {config.patch_size}"),
        ("chosen by", "" if choice is None else choice.rule),
        ("scores", "" if choice is None else ", ".join(f"{layer}: {score:.3g}" for layer, score in enumerate(choice.scores))),
        ("classes", ", ".join(description.class_names) or str(config.num_classes)),
        ("stored", f"{opened.num_params:,} parameters, {len(opened.content):,} bytes"),
        ("trained at", _trained_at(description)),
        ("data set", provenance.data_set),
        ("ancestry", provenance.ancestry),
        ("command", provenance.command),
        ("version", provenance.version),
        ("licence", stated_licence(provenance.licence)),
        ("notes", provenance.notes),
        (
            "measured",
            ", ".join(dict.fromkeys(f"on {item.data_set} ({amount(item.images, 'image')})" for item in description.accuracy)),
        ),
        ("digest", opened.digest),
    ]
    print_facts((name, value) for name, value in facts if value)
    out.print()
    candidates = family.candidates(Variation())
    data_sets = sorted({name for candidate in candidates for name in candidate.accuracy})
    print_table(
        (
            "depth" if family.members[0].path is None else "path",
            "params",
            "MACs",
            "weights",
            *(f"top-1 {name}" for name in data_sets),
        ),
        [
            (
                str(candidate.member.path or candidate.member.depth),
                f"{candidate.cost.params:,}",
                compact(candidate.cost.macs),
                f"{compact(candidate.cost.weights_bytes)}B",
                *(percent(_top1(candidate, name)) for name in data_sets),
            )
            for candidate in candidates
        ],
    )


def _member(depth: int | None, path: str | None) -> Member:
    """Return the member that the options name.

    Raises:
        ConfigError: They name none, or two.
    """
    if (depth is None) == (path is None):
        raise ConfigError("--depth or --path", "give one of them; a path is a pool's")
    return Member(depth=depth) if depth is not None else Member.along(PoolPath.parse(path or ""))


def _width(description: Description) -> str:
    """Return width and heads, where the design in words does not have them: of one width."""
    config = description.config
    return "" if isinstance(description.design, Pool) else f"width {config.embed_dim}, {config.num_heads} heads, "


def _trained_at(description: Description) -> str:
    """Return the depth of the auxiliary model, where the design has one."""
    if not isinstance(description.design, Basis):
        return ""
    return f"depth {description.trained_depth}" if description.trained_depth else "not trained"


def open_learngene(name_or_path: str) -> Learngene:
    """Open a learngene's file, or a shipped one by its name.

    Raises:
        LearngeneFileError: The file cannot be used.
        ConfigError: It is neither a file nor a shipped name.
    """
    shipped = {path.stem: path for path in shipped_paths()}
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.exists():
        raise ConfigError("learngene", f"there is no file {name_or_path}, and shipped are {', '.join(shipped) or 'none'}")
    return Learngene.open(path)


def _catalogue(files: list[Path] | None) -> Catalogue:
    catalogue = load_catalogue(files or ())
    if not catalogue.families:
        raise ConfigError("--learngene-file", "is needed: no learngene is shipped with this installation")
    return catalogue


def _write(descendant: Descendant, output: Path) -> None:
    """Write the computed file, whole or not at all, with a progress bar."""
    try:
        with atomic_file(output) as file, transfer_bar(output.name) as bar:
            bar.update(bar.task_ids[0], total=descendant.size)
            for block in descendant.blocks():
                file.write(block)
                bar.advance(bar.task_ids[0], len(block))
    except OSError as error:
        raise ConfigError("--output", f"{output} cannot be written: {error.strerror}") from None


def _top1(candidate: Candidate, data_set: str | None) -> float | None:
    entry = candidate.accuracy.get(data_set) if data_set else next(iter(candidate.accuracy.values()), None)
    return None if entry is None else entry.top1
