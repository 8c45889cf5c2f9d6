"""Wilson's interval, against its closed forms and against the equation it solves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.errors import ConfigError
from tleg_core.interval import Z_95, wilson


@pytest.mark.parametrize("count", [1, 10, 10_000])
def test_none_and_all_have_a_closed_form(count: int) -> None:
    """With none right the upper end is z^2 / (n + z^2), with all right the lower end is n / (n + z^2)."""
    squared = Z_95**2
    assert wilson(0.0, count) == pytest.approx((0.0, squared / (count + squared)), rel=1e-12)
    assert wilson(1.0, count) == pytest.approx((count / (count + squared), 1.0), rel=1e-12)


def test_half_of_a_thousand_is_three_points_wide_to_each_side() -> None:
    """There the interval is the textbook's 1.96 standard errors, to a hundredth of a point."""
    assert wilson(0.5, 1000) == pytest.approx((0.5 - 0.0310, 0.5 + 0.0310), abs=1e-4)


@given(st.integers(1, 10**6), st.floats(0.001, 0.999))
def test_the_share_lies_z_deviations_from_each_end(count: int, share: float) -> None:
    """That is what it is: the ends q solve |share - q| = z sqrt(q (1 - q) / n)."""
    low, high = wilson(share, count)
    assert 0.0 <= low < share < high <= 1.0
    for end in (low, high):
        assert abs(share - end) == pytest.approx(Z_95 * math.sqrt(end * (1 - end) / count), rel=1e-6)


@pytest.mark.parametrize(("share", "count", "field"), [(0.5, 0, "count"), (1.1, 10, "share"), (math.nan, 10, "share")])
def test_a_share_of_nothing_has_no_interval(share: float, count: int, field: str) -> None:
    """Nor has what is no share."""
    with pytest.raises(ConfigError, match=f"^{field}: must be"):
        wilson(share, count)
