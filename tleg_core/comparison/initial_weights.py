"""The weights that a fine-tune starts from, by its start and the file that its source left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tleg_core.comparison.rows import Method
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.methods import learngene as descendants
from tleg_core.methods import mimetic, scratch, truncation, weight_selection
from tleg_core.path import Path as BlockPath
from tleg_core.recipe import Head, Member
from tleg_core.tensor_source import Array
from tleg_core.training.checkpoint import read_tensors
from tleg_core.vit import VitConfig


def initial_weights(start: Mapping[str, Any], source: Path | None) -> Mapping[str, Array]:
    """Return an initialisation's weights, of the classes of the data that all was trained on.

    Args:
        start: What decides them.
        source: The file of what they come from; None where they are drawn.
    """
    method = Method(start["method"])
    if method is Method.POOL:
        return _of_family(_there(source), Member.along(BlockPath.parse(start["path"])), seed=0)
    vit, depth = VitConfig.from_json(start["network"]), start["depth"]
    match method:
        case Method.SCRATCH:
            return scratch.initialise(vit, depth, seed=start["seed"])
        case Method.MIMETIC:
            fresh = scratch.initialise(vit, depth, seed=start["seed"])
            return mimetic.initialise(fresh, vit, depth, seed=start["seed"])
        case Method.LEARNGENE:
            return descendants.initialise(Learngene.open(_there(source)), depth)
        case Method.INHERITANCE:
            return _of_family(_there(source), Member(depth=depth), seed=start["seed"], num_classes=vit.num_classes)
        case Method.WEIGHT_SELECTION:
            return weight_selection.initialise(_arrays(_there(source)), VitConfig.from_json(start["source"]), vit, depth)
        case Method.TRUNCATED | Method.ALONE:
            return truncation.initialise(_arrays(_there(source)), vit, depth)


def _of_family(file: Path, member: Member, *, seed: int, num_classes: int | None = None) -> dict[str, Array]:
    """Return a member's weights, as its served file has them; a head that was not trained is drawn, as fresh layers are."""
    family = Family(Learngene.open(file))
    own = family.learngene.description.config.num_classes
    drawn = num_classes is not None and own != num_classes
    variation = Variation(num_classes=num_classes if drawn else None)
    recipe = family.recipe(member, variation, head=Head.RANDOM if drawn else None, seed=seed)
    return {spec.name: source.read(0, spec.size).reshape(spec.shape) for spec, source in family.sources(recipe)}


def _there(source: Path | None) -> Path:
    assert source is not None  # noqa: S101 (such a start is planned with its source)
    return source


def _arrays(path: Path) -> dict[str, Array]:
    tensors, _ = read_tensors(path)
    return {name: tensor.numpy() for name, tensor in tensors.items()}
