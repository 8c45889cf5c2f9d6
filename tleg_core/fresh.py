"""Fresh tensors: numbers drawn so that any machine draws the same ones, in any order.

A counter-based generator (Philox 4x64) is keyed by the seed and the tensor's name, so element j of a tensor depends on
nothing else and a byte range in the middle needs no draw before it. numpy promises stable raw bits but no stable normal
draws, so the bits become numbers by integer sums and IEEE-rounded operations in a fixed order: the sum of twelve 16-bit
integers, centred and scaled, has mean 0 and variance 1 and is close to normal (Irwin-Hall); it cannot go beyond 6 standard
deviations.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

INIT_STD = 0.02
"""Standard deviation of a fresh weight, as in TLEG's, DeiT's and timm's own initialisation."""

_WORDS = 3  # 64-bit words an element, four 16-bit integers each: twelve terms
_WORDS_PER_COUNT = 4  # Philox 4x64 yields four words for each value of its counter
_MEAN = 12 * 65535 / 2  # of the sum
_STD = float(2**16)  # of the sum, to 1e-10: sqrt(12 * (2^32 - 1) / 12)


def draw(seed: int, name: str, start: int, stop: int, *, std: float = INIT_STD) -> NDArray[np.float32]:
    """Return elements `start`..`stop` of the fresh tensor `name` under `seed`, shape (stop - start,)."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    first_word = start * _WORDS
    generator = np.random.Philox(key=key)
    generator.advance(first_word // _WORDS_PER_COUNT)
    skip = first_word % _WORDS_PER_COUNT
    words = generator.random_raw(skip + (stop - start) * _WORDS)[skip:]
    terms = words.astype("<u8", copy=False).view("<u2").reshape(stop - start, 12)
    sums = terms.sum(axis=1, dtype=np.int64)
    numbers: NDArray[np.float64] = (sums - _MEAN) * (std / _STD)
    return numbers.astype(np.float32)
