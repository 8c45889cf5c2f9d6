"""timm's config.json for a model: what `hf-hub:` loading in timm and transformers reads."""

from __future__ import annotations

from typing import Any

from service.domain.model import Model, Usage


def timm_config(model: Model, usage: Usage) -> dict[str, Any]:
    """Return the configuration of the network and of its input's preprocessing, in timm's names.

    The depth travels in `model_args`. Label names are given where the outputs have names.
    """
    config, preprocessing = model.config, usage.preprocessing
    value: dict[str, Any] = {
        "architecture": model.architecture,
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": config.global_pool,
        "model_args": model.model_args,
        "pretrained_cfg": {
            "tag": model.id,
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
        },
    }
    if usage.licence:
        value["pretrained_cfg"]["license"] = usage.licence
    if usage.class_names:
        value["label_names"] = list(usage.class_names)
    return value
