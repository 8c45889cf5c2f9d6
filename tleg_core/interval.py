"""The interval that a share of so many images stands for: Wilson's, which stays within 0..1 and holds near both ends.

Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). It is about the
draw of the images only: nothing here knows how much another seed of the training would change.
"""

from __future__ import annotations

import math

from tleg_core.errors import ConfigError

Z_95 = 1.959963984540054
"""The standard normal distribution's 97.5 % quantile: 95 % lie within plus and minus it."""


def wilson(share: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval's two ends: `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`.

    Args:
        share: p, the share observed, 0..1.
        count: n, of how many.
        z: How many standard deviations; 1.96 for 95 %.

    Raises:
        ConfigError: There is nothing that it could be a share of, or it is none.
    """
    if count < 1:
        raise ConfigError("count", f"must be at least 1, not {count}: there is no share of nothing")
    if not 0.0 <= share <= 1.0:
        raise ConfigError("share", f"must be from 0 to 1, not {share}")
    squared = z * z / count
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # rounding may cross the share
