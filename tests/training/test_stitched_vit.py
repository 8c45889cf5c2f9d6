"""The stitched ViT: timm's arithmetic, the inventory's names, and what timm's own tools ask of a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor

from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.stack import STITCHED_VIT, Stack, Stage
from tleg_core.training.network import Network
from tleg_core.training.stitched_vit import StitchedVit
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

CPU = torch.device("cpu")


def stack(*, class_token: bool = False, widths: tuple[int, ...] = (32, 48), img_size: int = 16) -> Stack:
    """Return stages of two blocks each."""
    configs = [
        VitConfig(
            embed_dim=width,
            num_heads=width // 16,
            img_size=img_size,
            patch_size=4,
            num_classes=5,
            class_token=class_token,
            global_pool="token" if class_token else "avg",
            mlp_ratio=2.0,
        )
        for width in widths
    ]
    return Stack(tuple(Stage(config=config, depth=2) for config in configs))


def build(of: Stack, **options: Any) -> StitchedVit:
    """Return the network, fresh."""
    torch.manual_seed(0)
    model: StitchedVit = timm.create_model(of.architecture, num_classes=of.config.num_classes, **of.model_args, **options)
    return model.eval()


def images(count: int = 2, side: int = 16) -> Tensor:
    """Return noise."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("widths", [(32, 48), (48, 32, 48)])
def test_its_tensors_are_the_stacks_inventory(class_token: bool, widths: tuple[int, ...]) -> None:
    """Names, shapes and order."""
    of = stack(class_token=class_token, widths=widths)
    found = [(name, tuple(tensor.shape)) for name, tensor in build(of).state_dict().items()]
    assert found == [(spec.name, spec.shape) for spec in of.inventory()]


@pytest.mark.parametrize("class_token", [False, True])
def test_it_is_a_way_through_timms_anchors(class_token: bool) -> None:
    """The first blocks of one anchor, the stitch, and the last blocks of another give the same logits, bit for bit."""
    of = stack(class_token=class_token)
    torch.manual_seed(3)
    anchors: list[Any] = [
        timm.create_model(timm_architecture(stage.config), num_classes=5, **timm_model_args(stage.config, 3)).eval()
        for stage in of.stages
    ]
    model = build(of)
    own = model.state_dict()
    own |= {name: tensor for name, tensor in anchors[0].state_dict().items() if name.startswith(("cls", "pos", "patch"))}
    own |= {name: tensor for name, tensor in anchors[1].state_dict().items() if name.startswith(("norm.", "head."))}
    for anchor, theirs, ours in ((0, 0, 0), (0, 1, 1), (1, 1, 2), (1, 2, 3)):
        block = anchors[anchor].blocks[theirs].state_dict()
        own |= {f"blocks.{ours}.{name}": tensor for name, tensor in block.items()}
    model.load_state_dict(own, strict=True)
    first, last = anchors
    with torch.no_grad():
        tokens = first.norm_pre(first._pos_embed(first.patch_embed(images())))
        tokens = torch.nn.functional.linear(
            first.blocks[1](first.blocks[0](tokens)), own["stitches.0.weight"], own["stitches.0.bias"]
        )
        expected = last.forward_head(last.norm(last.blocks[2](last.blocks[1](tokens))))
        assert torch.equal(model(images()), expected)


