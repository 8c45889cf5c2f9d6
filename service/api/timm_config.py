"""timm's config.json for a descendant: what `hf-hub:` loading in timm and transformers reads."""

from __future__ import annotations

from typing import Any

from tleg_core.descendant import Descendant
from tleg_core.recipe import Head
from tleg_core.vit import timm_architecture, timm_model_args


def timm_config(descendant: Descendant) -> dict[str, Any]:
    """Return the configuration of the network and of its input's preprocessing, in timm's names.

    The depth travels in `model_args`. Label names are given where the head is the learngene's own.
    """
    recipe, description = descendant.recipe, descendant.family.learngene.description
    config = descendant.family.config(num_classes=recipe.num_classes, img_size=recipe.img_size)
    preprocessing = description.preprocessing
    value: dict[str, Any] = {
        "architecture": timm_architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": config.global_pool,
        "model_args": timm_model_args(config, recipe.member.depth),
        "pretrained_cfg": {
            "tag": recipe.model_id,
            "custom_load": False,
            "input_size": [config.in_chans, config.img_size, config.img_size],
            "fixed_input_size": True,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": config.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": description.provenance.licence,
        },
    }
    if recipe.head is Head.INHERIT and description.class_names:
        value["label_names"] = list(description.class_names)
    return value
