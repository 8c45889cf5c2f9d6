"""The network of a fine-tune: expanded where it computes, built by timm, written in one canonical form."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file

from tests.core.conftest import METHOD_SCHEDULES, build_learngene, build_pool, build_scratch
from tleg_core.descendant import Descendant
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.recipe import Head, Member
from tleg_core.training.fine_tune import freeze
from tleg_core.training.network import DeviceLearngene, Network, with_head, write_weights
from tleg_core.vit import VIT_SIZES, timm_architecture, timm_model_args

CPU = torch.device("cpu")
CONFIG = VIT_SIZES["test"]


def network(depth: int = 2, num_classes: int = 10) -> Network:
    """Return the smallest one."""
    return Network(architecture=timm_architecture(CONFIG), model_args=timm_model_args(CONFIG, depth), num_classes=num_classes)


@pytest.mark.parametrize("method", list(METHOD_SCHEDULES))
@pytest.mark.parametrize(
    ("variation", "head"),
    [
        (Variation(), None),
        (Variation(num_classes=3), Head.RANDOM),
        (Variation(img_size=48), None),
        (Variation(dtype=DType.BFLOAT16), None),
        (Variation(num_classes=4, dtype=DType.FLOAT16), None),
    ],
)
def test_what_is_expanded_on_the_device_is_the_served_file(method: Method, variation: Variation, head: Head | None) -> None:
    """Bit for bit, as float32 of the file's numbers."""
    family = Family(build_learngene(method=method))
    recipe = family.recipe(Member(depth=7), variation, head=head, seed=3)
    descendant = Descendant(family, recipe)
    served = load(descendant.read(0, descendant.size))
    expanded = DeviceLearngene(family, CPU).expand(recipe)
    assert list(expanded) == [spec.name for spec, _ in family.sources(recipe)]
    for name, tensor in served.items():
        assert torch.equal(expanded[name], tensor.float()), name


@pytest.mark.parametrize(
    ("variation", "head"),
    [(Variation(), None), (Variation(num_classes=3, img_size=48, dtype=DType.BFLOAT16), Head.RANDOM)],
)
@pytest.mark.parametrize("learngene", [build_pool(), build_scratch()], ids=["pool", "scratch"])
def test_so_is_every_member_of_the_other_designs(learngene: Learngene, variation: Variation, head: Head | None) -> None:
    """Whole anchors, stitched paths and fresh networks; what is expanded is the network's, strictly."""
    family = Family(learngene)
    device = DeviceLearngene(family, CPU)
    for member in family.members:
        recipe = family.recipe(member, variation, head=head, seed=3)
        descendant = Descendant(family, recipe)
        served, expanded = load(descendant.read(0, descendant.size)), device.expand(recipe)
        assert served.keys() == expanded.keys()
        assert all(torch.equal(expanded[name], tensor.float()) for name, tensor in served.items())
        stack = family.stack(member, num_classes=recipe.num_classes, img_size=recipe.img_size)
        built = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=recipe.num_classes)
        logits = built.load(expanded, drop_path=0.0, device=CPU)(torch.zeros(1, 3, recipe.img_size, recipe.img_size))
        assert logits.shape == (1, recipe.num_classes)


def test_training_does_not_change_the_held_learngene() -> None:
    """The network gets copies."""
    family = Family(build_learngene())
    held = DeviceLearngene(family, CPU)
    recipe = family.recipe(Member(depth=2), Variation())
    before = {name: tensor.clone() for name, tensor in held.expand(recipe).items()}
    model = network().load(held.expand(recipe), drop_path=0.0, device=CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in held.expand(recipe).items())


def test_weights_of_another_network_are_refused() -> None:
    """Strictly: one block too many is an error."""
    weights = network(3).build(drop_path=0.0, seed=0).state_dict()
    with pytest.raises(CheckpointError, match="do not fit"):
        network(2).load(weights, drop_path=0.0, device=CPU)


def test_a_head_is_kept_or_zero() -> None:
    """And cannot be kept where the classes differ."""
    weights = network().build(drop_path=0.0, seed=0).state_dict()
    assert torch.equal(with_head(weights, 10, keep=True)["head.weight"], weights["head.weight"])
    assert not with_head(weights, 4, keep=False)["head.weight"].any()
    with pytest.raises(ConfigError, match="head"):
        with_head(weights, 4, keep=True)


def test_from_scratch_is_timms_initialisation_by_seed() -> None:
    """Whatever was drawn before, and without touching the global generator."""
    torch.manual_seed(9)
    expected = timm.create_model(timm_architecture(CONFIG), num_classes=10, **timm_model_args(CONFIG, 2)).state_dict()
    state = torch.get_rng_state()
    built = network().build(drop_path=0.0, seed=9).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(built[name], tensor) for name, tensor in expected.items())


def test_the_weights_file_is_canonical(tmp_path: Path) -> None:
    """timm's order, float32, `format: pt`, and the reported digest and size."""
    model = network().build(drop_path=0.0, seed=0)
    written = write_weights(model, tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    assert (written.sha256, written.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    with safe_open(tmp_path / "w", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    positions = [header.index(f'"{name}"') for name in model.state_dict()]
    assert positions == sorted(positions)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in load_file(tmp_path / "w").items())


@pytest.mark.parametrize(
    ("blocks", "trained"),
    [
        (0, {"patch_embed", "pos_embed", "blocks.0", "blocks.1", "norm", "head"}),
        (1, {"blocks.1", "norm", "head"}),
        (-1, {"head"}),
    ],
)
def test_freezing_leaves_the_leading_part(blocks: int, trained: set[str]) -> None:
    """The embedding with the first blocks; -1 all but the head."""
    model = network().build(drop_path=0.0, seed=0)
    freeze(model, blocks)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in names} == trained


def test_more_frozen_blocks_than_there_are_are_refused() -> None:
    """The error names the setting."""
    with pytest.raises(ConfigError, match="freeze"):
        freeze(network().build(drop_path=0.0, seed=0), 3)
