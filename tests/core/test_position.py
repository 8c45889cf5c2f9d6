"""The resampled position embedding against timm's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from torch.nn.functional import interpolate

from tleg_core.errors import ConfigError
from tleg_core.position import MAX_GRID, resample

USUAL_AND_EXTREME = [(14, 24), (14, 7), (14, 16), (14, 64), (64, 14), (4, 64), (14, 1), (1, 14)]

STD = 0.02  # of a position embedding at its start; a trained one is of this order


def embedding(grid: int, prefix: int, width: int, seed: int = 0, std: float = STD) -> np.ndarray:
    """Return a random embedding (1, prefix + grid^2, width)."""
    return np.random.default_rng(seed).normal(0.0, std, (1, prefix + grid**2, width)).astype(np.float32)


def timms(values: np.ndarray, old_grid: int, new_grid: int, prefix: int) -> np.ndarray:
    """Return what timm makes of it on loading."""
    resampled = resample_abs_pos_embed(
        torch.from_numpy(values), new_size=[new_grid, new_grid], old_size=[old_grid, old_grid], num_prefix_tokens=prefix
    )
    return resampled.numpy()


@settings(max_examples=150)
@given(old_grid=st.integers(1, 24), new_grid=st.integers(1, 32), prefix=st.integers(0, 1), seed=st.integers(0, 99))
def test_any_grid_is_resampled_as_timm_does(old_grid: int, new_grid: int, prefix: int, seed: int) -> None:
    """Up and down, with and without a class token, the result is timm's to 1e-6."""
    values = embedding(old_grid, prefix, 8, seed)
    found = resample(values, old_grid=old_grid, new_grid=new_grid)
    assert found.dtype == np.float32
    assert found.shape == (1, prefix + new_grid**2, 8)
    assert np.abs(found - timms(values, old_grid, new_grid, prefix)).max() <= 1e-6


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(("old_grid", "new_grid"), USUAL_AND_EXTREME)
def test_usual_and_extreme_grids_are_resampled_as_timm_does(old_grid: int, new_grid: int, prefix: int) -> None:
    """From 224 to 384 pixels and the like, and to and from the largest grid, the result is timm's to 1e-6."""
    values = embedding(old_grid, prefix, 16)
    expected = timms(values, old_grid, new_grid, prefix)
    assert np.abs(resample(values, old_grid=old_grid, new_grid=new_grid) - expected).max() <= 1e-6


@pytest.mark.parametrize(("old_grid", "new_grid"), USUAL_AND_EXTREME)
def test_the_result_is_torchs_in_float64_rounded_once(old_grid: int, new_grid: int) -> None:
    """For values of order 1 torch's float32 itself is off by some 1e-6; ours is within a rounding of torch's float64."""
    values = embedding(old_grid, 0, 16, std=1.0)
    grid = torch.from_numpy(values).double().reshape(1, old_grid, old_grid, 16).permute(0, 3, 1, 2)
    exact = interpolate(grid, size=(new_grid, new_grid), mode="bicubic", antialias=True)
    expected = exact.permute(0, 2, 3, 1).reshape(1, new_grid**2, 16).numpy()
    found = resample(values, old_grid=old_grid, new_grid=new_grid)
    assert np.abs(found - expected).max() <= 2**-24 * np.abs(expected).max() + 1e-12  # half a unit in the last place


def test_a_class_tokens_embedding_is_kept_bit_for_bit() -> None:
    """The prefix is not resampled."""
    values = embedding(7, 1, 8)
    assert np.array_equal(resample(values, old_grid=7, new_grid=12)[:, :1], values[:, :1])


def test_the_same_grid_changes_nothing() -> None:
    """No resampling, no rounding."""
    values = embedding(7, 1, 8)
    assert np.array_equal(resample(values, old_grid=7, new_grid=7), values)


def test_a_constant_embedding_stays_constant() -> None:
    """The weights of every output sum to 1."""
    values = np.full((1, 36, 4), 0.37, dtype=np.float32)
    for new_grid in (1, 5, 13, 64):
        assert np.allclose(resample(values, old_grid=6, new_grid=new_grid), 0.37, rtol=1e-7)


def test_rows_and_columns_are_not_exchanged() -> None:
    """An embedding that varies along rows only still does so after resampling."""
    ramp = np.repeat(np.arange(6, dtype=np.float32), 6).reshape(1, 36, 1)  # token 6 r + c has value r
    found = resample(ramp, old_grid=6, new_grid=9).reshape(9, 9)
    assert np.allclose(found, found[:, :1])
    assert (np.diff(found[:, 0]) > 0).all()


def test_a_grid_above_the_limit_is_refused() -> None:
    """The error names the image size and the limit."""
    with pytest.raises(ConfigError, match=f"image_size: is {MAX_GRID + 1} patches wide; at most {MAX_GRID}"):
        resample(embedding(4, 0, 8), old_grid=4, new_grid=MAX_GRID + 1)


def test_the_result_does_not_depend_on_memory_layout() -> None:
    """The same values give the same bits, whatever their strides."""
    values = embedding(9, 1, 8)
    strided = np.asfortranarray(values)
    for new_grid in (5, 16):
        first = resample(values, old_grid=9, new_grid=new_grid)
        assert first.tobytes() == resample(values.copy(), old_grid=9, new_grid=new_grid).tobytes()
        assert first.tobytes() == resample(strided, old_grid=9, new_grid=new_grid).tobytes()
