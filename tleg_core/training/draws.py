"""Random draws that follow from a seed and the place in the run, so that nothing needs to be stored to draw them again.

timm's augmentations draw from the global generators of Python and numpy. Those are seeded anew for each use, under a lock, for
images are augmented in several threads.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GLOBAL = threading.Lock()


def seed_of(seed: int, purpose: str, *place: int) -> int:
    """Return the seed of one draw, 0..2^63 - 1, for a purpose and a place (epoch, step, image …) in the run of `seed`."""
    text = ":".join((purpose, str(seed), *(str(number) for number in place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Return the CPU's generator with the seed of that place."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *place))


@contextmanager
def global_draws(seed: int) -> Iterator[None]:
    """Hold the global generators of Python and numpy, seeded, for the block; others wait."""
    with _GLOBAL:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
