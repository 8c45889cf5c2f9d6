"""Schedules: the rules that give each layer of a depth-L descendant its K coefficients.

A schedule is data, stored in the learngene's file. It knows nothing of tensors; `expansion.combine` applies a row.

Shape legend: L depth, K components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from tleg_core.errors import ConfigError
from tleg_core.vit import MAX_DEPTH

Coefficients: TypeAlias = tuple[tuple[float, ...], ...]
"""C(L): L rows of K numbers, each exactly a float32."""

MAX_COMPONENTS = 64
"""Upper limit of K: a learngene as large as a 64-layer network is not one."""


class Schedule(Protocol):
    """A rule for C(L)."""

    def __hash__(self) -> int:
        """Schedules are values: rows are computed once for each."""
        ...

    @property
    def num_components(self) -> int:
        """K."""
        ...

    @property
    def min_depth(self) -> int:
        """The smallest depth that the rule is defined for."""
        ...

    @property
    def unit(self) -> tuple[float, ...]:
        """K numbers that every row combines to one: how components start that every layer should have as 1."""
        ...

    def coefficients(self, depth: int) -> Coefficients:
        """Return C(L) for L = `depth`: L rows of K numbers."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as `schedule_from_json` reads it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """Row i is (1, t, t^2, ..., t^(K-1)) with t = i / L, or, with `endpoint`, t = i / (L - 1).

    K = 2 is TLEG's linear rule (arXiv 2312.05614): theta_i = theta_B + (i / L) * theta_A. Layer 0 is exactly theta_B, and the
    last layer stands at (L - 1) / L, never at 1: whether the paper prints l / L or (l - 1) / L is not known to us, the authors'
    code is this. With `endpoint` every depth covers the same range, from 0 to 1: our own variation, not the paper's.
    """

    num_components: int = 2
    endpoint: bool = False

    def __post_init__(self) -> None:
        _check_components(self.num_components, 1)
        if not isinstance(self.endpoint, bool):
            raise ConfigError("schedule.endpoint", f"must be true or false, not {self.endpoint!r}")

    def __str__(self) -> str:
        """Return the schedule in words."""
        rule = "linear" if self.num_components == 2 else f"polynomial of order {self.num_components - 1}"
        return f"{rule} in i / (L - 1)" if self.endpoint else f"{rule} in i / L"

    @property
    def min_depth(self) -> int:
        """Any depth works."""
        return 1

    @property
    def unit(self) -> tuple[float, ...]:
        """The constant term alone."""
        return (1.0,) + (0.0,) * (self.num_components - 1)

    def coefficients(self, depth: int) -> Coefficients:
        """Return the powers of t, each taken in float64 and rounded once to float32."""
        steps = max(depth - 1, 1) if self.endpoint else depth
        return tuple(
            tuple(float(np.float32(_power(layer / steps, k))) for k in range(self.num_components)) for layer in range(depth)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as a JSON object; without `endpoint` where it is not set, as files were before it existed."""
        extra = {"endpoint": True} if self.endpoint else {}
        return {"kind": "polynomial", "num_components": self.num_components} | extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Spline:
    """Linear interpolation between K components that lie at equal distances from the first layer to the last, t = i / (L - 1).

    Row i has at most two entries, which sum to one. It holds as much as a polynomial of order K - 1, and each component is
    itself near a layer, so none grows large to cancel another. Our own; not of the paper.
    """

    num_components: int = 3

    def __post_init__(self) -> None:
        _check_components(self.num_components, 2)

    def __str__(self) -> str:
        """Return the schedule in words."""
        return f"linear between {self.num_components} knots"

    @property
    def min_depth(self) -> int:
        """Any depth works; a single layer is the first component."""
        return 1

    @property
    def unit(self) -> tuple[float, ...]:
        """All of them."""
        return (1.0,) * self.num_components

    def coefficients(self, depth: int) -> Coefficients:
        """Return rows with `1 - f` and `f` at the two nearest knots, f in exact arithmetic, rounded once to float32."""
        spans, steps = self.num_components - 1, max(depth - 1, 1)
        rows: list[tuple[float, ...]] = []
        for layer in range(depth):
            knot, rest = divmod(layer * spans, steps)
            row = [0.0] * self.num_components
            row[knot] = float(np.float32((steps - rest) / steps))
            if rest:
                row[knot + 1] = float(np.float32(rest / steps))
            rows.append(tuple(row))
        return tuple(rows)

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as a JSON object."""
        return {"kind": "spline", "num_components": self.num_components}


def _check_components(count: int, low: int) -> None:
    if not low <= count <= MAX_COMPONENTS:
        raise ConfigError("schedule.num_components", f"must be from {low} to {MAX_COMPONENTS}")


def _power(base: float, exponent: int) -> float:
    """Return `base ** exponent` by repeated multiplication: libm's `pow` may differ in the last bit between machines."""
    result = 1.0
    for _ in range(exponent):
        result *= base
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Stagewise:
    """Layers in stages that share one component each: one-hot rows (SWS, arXiv 2404.16897).

    At the depth of the auxiliary model the stages have the lengths in `stages`; at any other depth they are as equal as can
    be, longer ones first, which gives the authors' 3-3-2-2-2 at depth 12.
    """

    stages: tuple[int, ...] = (3, 3, 4, 3, 3)

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_COMPONENTS or any(length < 1 for length in self.stages):
            raise ConfigError("schedule.stages", f"must be 1 to {MAX_COMPONENTS} lengths of at least 1")

    def __str__(self) -> str:
        """Return the schedule in words."""
        return f"stages of {'-'.join(map(str, self.stages))} layers"

    @property
    def num_components(self) -> int:
        """K: one component a stage."""
        return len(self.stages)

    @property
    def min_depth(self) -> int:
        """A layer for each stage."""
        return len(self.stages)

    @property
    def unit(self) -> tuple[float, ...]:
        """All of them."""
        return (1.0,) * len(self.stages)

    def coefficients(self, depth: int) -> Coefficients:
        """Return one-hot rows; raises `ConfigError` where a stage would have no layer."""
        if depth < self.min_depth:
            raise ConfigError("depth", f"must be at least {self.min_depth}, one layer for each stage, not {depth}")
        lengths = self.stages
        if depth != sum(self.stages):
            quotient, remainder = divmod(depth, len(self.stages))
            lengths = tuple(quotient + (stage < remainder) for stage in range(len(self.stages)))
        return tuple(
            tuple(float(stage == k) for k in range(len(lengths))) for stage, length in enumerate(lengths) for _ in range(length)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as a JSON object."""
        return {"kind": "stagewise", "stages": list(self.stages)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Whole layers of an ancestry model, one component each, at their relative places; the layers between them are fresh.

    Sources: Learngene (arXiv 2106.06788; arXiv 2305.02279). There a person places the layers for one depth; here the k-th
    stands at round(layers[k] * (L - 1) / (of - 1)), moved by as little as it takes for each layer to have a place of its own.

    Args:
        layers: The ancestry's layers that are inherited, from 0, ascending.
        of: The ancestry's depth.
    """

    layers: tuple[int, ...]
    of: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_COMPONENTS:
            raise ConfigError("schedule.layers", f"must be 1 to {MAX_COMPONENTS}, not {len(self.layers)}")
        if not 1 <= self.of <= MAX_DEPTH:
            raise ConfigError("schedule.of", f"must be from 1 to {MAX_DEPTH}, not {str(self.of)[:20]}")
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0 or self.layers[-1] >= self.of:
            raise ConfigError("schedule.layers", f"must ascend from 0 to {self.of - 1} at most")

    def __str__(self) -> str:
        """Return the schedule in words."""
        return f"layers {', '.join(map(str, self.layers))} of {self.of}, the others fresh"

    @property
    def num_components(self) -> int:
        """K: one component a layer."""
        return len(self.layers)

    @property
    def min_depth(self) -> int:
        """A place for each layer."""
        return len(self.layers)

    @property
    def unit(self) -> tuple[float, ...]:
        """All of them."""
        return (1.0,) * len(self.layers)

    def places(self, depth: int) -> tuple[int, ...]:
        """Return where each inherited layer stands in a network of `depth` layers.

        Raises:
            ConfigError: There are more of them than places.
        """
        if depth < self.min_depth:
            raise ConfigError("depth", f"must be at least {self.min_depth}, one layer for each inherited one, not {depth}")
        spans = max(self.of - 1, 1)
        places: list[int] = []
        for index, layer in enumerate(self.layers):
            wanted = (2 * layer * (depth - 1) + spans) // (2 * spans)  # to the nearest, a half upwards
            lowest = places[-1] + 1 if places else 0
            highest = depth - (len(self.layers) - index)  # leaves a place for each of those that follow
            places.append(min(max(wanted, lowest), highest))
        return tuple(places)

    def coefficients(self, depth: int) -> Coefficients:
        """Return one-hot rows for inherited layers, and rows of zeros for fresh ones."""
        places = self.places(depth)
        return tuple(tuple(float(place == layer) for place in places) for layer in range(depth))

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as a JSON object."""
        return {"kind": "inherited", "layers": list(self.layers), "of": self.of}


def schedule_from_json(value: object) -> Schedule:
    """Read a schedule from its JSON object.

    Raises:
        ConfigError: The kind is not known, or a field is missing, extra or outside its limits.
    """
    if not isinstance(value, Mapping):
        raise ConfigError("schedule", "must be an object")
    match dict(value):
        case {"kind": "polynomial", "num_components": int(count), **rest} if not rest and not isinstance(count, bool):
            return Polynomial(num_components=count)
        case {"kind": "polynomial", "num_components": int(count), "endpoint": True, **rest} if not (
            rest or isinstance(count, bool)
        ):
            return Polynomial(num_components=count, endpoint=True)
        case {"kind": "spline", "num_components": int(count), **rest} if not rest and not isinstance(count, bool):
            return Spline(num_components=count)
        case {"kind": "stagewise", "stages": list(stages), **rest} if not rest:
            return Stagewise(stages=_whole_numbers("stages", stages))
        case {"kind": "inherited", "layers": list(layers), "of": int(of), **rest} if not rest and not isinstance(of, bool):
            return Inherited(layers=_whole_numbers("layers", layers), of=of)
        case _:
            raise ConfigError(
                "schedule", "is of no known kind (polynomial, spline with num_components, stagewise with stages, inherited)"
            )


def _whole_numbers(name: str, values: list[object]) -> tuple[int, ...]:
    numbers = tuple(value for value in values if isinstance(value, int) and not isinstance(value, bool))
    if len(numbers) < len(values):
        raise ConfigError(f"schedule.{name}", "must be a list of whole numbers")
    return numbers
