"""A tiny pool's configuration and a tiny ancestry model, for tests of what trains pools."""

from __future__ import annotations

from typing import Any

import torch

from tleg_core.description import Preprocessing
from tleg_core.pool_config import PoolConfig
from tleg_core.training.ancestry import AncestryCard, AncestryModel
from tleg_core.training.teacher import AncestryTeacher

CPU = torch.device("cpu")
CLASSES = ("top", "middle", "bottom")
ANCESTRY: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 32,
    "num_heads": 2,
    "depth": 6,
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
}

TINY: dict[str, Any] = {
    "pool": {"method": "pool"},
    "network": {"img_size": 16, "patch_size": 8},
    "anchors": [
        {"name": "small", "size": "test", "embed_dim": 16, "num_heads": 2, "depth": 3, "positions": "front-end"},
        {"name": "large", "size": "test", "embed_dim": 32, "num_heads": 2, "depth": 3},
    ],
    "anchor_training": {"rule": "distilled", "normalisation": "batchmean"},
    "stitching": {"images": 16},
    "joint": {"epochs": 2, "normalisation": "batchmean"},
    "training": {"epochs": 2, "batch_size": 16, "lr": 2e-3, "precision": "float32", "checkpoint_every_steps": 1000},
}


def pool_config(**sections: Any) -> PoolConfig:
    """Return a tiny configuration with some fields changed."""
    return PoolConfig.from_json(TINY).with_changes(sections)


def ancestry_model(
    architecture: str = "vit_tiny_patch16_224", seed: int = 0, crop_pct: float = 1.0, **changes: Any
) -> AncestryModel:
    """Return a frozen model whose every tensor is random."""
    args = ANCESTRY | changes if architecture.startswith("vit") else changes
    card = AncestryCard(
        architecture=architecture,
        img_size=args.get("img_size", 16),
        class_names=CLASSES,
        data_set="",
        origin="",
        licence="",
        model_args=args,
        preprocessing=Preprocessing(crop_pct=crop_pct),
    )
    torch.manual_seed(seed)
    model = AncestryModel(card)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.freeze()


def ancestry_teacher(architecture: str = "vit_tiny_patch16_224", **changes: Any) -> AncestryTeacher:
    """Return that model as a teacher."""
    return AncestryTeacher(ancestry_model(architecture, **changes), CPU)