def test_one_stage_is_timms_vit() -> None:
    """The same names, and the same logits bit for bit."""
    config = stack().config
    plain = timm.create_model(timm_architecture(config), num_classes=5, **timm_model_args(config, 2)).eval()
    shared = {name: getattr(config, name) for name in ("img_size", "patch_size", "class_token", "global_pool")}
    stage = {"embed_dim": 48, "num_heads": 3, "mlp_ratio": 2.0, "depth": 2}
    model = timm.create_model(STITCHED_VIT, num_classes=5, stages=[stage], **shared).eval()
    model.load_state_dict(plain.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(model(images()), plain(images()))


def test_sn_nets_path_24_has_the_authors_parameters() -> None:
    """DeiT-Ti's blocks 0 to 7 and DeiT-S's 7 to 11: 13,038,760 (METHODS.md 10.3) beside positions and class token."""
    stages = [
        {"embed_dim": 192, "num_heads": 3, "mlp_ratio": 4.0, "depth": 8},
        {"embed_dim": 384, "num_heads": 6, "mlp_ratio": 4.0, "depth": 5},
    ]
    with torch.device("meta"):
        model = timm.create_model(STITCHED_VIT, stages=stages, class_token=True, global_pool="token")
    assert sum(parameter.numel() for parameter in model.parameters()) == 13_038_760 + 197 * 192 + 192


def test_fresh_weights_are_distributed_as_timms() -> None:
    """Linear layers, position embedding and patch embedding have timm's deviations; biases are zero."""
    config = stack().config
    plain = timm.create_model(timm_architecture(config), num_classes=5, **timm_model_args(config, 2)).state_dict()
    for name, tensor in build(stack(widths=(48, 48))).state_dict().items():
        counterpart = re.sub(r"^blocks\.\d", "blocks.0", re.sub(r"^stitches\.0", "blocks.0.attn.proj", name))
        like = plain[counterpart]
        assert float(tensor.std()) == pytest.approx(float(like.std()), rel=0.25, abs=1e-9), name


def test_drop_path_rises_linearly() -> None:
    """Over all blocks of all stages, as in a plain ViT."""
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in build(stack(), drop_path_rate=0.3).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_grad_checkpointing_changes_no_gradient() -> None:
    """The activations are computed again; stitches get gradients either way."""

    def gradients(enable: bool) -> dict[str, Tensor]:
        model = build(stack())
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys() == dict(build(stack()).named_parameters()).keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_layer_decay_and_weight_decay_go_by_timms_rules() -> None:
    """A stitch is in the group of the block that it leads to; vectors and the position embedding are not decayed."""
    model = build(stack(class_token=True))
    layer_of = group_parameters(model, model.group_matcher(), reverse=True)
    assert layer_of["stitches.0.weight"] == layer_of["blocks.2.norm1.weight"] == layer_of["blocks.1.norm1.weight"] + 1
    assert layer_of["cls_token"] == layer_of["patch_embed.proj.weight"] == 0
    assert layer_of["head.weight"] == max(layer_of.values())
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert groups[id(model.stitches[0].weight)]["weight_decay"] == 0.05
    assert groups[id(model.stitches[0].bias)]["weight_decay"] == groups[id(model.pos_embed)]["weight_decay"] == 0.0
    assert groups[id(model.stitches[0].weight)]["lr_scale"] == groups[id(model.blocks[2].mlp.fc1.weight)]["lr_scale"]


def test_timm_extracts_features_of_each_stages_width() -> None:
    """`features_only` drops the blocks behind the last one that is asked for."""
    model = timm.create_model(STITCHED_VIT, features_only=True, out_indices=[1, 2], **stack().model_args).eval()
    assert model.feature_info.channels() == [32, 48]
    whole = build(stack(class_token=True))
    with torch.no_grad():
        assert [tuple(map_.shape) for map_ in model(images())] == [(2, 32, 4, 4), (2, 48, 4, 4)]
        final, tokens = whole.forward_intermediates(images(), indices=1, norm=True, output_fmt="NLC")
    assert torch.equal(final[:, 1:], tokens[0])
    assert len(model.model.blocks) == 3


def test_the_head_is_replaced_as_in_timm() -> None:
    """A fresh one, none, and another pooling."""
    model = build(stack(class_token=True))
    model.reset_classifier(7, "avg")
    assert model(images()).shape == (2, 7)
    assert model.get_classifier() is model.head
    model.reset_classifier(0)
    assert model(images()).shape == (2, 48)
    assert model.forward_head(model.forward_features(images()), pre_logits=True).shape == (2, 48)
    with pytest.raises(ConfigError, match="global_pool"):
        model.reset_classifier(2, "max")  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "classes"), [(16, 5), (24, 5), (16, 3)])
def test_timm_loads_it_from_a_folder_as_from_the_hub(tmp_path: Path, side: int, classes: int) -> None:
    """By config.json and safetensors; at another image size positions are resampled, with other classes the head is fresh."""
    of = stack(class_token=True)
    model = build(of)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 16, 16], "fixed_input_size": True, "num_classes": 5, "first_conv": "patch_embed.proj"}
    config = {"architecture": of.architecture, "num_classes": 5, "model_args": of.model_args}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg | {"classifier": "head"}}))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=side, num_classes=classes).eval()
    logits = loaded(images(side=side))
    assert logits.shape == (2, classes)
    if (side, classes) == (16, 5):
        assert torch.equal(logits, model(images()))


def test_a_fine_tune_builds_and_loads_it() -> None:
    """Through `Network`, on the meta device first, strictly."""
    of = stack()
    network = Network(architecture=of.architecture, model_args=of.model_args, num_classes=5)
    weights = network.build(drop_path=0.1, seed=4).state_dict()
    loaded = network.load(weights, drop_path=0.1, device=CPU)
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match="do not fit"):
        network.load({name: tensor for name, tensor in weights.items() if "stitches" not in name}, drop_path=0.0, device=CPU)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [{"embed_dim": 32}]}, "stages"),
        ({"stages": 3}, "stages"),
        ({"img_size": (16, 32)}, "img_size"),
        ({"img_size": 15}, "img_size"),
        ({"global_pool": "max"}, "global_pool"),
        ({"global_pool": "token"}, "global_pool"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], field: str) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigError) as error:
        timm.create_model(STITCHED_VIT, **{**stack().model_args, **changes})
    assert error.value.field == field


def test_it_has_no_size_of_its_own() -> None:
    """Without stages there is nothing to build."""
    with pytest.raises(ConfigError, match="stages"):
        timm.create_model(STITCHED_VIT)
