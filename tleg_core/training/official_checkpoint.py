"""Import of a checkpoint of the authors' TLEG code as a learngene.

The form is `{"model": {...}}` or the bare dict, with `blocks.block.<module>.instances.0.{weight,bias}_{base,ilayer}` for the
six modules of a block and timm's names for the rest. `*_base` is theta_B, component 0; `*_ilayer` is theta_A, component 1. It
is a pickle, so it is read with `weights_only=True`, which runs no code. The authors' LayerNorms use eps 1e-5, ours timm's
1e-6: the weights are the same, the logits differ by that.

Shape legend: K = 2 components, D embed_dim, T tokens, C classes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tleg_core.description import Description, Method, Provenance
from tleg_core.designs.basis import Basis
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.learngene import Learngene
from tleg_core.schedule import Polynomial
from tleg_core.vit import VitConfig, block_shapes, stem_shapes, tail_shapes

_COMPONENT_SUFFIXES = ("base", "ilayer")  # theta_B, theta_A

_HEAD_WIDTH = 64  # of DeiT's and the authors' Ti, S and B alike


def official_names(config: VitConfig) -> dict[str, tuple[str, ...]]:
    """Return the table of names: a learngene's tensor to the authors' tensors, several where they are stacked along K."""
    names: dict[str, tuple[str, ...]] = {}
    for part in block_shapes(config):
        module, kind = part.rsplit(".", 1)
        names[f"basis.{part}"] = tuple(f"blocks.block.{module}.instances.0.{kind}_{suffix}" for suffix in _COMPONENT_SUFFIXES)
    return names | {name: (name,) for name in stem_shapes(config) | tail_shapes(config)}


def import_official(
    path: Path,
    *,
    name: str,
    num_heads: int | None,
    trained_depth: int,
    max_depth: int,
    provenance: Provenance,
) -> Learngene:
    """Read an auxiliary model's checkpoint.

    Args:
        path: The .pth file.
        name: The learngene's id.
        num_heads: Attention heads, which the tensors cannot tell; None for width / 64.
        trained_depth: Depth that it was trained at.
        max_depth: The largest depth to offer.
        provenance: What is known of its making.

    Raises:
        CheckpointError: It cannot be read without running code, or its tensors are not exactly those of such a model; every
            missing, unexpected and misshapen name is reported.
        ConfigError: `num_heads` does not divide the width.
    """
    found = _read(path)
    config = _infer_config(path, found, num_heads)
    names = official_names(config)
    expected = {foreign for foreigns in names.values() for foreign in foreigns}
    shapes = block_shapes(config) | stem_shapes(config) | tail_shapes(config)
    wrong = [
        f"{foreign} is {tuple(found[foreign].shape)}, not {shapes[ours.removeprefix('basis.')]}"
        for ours, foreigns in names.items()
        for foreign in foreigns
        if foreign in found and tuple(found[foreign].shape) != shapes[ours.removeprefix("basis.")]
    ]
    missing, unexpected = sorted(expected - found.keys()), sorted(found.keys() - expected)
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{path} is no auxiliary model of the authors' form: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}, misshapen {wrong or 'nothing'}"
        )
    tensors = {
        ours: torch.stack([found[foreign] for foreign in foreigns]) if ours.startswith("basis.") else found[foreigns[0]]
        for ours, foreigns in names.items()
    }
    description = Description(
        name=name,
        method=Method.TLEG,
        design=Basis(schedule=Polynomial(num_components=2), config=config, max_depth=max_depth, trained_depth=trained_depth),
        provenance=provenance,
    )
    return Learngene.create(description, {ours: tensor.float().numpy() for ours, tensor in tensors.items()})


def _read(path: Path) -> dict[str, Tensor]:
    """Return the checkpoint's tensors by the authors' names."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # of the authors' options; holds data, runs nothing
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader of pickles lets rubbish raise anything, IndexError included
        reason = (
            error.strerror if isinstance(error, OSError) else "it is damaged, or holds more than tensors, which is never run"
        )
        raise CheckpointError(f"{path} cannot be read as a checkpoint of plain tensors: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) != len(content):
        strangers = sorted(str(name) for name in content if str(name) not in tensors)
        raise CheckpointError(f"{path} holds entries that are no tensors: {strangers[:20]}")
    return tensors


def _infer_config(path: Path, found: Mapping[str, Tensor], num_heads: int | None) -> VitConfig:
    """Return the network that the tensors' shapes tell of; raises `CheckpointError` where they cannot."""
    try:
        embed_dim, in_chans, patch_size, _ = found["patch_embed.proj.weight"].shape
        _, num_tokens, _ = found["pos_embed"].shape
        hidden, _ = found["blocks.block.mlp.fc1.instances.0.weight_base"].shape
        num_classes = len(found["head.weight"]) if "head.weight" in found else 0
    except (KeyError, ValueError) as error:
        present = ", ".join(sorted(found)[:10]) or "nothing"
        raise CheckpointError(f"{path} is no auxiliary model of the authors' form ({error}); it holds {present} ...") from error
    grid = math.isqrt(num_tokens)
    if grid * grid != num_tokens:
        raise CheckpointError(f"{path}: {num_tokens} positions are no square grid; TLEG has no class token")
    if num_heads is None and embed_dim % _HEAD_WIDTH:
        raise ConfigError("num_heads", f"is needed: the width {embed_dim} is no multiple of {_HEAD_WIDTH}")
    ratio = hidden / embed_dim  # rounded; timm cuts width x ratio off, so it must not fall short
    return VitConfig(
        embed_dim=embed_dim,
        num_heads=embed_dim // _HEAD_WIDTH if num_heads is None else num_heads,
        img_size=grid * patch_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=num_classes,
        mlp_ratio=ratio if int(embed_dim * ratio) == hidden else math.nextafter(ratio, math.inf),
    )
