"""The stack: its tensors and costs against real networks, by plain arithmetic where there is no other witness."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tleg_core.cost import cost, stack_cost
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.path import MAX_SEGMENTS
from tleg_core.stack import STITCHED_VIT, Stack, Stage
from tleg_core.training.network import Network
from tleg_core.vit import MAX_DEPTH, VIT_SIZES, VitConfig

from .conftest import build_timm
from .strategies import vit_configs
from .test_memory import LiveBytes


@st.composite
def stacks(draw: st.DrawFn, *, max_stages: int = 3) -> Stack:
    """Draw a stack whose stages differ in width, heads and MLP."""
    first = draw(vit_configs())
    stages = [Stage(config=first, depth=draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(0, max_stages - 1))):
        other = draw(vit_configs())
        changed = {name: getattr(other, name) for name in ("embed_dim", "num_heads", "mlp_ratio")}
        stages.append(Stage(config=replace(first, **changed), depth=draw(st.integers(1, 3))))
    return Stack(tuple(stages))


def _wide_head(global_pool: Literal["avg", "token"]) -> Stack:
    config = VitConfig(
        embed_dim=4, num_heads=2, img_size=8, patch_size=8, num_classes=5000, class_token=True, global_pool=global_pool
    )
    return Stack((Stage(config=config, depth=1), Stage(config=replace(config, embed_dim=6), depth=2)))


WIDE_HEAD = {"avg": _wide_head("avg"), "token": _wide_head("token")}
"""Logits that outweigh the blocks."""


def build(stack: Stack, device: str = "meta") -> torch.nn.Module:
    """Return the network by the arguments that users are given."""
    network = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=stack.config.num_classes)
    return network.build(drop_path=0.0, seed=None if device == "meta" else 0).eval()


@settings(max_examples=40)
@given(stack=stacks())
def test_the_inventory_is_the_networks_state_dict(stack: Stack) -> None:
    """Names, shapes and order, of plain networks and stitched ones."""
    expected = [(name, tuple(tensor.shape)) for name, tensor in build(stack).state_dict().items()]
    assert [(spec.name, spec.shape) for spec in stack.inventory()] == expected


@settings(max_examples=25)
@given(stack=stacks())
def test_costs_are_those_of_the_network(stack: Stack) -> None:
    """Parameters as torch counts them, MACs as its counter sees them in a forward pass."""
    network, config = build(stack), stack.first
    found = stack_cost(stack)
    assert found.params == sum(parameter.numel() for parameter in network.parameters())
    assert found.weights_bytes == 4 * found.params
    images = torch.zeros(1, config.in_chans, config.img_size, config.img_size, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    assert found.flops == counter.get_total_flops()


@settings(max_examples=25)
@given(stack=stacks(), batch_size=st.integers(1, 3))
@example(stack=WIDE_HEAD["avg"], batch_size=2)
@example(stack=WIDE_HEAD["token"], batch_size=2)
def test_memory_is_what_is_alive_at_the_peak(stack: Stack, batch_size: int) -> None:
    """To the byte, on the CPU, where widths change too."""
    network, config = build(stack, "cpu"), stack.first
    images = torch.zeros(batch_size, config.in_chans, config.img_size, config.img_size)
    with torch.inference_mode(), LiveBytes(*network.parameters(), images) as live:
        network(images)
    assert stack_cost(stack, batch_size=batch_size).memory_bytes == live.peak


@given(stack=stacks())
def test_a_stack_is_described_by_its_arguments(stack: Stack) -> None:
    """Architecture and arguments lead back to it, and a change of head or image size reaches every stage."""
    assert Stack.of(stack.architecture, stack.model_args, stack.config.num_classes) == stack
    assert (stack.architecture == STITCHED_VIT) == (not stack.is_plain) == (len(stack.stages) > 1)
    changed = stack.with_changes(num_classes=7, img_size=2 * stack.first.img_size)
    assert {(stage.config.num_classes, stage.config.img_size) for stage in changed.stages} == {(7, 2 * stack.first.img_size)}
    assert changed.depth == stack.depth


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_plain_stack_costs_what_it_did(size: str) -> None:
    """One stage is timm's network: the same inventory, arguments and costs."""
    config = VIT_SIZES[size]
    stack = Stack.plain(config, 7)
    assert stack_cost(stack, dtype=DType.FLOAT16, batch_size=3) == cost(config, 7, dtype=DType.FLOAT16, batch_size=3)
    assert [spec.name for spec in stack.inventory()] == list(build_timm(config, 7).state_dict())


def test_a_stitch_costs_a_matrix_a_bias_and_its_products() -> None:
    """SN-Net from DeiT-Ti to DeiT-S: 192 x 384 + 384 parameters and T x 192 x 384 MACs more than both parts."""
    narrow, wide = VIT_SIZES["tiny"], VIT_SIZES["small"]

    def blocks(config: VitConfig, depth: int) -> tuple[int, int]:
        t, d = config.num_tokens, config.embed_dim
        return depth * (12 * d * d + 13 * d), depth * (12 * t * d * d + 2 * t * t * d)

    found = stack_cost(Stack((Stage(config=narrow, depth=8), Stage(config=wide, depth=4))))
    params = sum(blocks(config, depth)[0] for config, depth in ((narrow, 8), (wide, 4)))
    macs = sum(blocks(config, depth)[1] for config, depth in ((narrow, 8), (wide, 4)))
    assert found.params == params + 769 * 192 + 196 * 192 + 2 * 384 + 1000 * 384 + 1000 + 192 * 384 + 384
    assert found.macs == macs + 768 * 196 * 192 + 1000 * 384 + 196 * 192 * 384


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"img_size": 64}, "img_size"),
        ({"patch_size": 16}, "patch_size"),
        ({"in_chans": 1}, "in_chans"),
        ({"num_classes": 3}, "num_classes"),
        ({"class_token": True}, "class_token"),
    ],
)
def test_stages_share_all_but_their_blocks(changes: dict[str, object], says: str) -> None:
    """The image, its patches, the pooling and the classes are one network's."""
    config = VIT_SIZES["test"]
    with pytest.raises(ConfigError, match=f"differ in {says}"):
        Stack((Stage(config=config, depth=1), Stage(config=replace(config, **changes), depth=1)))  # type: ignore[arg-type]


def test_a_stack_has_limits() -> None:
    """At least one stage and not too many, and blocks as any network."""
    stage = Stage(config=VIT_SIZES["test"], depth=1)
    for stages in ((), (stage,) * (MAX_SEGMENTS + 1)):
        with pytest.raises(ConfigError, match="stages"):
            Stack(stages)
    with pytest.raises(ConfigError, match="depth"):
        Stack((Stage(config=VIT_SIZES["test"], depth=MAX_DEPTH), stage))
