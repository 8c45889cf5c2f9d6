"""Anchors that are given as files: what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tleg_core.designs.pool import Anchor
from tleg_core.errors import CheckpointError
from tleg_core.training.anchor_file import read_anchor
from tleg_core.vit import VitConfig, inventory

ANCHOR = Anchor(name="small", config=VitConfig(embed_dim=8, num_heads=1, img_size=8, patch_size=8, num_classes=2), depth=1)


def weights(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return such weights."""
    return {spec.name: torch.ones(spec.shape, dtype=dtype) for spec in inventory(ANCHOR.config, ANCHOR.depth)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_float_type_is_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """In timm's order."""
    save_file(weights(dtype), tmp_path / "anchor.safetensors")
    found = read_anchor(tmp_path / "anchor.safetensors", ANCHOR)
    assert list(found) == list(weights(dtype))
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"head.bias": torch.tensor([1.0, float("nan")])}, "head.bias is not of finite floats"),
        ({"head.bias": torch.tensor([1.0, float("inf")])}, "head.bias is not of finite floats"),
        ({"head.bias": torch.ones(2, dtype=torch.int64)}, "head.bias is not of finite floats"),
        ({"head.bias": torch.ones(3)}, r"head.bias is \(3,\), not \(2,\)"),
        ({"fc_norm.bias": torch.ones(2)}, "fc_norm.bias is unexpected"),
    ],
)
def test_what_is_no_such_anchor_is_refused_by_name(tmp_path: Path, changed: dict[str, torch.Tensor], reason: str) -> None:
    """A NaN would else be found after the training of everything."""
    save_file(weights(torch.float32) | changed, tmp_path / "anchor.safetensors")
    with pytest.raises(CheckpointError, match=rf"does not fit anchor small .*: {reason}"):
        read_anchor(tmp_path / "anchor.safetensors", ANCHOR)
