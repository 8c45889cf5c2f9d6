"""Parameters and MACs against timm on the meta device, torch's FLOP counter, and the tables of METHODS.md section 1.6."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm.layers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tleg_core.cost import MAX_BATCH_SIZE, cost
from tleg_core.designs.basis import basis_shapes
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.vit import VIT_SIZES, VitConfig

from .conftest import build_timm
from .strategies import vit_configs

WIDTHS = {"tiny": 192, "small": 384, "base": 768}

PRINTED = {
    # METHODS.md 1.6: depth -> (parameters / 1e6, MACs / 1e9) of Ti, S, B
    3: ((1.713, 0.333), (6.080, 1.187), (22.775, 4.455)),
    4: ((2.158, 0.435), (7.854, 1.563), (29.863, 5.901)),
    5: ((2.603, 0.536), (9.629, 1.940), (36.951, 7.348)),
    6: ((3.048, 0.638), (11.403, 2.316), (44.039, 8.794)),
    7: ((3.493, 0.739), (13.178, 2.692), (51.127, 10.240)),
    8: ((3.938, 0.841), (14.952, 3.069), (58.215, 11.687)),
    9: ((4.382, 0.942), (16.727, 3.445), (65.303, 13.133)),
    10: ((4.827, 1.044), (18.501, 3.821), (72.390, 14.579)),
    11: ((5.272, 1.145), (20.275, 4.198), (79.478, 16.025)),
    12: ((5.717, 1.247), (22.050, 4.574), (86.566, 17.472)),
}


@pytest.fixture(scope="module", autouse=True)
def plain_attention() -> Iterator[None]:
    """Build timm's models with attention as two matrix products, which the FLOP counter sees on the meta device."""
    before = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    yield
    timm.layers.set_fused_attn(bool(before))


def counted_macs(config: VitConfig, depth: int) -> int:
    """Return half of the FLOPs that torch counts in timm's forward pass of one image."""
    model = build_timm(config, depth)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, config.in_chans, config.img_size, config.img_size, device="meta"))
    return counter.get_total_flops() // 2


@settings(max_examples=30)
@given(config=vit_configs(), depth=st.integers(1, 4))
def test_costs_of_random_configurations_equal_timms(config: VitConfig, depth: int) -> None:
    """Parameters equal timm's model, MACs equal torch's count of its forward pass, weight bytes follow."""
    found = cost(config, depth, dtype=DType.FLOAT16)
    assert found.params == sum(parameter.numel() for parameter in build_timm(config, depth).parameters())
    assert found.macs == counted_macs(config, depth)
    assert found.flops == 2 * found.macs
    assert found.weights_bytes == 2 * found.params


@pytest.mark.parametrize("depth", [1, 3, 12])
@pytest.mark.parametrize("size", VIT_SIZES)
def test_costs_of_named_sizes_equal_timms(size: str, depth: int) -> None:
    """The named sizes cost what timm and torch count."""
    config = VIT_SIZES[size]
    found = cost(config, depth)
    assert found.params == sum(parameter.numel() for parameter in build_timm(config, depth).parameters())
    assert found.macs == counted_macs(config, depth)
    assert found.weights_bytes == 4 * found.params


@pytest.mark.parametrize("depth", PRINTED)
@pytest.mark.parametrize("column", range(3))
def test_published_sizes_hold_to_the_unit(depth: int, column: int) -> None:
    """Ti, S and B have the parameters and MACs of METHODS.md 1.6, by its formulas and in its printed digits."""
    size, d = list(WIDTHS.items())[column]
    found = cost(VIT_SIZES[size], depth)
    params_m, gmacs = PRINTED[depth][column]
    assert found.params == depth * (12 * d * d + 13 * d) + 769 * d + 196 * d + 2 * d + 1000 * d + 1000
    assert found.macs == depth * (12 * 196 * d * d + 2 * 196**2 * d) + 768 * 196 * d + 1000 * d
    assert f"{found.params / 1e6:.3f}" == f"{params_m:.3f}"
    assert f"{found.macs / 1e9:.3f}" == f"{gmacs:.3f}"


@pytest.mark.parametrize(("size", "stored"), [("tiny", 1_268_392), ("small", 4_305_256), ("base", 15_687_400)])
def test_a_learngene_stores_what_the_paper_stores(size: str, stored: int) -> None:
    """Two blocks and the fixed part: METHODS.md 1.6, to the unit."""
    shapes = basis_shapes(VIT_SIZES[size], 2)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == stored


@pytest.mark.parametrize("batch_size", [0, -1, MAX_BATCH_SIZE + 1])
def test_a_batch_size_outside_its_limits_is_refused(batch_size: int) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError) as caught:
        cost(VIT_SIZES["test"], 3, batch_size=batch_size)
    assert caught.value.field == "batch_size"


def test_a_depth_outside_its_limits_is_refused() -> None:
    """The error names the field."""
    with pytest.raises(ConfigError) as caught:
        cost(VIT_SIZES["test"], 0)
    assert caught.value.field == "depth"
