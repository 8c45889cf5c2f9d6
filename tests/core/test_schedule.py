"""Schedules against their formulas."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.errors import ConfigError
from tleg_core.schedule import MAX_COMPONENTS, Polynomial, Schedule, Spline, Stagewise, schedule_from_json

DEPTHS = [*range(1, 25), 48, 97, 1000]

SCHEDULES: list[Schedule] = [
    Polynomial(),
    Polynomial(num_components=1),
    Polynomial(num_components=5),
    Polynomial(num_components=3, endpoint=True),
    Spline(num_components=2),
    Spline(num_components=5),
    Stagewise(),
    Stagewise(stages=(1,)),
]


@pytest.mark.parametrize("depth", DEPTHS)
def test_tlegs_rows_are_one_and_i_over_l_rounded_once(depth: int) -> None:
    """Row i is (1, i / L), the quotient rounded from float64 to float32 and never 1."""
    rows = Polynomial(num_components=2).coefficients(depth)
    expected = np.arange(depth, dtype=np.float64) / np.float64(depth)
    assert [row[0] for row in rows] == [1.0] * depth
    assert np.array_equal(np.array([row[1] for row in rows]), expected.astype(np.float32).astype(np.float64))
    assert rows[0] == (1.0, 0.0)
    assert max(row[1] for row in rows) < 1.0


@pytest.mark.parametrize("depth", DEPTHS)
def test_polynomial_rows_are_powers(depth: int) -> None:
    """Entry k of row i is (i / L)^k, the exact rational to within one float32 rounding."""
    for layer, row in enumerate(Polynomial(num_components=6).coefficients(depth)):
        for k, coefficient in enumerate(row):
            exact = Fraction(layer, depth) ** k
            # half a unit in the last place of float32, and a hair for the powers taken in float64
            assert abs(Fraction(coefficient) - exact) <= exact * Fraction(1.0001) / 2**24


@given(depth=st.integers(5, 200), schedule=st.sampled_from(SCHEDULES))
def test_every_coefficient_is_a_float32(depth: int, schedule: Schedule) -> None:
    """C(L) has L rows of K numbers, and none of them loses anything in float32."""
    rows = schedule.coefficients(depth)
    assert len(rows) == depth
    for row in rows:
        assert len(row) == schedule.num_components
        assert all(type(number) is float and float(np.float32(number)) == number for number in row)


@pytest.mark.parametrize("depth", DEPTHS)
def test_with_the_endpoint_the_last_layer_stands_at_one(depth: int) -> None:
    """t = i / (L - 1): from 0 to 1 at every depth, and 0 for a single layer."""
    rows = Polynomial(num_components=3, endpoint=True).coefficients(depth)
    assert rows[0] == (1.0, 0.0, 0.0)
    if depth > 1:
        assert rows[-1] == (1.0, 1.0, 1.0)
        assert [row[1] for row in rows] == [float(np.float32(layer / (depth - 1))) for layer in range(depth)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_a_splines_rows_interpolate_between_neighbouring_knots(depth: int, count: int) -> None:
    """At most two entries, side by side, that give a straight line its own value: layer i stands at i / (L - 1)."""
    rows = Spline(num_components=count).coefficients(depth)
    assert rows[0] == (1.0,) + (0.0,) * (count - 1)
    for layer, row in enumerate(rows):
        used = [k for k, coefficient in enumerate(row) if coefficient]
        assert len(used) <= 2
        assert used[-1] - used[0] <= 1
        place = sum(Fraction(coefficient) * Fraction(k, count - 1) for k, coefficient in enumerate(row))
        assert abs(place - Fraction(layer, max(depth - 1, 1))) < Fraction(1, 2**22)
        assert abs(sum(map(Fraction, row)) - 1) < Fraction(1, 2**23)


@given(depth=st.integers(5, 200), schedule=st.sampled_from(SCHEDULES))
def test_the_unit_combines_to_one_in_every_layer(depth: int, schedule: Schedule) -> None:
    """So a norm's weight that starts there is one in each layer."""
    for row in schedule.coefficients(depth):
        assert abs(sum(c * u for c, u in zip(row, schedule.unit, strict=True)) - 1.0) < 1e-6


def stages_of(depth: int, schedule: Stagewise | None = None) -> list[int]:
    """Return which stage each layer takes, from rows that must be one-hot."""
    rows = (schedule or Stagewise()).coefficients(depth)
    assert all(sorted(row) == [0.0] * (len(row) - 1) + [1.0] for row in rows)
    return [row.index(1.0) for row in rows]


def test_stages_have_the_authors_lengths() -> None:
    """Depth 16 is the auxiliary model's 3-3-4-3-3, depth 12 the authors' list (METHODS.md section 5)."""
    assert stages_of(16) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert stages_of(12) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("depth", [*range(5, 40), 1000])
def test_stages_never_go_back_and_none_is_left_out(depth: int) -> None:
    """At every depth from 5 on, the stages rise one at a time and all five are used."""
    stages = stages_of(depth)
    assert len(stages) == depth
    assert stages == sorted(stages)
    assert set(stages) == set(range(5))


@given(depth=st.integers(1, 300), stages=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_stages_are_as_equal_as_can_be(depth: int, stages: list[int]) -> None:
    """Lengths differ by one at most, longer ones first, except at the auxiliary model's depth, which has its own."""
    schedule = Stagewise(stages=tuple(stages))
    if depth < len(stages):
        with pytest.raises(ConfigError, match="depth"):
            schedule.coefficients(depth)
        return
    found = stages_of(depth, schedule)
    lengths = [found.count(stage) for stage in range(len(stages))]
    if depth == sum(stages):
        assert lengths == stages
    else:
        assert max(lengths) - min(lengths) <= 1
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_survives_json(schedule: Schedule) -> None:
    """Written and read, it is the same schedule."""
    assert schedule_from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "polynomial",
        {},
        {"kind": "polynomial"},
        {"kind": "cubic", "num_components": 2},
        {"kind": "polynomial", "num_components": True},
        {"kind": "polynomial", "num_components": 2.0},
        {"kind": "polynomial", "num_components": 0},
        {"kind": "polynomial", "num_components": MAX_COMPONENTS + 1},
        {"kind": "polynomial", "num_components": 2, "stages": [1]},
        {"kind": "polynomial", "num_components": 2, "endpoint": False},
        {"kind": "polynomial", "num_components": 2, "endpoint": 1},
        {"kind": "polynomial", "num_components": True, "endpoint": True},
        {"kind": "spline", "num_components": 1},
        {"kind": "spline", "num_components": True},
        {"kind": "spline", "num_components": 3, "endpoint": True},
        {"kind": "stagewise", "stages": []},
        {"kind": "stagewise", "stages": [0]},
        {"kind": "stagewise", "stages": [3, -1]},
        {"kind": "stagewise", "stages": [True]},
        {"kind": "stagewise", "stages": [1.0]},
        {"kind": "stagewise", "stages": "33"},
        {"kind": "stagewise", "stages": [1] * (MAX_COMPONENTS + 1)},
        {"kind": ["stagewise"], "stages": [1]},
    ],
)
def test_no_other_json_is_a_schedule(value: object) -> None:
    """Anything else raises ConfigError naming the schedule."""
    with pytest.raises(ConfigError) as caught:
        schedule_from_json(value)
    assert caught.value.field.startswith("schedule")
