"""Ancestry models as plain ViTs: configuration, weights, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tleg_core.errors import ConfigError
from tleg_core.training.ancestry import AncestryCard, AncestryModel, Fit
from tleg_core.training.ancestry_vit import vit_of, vit_weights
from tleg_core.training.architecture import Architecture
from tleg_core.vit import VitConfig, inventory, timm_architecture, timm_model_args

ARGS: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 3}


def ancestry(architecture: str = "vit_tiny_patch16_224", **changes: Any) -> AncestryModel:
    """Return a frozen model whose every tensor is random, those that timm starts at zero or one included."""
    torch.manual_seed(0)
    card = AncestryCard(
        architecture=architecture,
        img_size=16,
        class_names=("a", "b", "c"),
        data_set="",
        origin="",
        licence="",
        model_args=ARGS | changes,
    )
    model = AncestryModel(card)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.freeze()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"global_pool": "avg", "fc_norm": False},
        {"mlp_ratio": 2.7},
        {"init_values": 0.3},
        {"no_embed_class": True},
    ],
    ids=[
        "class token",
        "no class token",
        "class token not pooled",
        "odd ratio",
        "layer scale",
        "no position of the class token",
    ],
)
def test_a_descendants_network_with_the_weights_computes_the_same(changes: dict[str, Any]) -> None:
    """Layer scale and the class token's missing position are folded in."""
    model = ancestry(**changes)
    config, depth = vit_of(model)
    weights = vit_weights(model)
    assert list(weights) == [spec.name for spec in inventory(config, depth)]
    network = timm.create_model(timm_architecture(config), num_classes=3, **timm_model_args(config, depth)).eval()
    network.load_state_dict(weights, strict=True)
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network(images), model.network(images), rtol=1e-4, atol=1e-5)


def test_the_configuration_is_the_networks() -> None:
    """Every field is read off it."""
    assert vit_of(ancestry()) == (
        VitConfig(
            embed_dim=32,
            num_heads=2,
            img_size=16,
            patch_size=8,
            num_classes=3,
            class_token=True,
            global_pool="token",
        ),
        3,
    )


def test_the_weights_are_a_copy() -> None:
    """Changing them leaves the ancestry model as it was."""
    model = ancestry()
    before = model.digest()
    for tensor in vit_weights(model).values():
        tensor.zero_()
    assert model.digest() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_token": False, "global_pool": "avg"}, "fc_norm"),
        ({"global_pool": "map"}, "global_pool is 'map'"),
        ({"qk_norm": True}, "qk_norm"),
        ({"reg_tokens": 4}, "4 register tokens"),
        ({"pre_norm": True}, "pre_norm"),
        ({"pos_embed": "none"}, "no position embedding"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"act_layer": "quick_gelu"}, "exact GELU"),
        ({"norm_layer": "rmsnorm"}, "RmsNorm"),
        ({"final_norm": False}, "no LayerNorm at its end"),
    ],
)
def test_what_a_plain_vit_has_not_is_named(changes: dict[str, Any], named: str) -> None:
    """Nothing that would be lost in a descendant passes."""
    with pytest.raises(ConfigError, match=f"^ancestry: .*{named}"):
        vit_of(ancestry(**changes))


def test_the_shared_dinov2_is_a_plain_vit_once_its_layer_scale_is_folded_in(shared_data: Callable[[str], Path]) -> None:
    """A real checkpoint; `vit_weights` compares the two networks' logits itself."""
    card = AncestryCard.of(
        Architecture.named("vit_small_patch14_dinov2", img_size=112),
        class_names=("a", "b"),
        data_set="",
        origin="",
        licence="MIT",
        fit=Fit.HEAD,
    )
    model = AncestryModel(card).freeze()
    model.load_weights(shared_data("vit_small_patch14_dinov2_imgfocus_112.fp16.safetensors"), with_head=False)
    config, depth = vit_of(model)
    assert (config.embed_dim, config.patch_size, config.num_tokens, depth) == (384, 14, 65, 12)
    weights = vit_weights(model)
    network: Any = model.network
    scale = network.blocks[5].ls2.gamma
    torch.testing.assert_close(weights["blocks.5.mlp.fc2.bias"], scale * network.blocks[5].mlp.fc2.bias)


def test_other_families_are_refused() -> None:
    """A convolutional network, and DeiT with its second head."""
    with pytest.raises(ConfigError, match="test_efficientnet is a EfficientNet"):
        vit_of(_other("test_efficientnet"))
    with pytest.raises(ConfigError, match="is a VisionTransformerDistilled"):
        vit_of(_other("deit_tiny_distilled_patch16_224", **ARGS))


def _other(architecture: str, **arguments: Any) -> AncestryModel:
    card = AncestryCard(
        architecture=architecture,
        img_size=arguments.get("img_size", 32),
        class_names=("a", "b"),
        data_set="",
        origin="",
        licence="",
        model_args=arguments,
    )
    return AncestryModel(card).freeze()
