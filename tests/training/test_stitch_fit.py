"""Stitches by least squares: the best affine map on its rows, between the right places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.test_pool_model import images, pool
from tleg_core.errors import ConfigError
from tleg_core.training import stitch_fit
from tleg_core.training.pool_model import PoolModel
from tleg_core.training.stitch_fit import AffineFit, fit_stitches, least_squares


def residual(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Return the sum of squared errors."""
    return float((x.double() @ weight.double().mT + bias.double() - y.double()).square().sum())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    before=st.integers(1, 12),
    after=st.integers(1, 12),
    scale=st.sampled_from([1e-6, 1e-3, 1.0]),
)
def test_no_other_affine_map_is_better_on_its_rows(seed: int, rows: int, before: int, after: int, scale: float) -> None:
    """Whatever direction weight and bias are moved in; float32 outputs leave a relative error of 1e-6 of the targets."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(rows, before, generator=generator) + 1, torch.randn(rows, after, generator=generator)
    weight, bias = least_squares(x, y)
    best = residual(x, y, weight, bias)
    for _ in range(5):
        other = weight + scale * torch.randn(weight.shape, generator=generator)
        shifted = bias + scale * torch.randn(bias.shape, generator=generator)
        assert best <= residual(x, y, other, shifted) + 1e-6 * float(y.square().sum())


def test_an_affine_map_is_found_again() -> None:
    """And is the pseudo-inverse's solution."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 7, generator=generator) * torch.logspace(-2, 2, 7)
    weight, bias = torch.randn(4, 7, generator=generator), torch.randn(4, generator=generator)
    found = least_squares(x, x @ weight.mT + bias)
    torch.testing.assert_close(found, (weight, bias), atol=1e-4, rtol=1e-4)
    y = torch.randn(200, 4, generator=generator)
    solution = torch.linalg.pinv(torch.cat([x, torch.ones(200, 1)], dim=1).double()) @ y.double()
    torch.testing.assert_close(least_squares(x, y), (solution[:-1].mT.float(), solution[-1].float()))


def test_rows_in_batches_are_rows_at_once() -> None:
    """To the rounding of float64, with batches of fewer rows than columns too."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 20, generator=generator), torch.randn(90, 6, generator=generator)
    fit = AffineFit()
    for start in range(0, 90, 7):
        fit.add(x[start : start + 7], y[start : start + 7])
    weight, bias = fit.solve()
    torch.testing.assert_close((weight.float(), bias.float()), least_squares(x, y), atol=1e-6, rtol=1e-5)


def test_a_direction_that_is_only_rounding_gets_no_weight() -> None:
    """Two columns that are equal but for float32's noise share the weight instead of taking huge ones of opposite sign."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, generator=generator)
    x = torch.cat([x, x[:, :1] * (1 + 6e-8 * torch.randn(500, 1, generator=generator))], dim=1)
    weight, _ = least_squares(x, torch.randn(500, 3, generator=generator))
    assert float(weight.abs().max()) < 1


def test_each_join_targets_the_input_of_its_block() -> None:
    """The embedding for block 0; a stitch at several joins is the mean of their maps; the model's mode is as it was."""
    model = PoolModel(pool(), stitch_rank=None)
    batch = images(12)
    fit_stitches(model, batch)
    assert model.training
    model.eval()
    with torch.no_grad():
        small, large = ([state.flatten(0, 1) for state in model.states(batch, anchor)] for anchor in (0, 1))
        assert torch.equal(large[0], model.embed(batch, 1).flatten(0, 1))
    tensors = model.pool_tensors()
    for index, (x, targets) in enumerate(
        [(small[1], (large[0], large[1])), (small[2], (large[1], large[2])), (large[2], (small[2],))]
    ):
        maps = [least_squares(x, y) for y in targets]
        for part, name in enumerate(("weight", "bias")):
            expected = torch.stack([found[part] for found in maps]).mean(0)
            torch.testing.assert_close(tensors[f"stitches.{index}.{name}"], expected, atol=1e-5, rtol=1e-4)


def test_images_in_batches_give_the_same_stitches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch size is a matter of memory."""
    one, other = PoolModel(pool()), PoolModel(pool())
    fit_stitches(one, images(10))
    monkeypatch.setattr(stitch_fit, "_BATCH_SIZE", 3)
    fit_stitches(other, images(10))
    torch.testing.assert_close(one.pool_tensors(), other.pool_tensors(), atol=1e-5, rtol=1e-4)


def test_a_low_rank_stitch_takes_the_fit_as_its_frozen_weight() -> None:
    """And its update starts anew."""
    plain, low_rank = PoolModel(pool()), PoolModel(pool(), stitch_rank=2)
    low_rank.load_pool_tensors(plain.pool_tensors())
    torch.nn.init.ones_(low_rank.get_parameter("stitches.0.up"))
    fit_stitches(plain, images(8))
    fit_stitches(low_rank, images(8))
    torch.testing.assert_close(low_rank.pool_tensors(), plain.pool_tensors(), atol=0, rtol=0)
    assert torch.equal(low_rank.get_buffer("stitches.0.weight"), plain.get_parameter("stitches.0.weight"))


def test_no_image_is_refused() -> None:
    """There would be nothing to fit."""
    with pytest.raises(ConfigError, match="images"):
        fit_stitches(PoolModel(pool()), images(0))
