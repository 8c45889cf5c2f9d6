"""The ViT configuration and inventory against timm's own state_dict on the meta device."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tleg_core.errors import ConfigError
from tleg_core.vit import MAX_DEPTH, VIT_SIZES, VitConfig, inventory

from .conftest import build_timm
from .strategies import vit_configs


def timm_tensors(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of a model's state_dict, in its order."""
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize("depth", [1, 12])
@pytest.mark.parametrize("size", VIT_SIZES)
def test_named_sizes_have_timms_tensors_in_timms_order(size: str, depth: int, make_timm: Callable[..., nn.Module]) -> None:
    """Every named size lists exactly the names, shapes and order of timm's state_dict."""
    config = VIT_SIZES[size]
    ours = [(spec.name, spec.shape) for spec in inventory(config, depth)]
    assert ours == timm_tensors(make_timm(config, depth))


@settings(max_examples=40)
@given(config=vit_configs(), depth=st.integers(1, 4))
def test_random_configurations_have_timms_tensors_in_timms_order(config: VitConfig, depth: int) -> None:
    """Any valid configuration lists exactly the names, shapes and order of timm's state_dict."""
    ours = [(spec.name, spec.shape) for spec in inventory(config, depth)]
    assert ours == timm_tensors(build_timm(config, depth))


def test_every_tensor_knows_its_layer_and_its_part() -> None:
    """A block's tensor has its index and its name within the block; any other has no layer and its own name."""
    for spec in inventory(VIT_SIZES["test"], 3):
        if spec.name.startswith("blocks."):
            _, layer, part = spec.name.split(".", 2)
            assert (spec.layer, spec.part) == (int(layer), part)
        else:
            assert (spec.layer, spec.part) == (None, spec.name)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"embed_dim": 0}, "embed_dim"),
        ({"embed_dim": 16385}, "embed_dim"),
        ({"embed_dim": 32.0}, "embed_dim"),
        ({"embed_dim": True}, "embed_dim"),
        ({"embed_dim": "32"}, "embed_dim"),
        ({"embed_dim": None}, "embed_dim"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 5}, "num_heads"),
        ({"img_size": 33}, "img_size"),
        ({"img_size": 4104}, "img_size"),
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": -8}, "patch_size"),
        ({"in_chans": 0}, "in_chans"),
        ({"in_chans": 65}, "in_chans"),
        ({"num_classes": -1}, "num_classes"),
        ({"num_classes": 65_537}, "num_classes"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"mlp_ratio": 17}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio"),
        ({"mlp_ratio": True}, "mlp_ratio"),
        ({"mlp_ratio": "4"}, "mlp_ratio"),
        ({"class_token": 1}, "class_token"),
        ({"global_pool": "max"}, "global_pool"),
        ({"global_pool": "token"}, "global_pool"),
        ({"global_pool": None}, "global_pool"),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    """A wrong value raises ConfigError with the name of its field."""
    with pytest.raises(ConfigError) as caught:
        VitConfig.from_json(VIT_SIZES["test"].to_json() | changes)
    assert caught.value.field == field
    assert field in str(caught.value)


@given(config=vit_configs())
def test_a_configuration_survives_json(config: VitConfig) -> None:
    """The JSON object, written and read, gives the same configuration."""
    assert VitConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("value", [None, [], "config", 3])
def test_a_configuration_is_read_from_an_object_only(value: object) -> None:
    """What is no JSON object is refused."""
    with pytest.raises(ConfigError, match="config: must be an object"):
        VitConfig.from_json(value)


def test_unknown_and_missing_fields_are_named() -> None:
    """A misspelt field is called unknown, and one that lacks is called missing."""
    good = VIT_SIZES["test"].to_json()
    with pytest.raises(ConfigError, match="depth: is not a known field"):
        VitConfig.from_json(good | {"depth": 12})
    del good["img_size"]
    with pytest.raises(ConfigError, match="img_size: is missing"):
        VitConfig.from_json(good)


@pytest.mark.parametrize("depth", [-1, 0, MAX_DEPTH + 1])
def test_a_depth_outside_its_limits_is_refused(depth: int) -> None:
    """An inventory exists for depths 1..MAX_DEPTH only."""
    with pytest.raises(ConfigError) as caught:
        inventory(VIT_SIZES["test"], depth)
    assert caught.value.field == "depth"


def test_other_classes_and_image_size_change_nothing_else() -> None:
    """`with_changes` replaces what is given and keeps what is None."""
    base = VIT_SIZES["tiny"]
    assert base.with_changes() == base
    changed = base.with_changes(num_classes=0, img_size=384)
    assert changed.to_json() == base.to_json() | {"num_classes": 0, "img_size": 384}
