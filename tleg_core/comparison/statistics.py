"""Means over seeds, their 95 % intervals, and what may be said of a difference. Nothing but arithmetic.

Runs of one seed share the order of images and their augmentation, so differences are taken seed by seed (paired). An interval
over seeds says how much another seed changes; that the test images are a draw too is left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

_QUANTILES_975 = (
    # Student's t, 97.5 %, for 1, 2, … 30 degrees of freedom (any table; checked in the tests by integration)
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_NORMAL_975 = 1.95996


class Standing(StrEnum):
    """What intervals say of one number beside another."""

    AHEAD = "ahead"
    BEHIND = "behind"
    UNDECIDED = "undecided"


class Verdict(StrEnum):
    """What the numbers say of a claim."""

    HELD = "held"
    DID_NOT_HOLD = "did not hold"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval: `mean` plus and minus `half`, infinite where there is one value only."""

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half

    def beside(self, other: Estimate) -> Standing:
        """Return where this stands: ahead or behind where the intervals do not overlap."""
        if self.low > other.high:
            return Standing.AHEAD
        return Standing.BEHIND if self.high < other.low else Standing.UNDECIDED

    def beside_zero(self) -> Standing:
        """Return where a difference stands: ahead or behind where zero is outside the interval."""
        return self.beside(Estimate(mean=0.0, half=0.0, count=self.count))

    def at_least(self, bound: float) -> Verdict:
        """Return whether the number is at least `bound`: undecided where that is inside the interval."""
        if self.low >= bound:
            return Verdict.HELD
        return Verdict.DID_NOT_HOLD if self.high < bound else Verdict.UNDECIDED


def student_975(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t; beyond 30 degrees of freedom by Cornish and Fisher's first term."""
    if degrees <= len(_QUANTILES_975):
        return _QUANTILES_975[degrees - 1]
    return _NORMAL_975 + (_NORMAL_975**3 + _NORMAL_975) / (4 * degrees)


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its interval, `t(n - 1) * s / sqrt(n)`; there must be a value."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean=mean, half=math.inf, count=1)
    half = student_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean=mean, half=half, count=len(values))


def paired_difference(values: Mapping[int, float], others: Mapping[int, float]) -> Estimate | None:
    """Return the mean of `values - others` over the seeds that both have; None where there is none."""
    common = sorted(values.keys() & others.keys())
    return estimate([values[seed] - others[seed] for seed in common]) if common else None


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on all parts of a claim together: held where all are, not where one is not; undecided without any."""
    if Verdict.DID_NOT_HOLD in verdicts:
        return Verdict.DID_NOT_HOLD
    return Verdict.HELD if verdicts and set(verdicts) == {Verdict.HELD} else Verdict.UNDECIDED
