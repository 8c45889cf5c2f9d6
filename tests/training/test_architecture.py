"""timm models by name, and the input that they expect."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.training.architecture import Architecture


def test_preprocessing_is_what_timm_says_of_the_model() -> None:
    """Side, mean, std, interpolation and crop are those of timm's own data configuration."""
    for name in ("tf_efficientnet_lite0", "vit_small_patch14_dinov2", "test_vit"):
        theirs = timm.data.resolve_model_data_config(timm.create_model(name))
        ours = Architecture.named(name)
        assert theirs["input_size"] == (3, ours.img_size, ours.img_size)
        assert {key: theirs[key] for key in ("mean", "std", "interpolation", "crop_pct")} == {
            "mean": ours.preprocessing.mean,
            "std": ours.preprocessing.std,
            "interpolation": ours.preprocessing.interpolation,
            "crop_pct": ours.preprocessing.crop_pct,
        }


def test_each_part_of_it_can_be_overridden() -> None:
    """What is not given stays timm's."""
    ours = Architecture.named("tf_efficientnet_lite0", img_size=64, mean=(0.4, 0.5, 0.6), crop_pct=1.0)
    assert (ours.img_size, ours.model_args) == (64, {})  # convolutions take any size
    assert ours.preprocessing == Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.5, 0.5, 0.5), crop_pct=1.0)


@pytest.mark.parametrize("given", [{"img_size": 64}, {"model_args": {"img_size": 64}}])
def test_a_model_of_one_size_is_built_for_the_size_asked_for(given: dict[str, Any]) -> None:
    """As an option or as timm's argument: the position grid is 4 x 4."""
    architecture = Architecture.named("test_vit3", **given)
    assert architecture.img_size == 64
    network = architecture.build(5)
    assert network.get_submodule("patch_embed").grid_size == (4, 4)
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("tf_efficientnet_lite9", {}, "architecture: timm has no model 'tf_efficientnet_lite9'; there is tf_efficientnet_lite"),
        ("hf-hub:some/model", {}, "architecture: timm has no model"),  # nothing is downloaded
        ("test_vit", {"model_args": {"colour": 1}}, "architecture: timm cannot build 'test_vit': .*colour"),
        ("test_vit", {"model_args": {"num_classes": 3}}, "model_args.num_classes: cannot be given"),
        ("test_vit", {"model_args": {"img_size": [64, 32]}}, "model_args.img_size: must be one whole number"),
        ("test_vit", {"img_size": 65}, "img_size: test_vit does not take images of 65 px"),
        ("test_vit", {"img_size": 0}, "img_size: must be from 1 to 4096"),
        ("test_vit", {"interpolation": "lanczos"}, "interpolation: must be one of bilinear, bicubic"),
        ("test_vit", {"crop_pct": 1.2}, "crop_pct: must be at most 1"),
        ("test_vit", {"mean": (0.5,)}, "mean: and std need 3 numbers each"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, given: dict[str, Any], message: str) -> None:
    """Before anything is trained, and in timm's words where they say why."""
    with pytest.raises(ConfigError, match=message):
        Architecture.named(name, **given).build(3)
