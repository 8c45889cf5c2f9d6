"""Intervals and verdicts, against independent arithmetic and made-up numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tleg_core.comparison.statistics import (
    Estimate,
    Standing,
    Verdict,
    estimate,
    overall,
    paired_difference,
    student_975,
)


def student_share_below(value: float, degrees: int) -> float:
    """Return the share of Student's distribution below `value` > 0, by summing its density (trapezoids)."""
    points = np.linspace(0.0, value, 200_001)
    density = (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
    factor = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    return 0.5 + factor * float(np.sum((density[1:] + density[:-1]) / 2) * (points[1] - points[0]))


@pytest.mark.parametrize("degrees", [*range(1, 31), 31, 40, 100, 1000])
def test_the_quantiles_are_students(degrees: int) -> None:
    """97.5 % of the distribution lie below each: to the table's four decimals, and to 2e-4 beyond it."""
    assert student_share_below(student_975(degrees), degrees) == pytest.approx(0.975, abs=2e-4 if degrees > 30 else 4e-6)


def test_an_interval_is_the_textbooks() -> None:
    """Of 40, 42 and 47: mean 43, s = sqrt(13), so 4.3027 * sqrt(13 / 3) = 8.957 to each side."""
    found = estimate([40.0, 42.0, 47.0])
    assert found.mean == pytest.approx(43.0)
    assert found.half == pytest.approx(4.3027 * math.sqrt(13 / 3), rel=1e-4)
    assert (found.low, found.high) == pytest.approx((43 - 8.957, 43 + 8.957), abs=0.01)


def test_one_value_says_nothing_of_its_interval() -> None:
    """It is infinite, so nothing can be decided."""
    one = estimate([90.0])
    assert math.isinf(one.half)
    assert one.beside(estimate([1.0, 1.1, 0.9])) is Standing.UNDECIDED
    assert one.at_least(50.0) is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("mean", "half", "standing"),
    [(12.1, 1.0, "ahead"), (11.9, 1.0, "undecided"), (8.0, 1.0, "undecided"), (7.9, 1.0, "behind"), (10.0, 0.0, "undecided")],
)
def test_intervals_decide_where_they_do_not_overlap(mean: float, half: float, standing: str) -> None:
    """Beside 10 plus and minus 1.05: touching is not enough."""
    other = Estimate(mean=10.0, half=1.05, count=3)
    assert Estimate(mean=mean, half=half, count=3).beside(other) == standing


@pytest.mark.parametrize(("low", "verdict"), [(-1.0, "held"), (-1.1, "undecided"), (-4.9, "undecided"), (-5.1, "did not hold")])
def test_a_bound_is_held_only_with_the_whole_interval(low: float, verdict: str) -> None:
    """An interval of four points, its lower end at `low`, against the bound of -1."""
    assert Estimate(mean=low + 2.0, half=2.0, count=3).at_least(-1.0) == verdict


def test_pairing_takes_away_what_the_seeds_share() -> None:
    """Rows that differ by one point at every seed are apart, though their own intervals overlap widely."""
    ours, theirs = {0: 41.0, 1: 51.2, 2: 60.9}, {0: 40.0, 1: 50.0, 2: 60.0, 7: 99.0}
    difference = paired_difference(ours, theirs)
    assert difference is not None
    assert (difference.mean, difference.count) == (pytest.approx(31 / 30), 3)
    assert difference.beside_zero() is Standing.AHEAD
    assert estimate(list(ours.values())).beside(estimate([40.0, 50.0, 60.0])) is Standing.UNDECIDED
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["held", "held"], "held"),
        (["held", "undecided"], "undecided"),
        (["undecided", "did not hold", "held"], "did not hold"),
        ([], "undecided"),
    ],
)
def test_a_claim_holds_where_every_part_does(parts: list[str], whole: str) -> None:
    """One part that fails is enough against it; one that is open leaves it open."""
    assert overall([Verdict(part) for part in parts]) == whole
