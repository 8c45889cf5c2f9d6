"""Tensor sources: where the elements of one tensor of a descendant come from.

A source is read in slices, so that a file is computed while it is sent. A new kind of learngene needs new sources at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tleg_core.expansion import combine
from tleg_core.fresh import INIT_STD, draw

Array: TypeAlias = NDArray[np.float32]


class TensorSource(Protocol):
    """Where the elements of one tensor come from."""

    def read(self, start: int, stop: int) -> Array:
        """Return elements `start`..`stop` of the flattened tensor, shape (stop - start,), float32."""
        ...


@dataclass(frozen=True, slots=True)
class Combined:
    """A block tensor: the learngene's components, combined with one row of the schedule."""

    name: str  # of the stored tensor, (K, ...)
    coefficients: Sequence[float]
    components: Array  # (K, size)

    def read(self, start: int, stop: int) -> Array:
        """Return a slice of the combination; only the slice is computed."""
        return combine(self.coefficients, [component[start:stop] for component in self.components])


@dataclass(frozen=True, slots=True)
class Copied:
    """A tensor that is stored once."""

    name: str  # of the stored tensor
    values: Array  # flat

    def read(self, start: int, stop: int) -> Array:
        """Return a view of the stored values."""
        return self.values[start:stop]


@dataclass(frozen=True, slots=True)
class Resampled:
    """A position embedding at another image size; it is asked for when it is read, so that a plan holds no weights."""

    position: Callable[[str, int], Array]
    name: str  # of the stored tensor
    grid_size: int

    def read(self, start: int, stop: int) -> Array:
        """Return a slice of the resampled embedding."""
        return self.position(self.name, self.grid_size)[start:stop]


@dataclass(frozen=True, slots=True)
class Filled:
    """A tensor of one number."""

    value: float

    def read(self, start: int, stop: int) -> Array:
        """Return that number, so often."""
        return np.full(stop - start, self.value, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A tensor drawn by seed and name."""

    seed: int
    name: str
    std: float = INIT_STD

    def read(self, start: int, stop: int) -> Array:
        """Return a slice of the draw; only the slice is drawn."""
        return draw(self.seed, self.name, start, stop, std=self.std)


def initial(seed: int, name: str, *, std: float = INIT_STD) -> TensorSource:
    """Return how a tensor of a fresh network begins: a norm's weight as ones, a bias as zeros, all else drawn."""
    module, _, kind = name.rpartition(".")
    if kind == "bias":
        return Filled(0.0)
    return Filled(1.0) if module.rpartition(".")[2].startswith("norm") else Fresh(seed, name, std)
