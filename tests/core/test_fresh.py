"""Fresh tensors against whole draws, an independent computation, statistics, and frozen first values."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.fresh import draw


@given(seed=st.integers(0, 2**63 - 1), start=st.integers(0, 5000), length=st.integers(0, 300))
def test_a_slice_is_the_wholes_slice(seed: int, start: int, length: int) -> None:
    """Elements start..stop are the same whether drawn alone or with all before them."""
    whole = draw(seed, "head.weight", 0, start + length)
    found = draw(seed, "head.weight", start, start + length)
    assert found.dtype == np.float32
    assert found.shape == (length,)
    assert found.tobytes() == whole[start:].tobytes()


def test_far_elements_need_no_draw_before_them() -> None:
    """Two neighbouring slices beyond 2^40 elements join to the slice over both."""
    start = 2**40 + 1
    joined = np.concatenate([draw(3, "x", start, start + 7), draw(3, "x", start + 7, start + 30)])
    assert joined.tobytes() == draw(3, "x", start, start + 30).tobytes()


def test_an_independent_computation_gives_the_same_bits() -> None:
    """Twelve 16-bit pieces of three Philox words, added as Python integers, centred and scaled."""
    count, seed, name = 500, 11, "head.weight"
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    words = [int(word) for word in np.random.Generator(np.random.Philox(key=key)).bit_generator.random_raw(3 * count)]
    pieces = [(word >> shift) & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    sums = [sum(pieces[12 * index : 12 * (index + 1)]) for index in range(count)]
    expected = np.array([(total - 393210.0) * (0.02 / 65536.0) for total in sums]).astype(np.float32)
    assert draw(seed, name, 0, count).tobytes() == expected.tobytes()


def test_the_numbers_are_close_to_normal() -> None:
    """A million numbers have the normal's mean, deviation, skew, kurtosis and tails, as Irwin-Hall of twelve terms has them."""
    count = 1_000_000
    z = draw(5, "blocks.0.mlp.fc1.weight", 0, count).astype(np.float64) / 0.02
    # Tolerances are five standard errors: 1/sqrt(n) for the mean, sqrt(1/2n), sqrt(6/n), sqrt(24/n) for the others.
    assert abs(z.mean()) < 5 / np.sqrt(count)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * count)
    assert abs((z**3).mean()) < 5 * np.sqrt(6 / count)
    assert abs((z**4).mean() - 2.9) < 5 * np.sqrt(24 / count)  # 3 - 6/5/12: the sum of twelve uniforms
    assert np.abs(z).max() < 6.0
    for bound, expected in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert abs((np.abs(z) > bound).mean() - expected) < 0.006 / bound  # Irwin-Hall's own difference, and chance


def test_the_deviation_is_the_callers() -> None:
    """`std` scales the same numbers."""
    assert np.allclose(draw(1, "x", 0, 100, std=1.0), draw(1, "x", 0, 100) * 50, rtol=1e-6)


def test_seeds_and_names_draw_independently() -> None:
    """Other seeds, other names, and seeds and names that only look alike when joined have nothing in common."""
    count = 20_000
    draws = [
        draw(seed, name, 0, count).astype(np.float64)
        for seed, name in [(0, "head.weight"), (1, "head.weight"), (0, "head.bias"), (1, "1:x"), (11, ":x"), (11, "x")]
    ]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(count)  # five standard errors
    # and no draw is another one shifted
    shifted = [np.corrcoef(draws[0][shift:], draws[1][: count - shift])[0, 1] for shift in range(1, 9)]
    assert np.abs(shifted).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize(
    ("seed", "name", "start", "expected"),
    [
        (0, "head.weight", 0, "-0x1.d4e148p-10 -0x1.e91eb8p-10 0x1.4b2e14p-7 -0x1.c9c290p-10"),
        (0, "head.weight", 1001, "0x1.622290p-6 0x1.1fb0a4p-6 -0x1.d78000p-8 0x1.ea43d8p-6"),
        (7, "head.weight", 0, "-0x1.2970a4p-9 -0x1.a96666p-9 -0x1.902666p-7 0x1.6abd70p-8"),
        (9223372036854775807, "blocks.3.attn.qkv.weight", 0, "0x1.34b334p-8 -0x1.35db86p-5 -0x1.6608f6p-6 0x1.c947aep-8"),
    ],
)
def test_the_first_values_are_frozen(seed: int, name: str, start: int, expected: str) -> None:
    """These numbers are part of the format: a change of any makes old recipes other models."""
    assert draw(seed, name, start, start + 4).tolist() == [float.fromhex(number) for number in expected.split()]
