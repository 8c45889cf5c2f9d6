"""An anchor that is there already: a plain ViT's weights in a safetensors file, by timm's names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tleg_core.designs.pool import Anchor
from tleg_core.errors import CheckpointError
from tleg_core.training.checkpoint import read_tensors
from tleg_core.vit import inventory


def read_anchor(path: Path, anchor: Anchor) -> dict[str, Tensor]:
    """Return the weights of `anchor` in timm's order, float32, of a file in any float type.

    Raises:
        CheckpointError: A tensor is missing, unexpected, of another shape, no float or not finite; the first ones are named.
    """
    tensors, _ = read_tensors(path)
    specs = inventory(anchor.config, anchor.depth)
    names = {spec.name for spec in specs}
    found = [f"{name} is missing" for name in sorted(names - tensors.keys())]
    found += [f"{name} is unexpected" for name in sorted(tensors.keys() - names)]
    found += [
        f"{spec.name} is {tuple(tensors[spec.name].shape)}, not {spec.shape}"
        for spec in specs
        if spec.name in tensors and tuple(tensors[spec.name].shape) != spec.shape
    ]
    found += [
        f"{name} is not of finite floats"
        for name, tensor in tensors.items()
        if not (tensor.is_floating_point() and tensor.float().isfinite().all())
    ]
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise CheckpointError(
            f"{path} does not fit anchor {anchor.name} (width {anchor.config.embed_dim}, depth {anchor.depth}): "
            f"{', '.join(found[:3])}{more}"
        )
    return {spec.name: tensors[spec.name].float() for spec in specs}
