"""Budgets: a user's limits, and the exact choice of the best member that meets them.

A family has tens of members and every cost is arithmetic, so the solver looks at all of them: it is exact, it always ends, and
where nothing fits it can say which limit binds and what would fit nearest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from tleg_core.cost import Cost
from tleg_core.errors import BudgetInfeasibleError, ConfigError
from tleg_core.path import Path
from tleg_core.recipe import Member

MAX_LIMIT = 2**63 - 1

WELL_MEASURED = 1_000
"""Images that say what a member is worth: the 95 % interval of an accuracy is then at most 3.1 points to either side."""

_DATA_SETS_NAMED = 20  # in an error, those with most members


class Objective(StrEnum):
    """What is best among the members that fit."""

    ACCURACY = "accuracy"
    LARGEST = "largest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Measured top-1 accuracy, a fraction, on so many images."""

    top1: float
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One member of one learngene with its costs, and its measured accuracy by data set."""

    learngene: str
    member: Member
    cost: Cost
    accuracy: Mapping[str, Accuracy]

    def constraint_value(self, constraint: str) -> int:
        """Return what this member has where `constraint` sets a limit."""
        if constraint == "depth":
            return self.member.depth
        value: int = getattr(self.cost, constraint.removeprefix("max_"))
        return value

    def size_order(self) -> tuple[int, int, str, int, str]:
        """Return the place in a total order by size: parameters, MACs, and names, so that ties end alike everywhere."""
        return self.cost.params, self.cost.macs, self.learngene, *self.member.order


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits that must all hold; None is no limit. `depth` and `path` are exact, the others are upper limits.

    Args:
        depth: Blocks.
        max_params: Parameters.
        max_macs: Multiply-accumulates for one image.
        max_flops: Floating-point operations for one image, 2 x MACs.
        max_weights_bytes: Bytes of the weights in the requested dtype.
        max_memory_bytes: Peak bytes at inference, weights included.
        path: The member of a pool that runs along it, and no other.
    """

    depth: int | None = None
    max_params: int | None = None
    max_macs: int | None = None
    max_flops: int | None = None
    max_weights_bytes: int | None = None
    max_memory_bytes: int | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
                raise ConfigError(f"budget.{name}", f"must be a whole number from 1 to {MAX_LIMIT}, not {limit!r}")

    def limits(self) -> dict[str, int]:
        """Return the limits that are set, by name: all but the path are numbers that a member has more or less of."""
        names = (item.name for item in fields(self) if item.name != "path")
        return {name: limit for name in names if (limit := getattr(self, name)) is not None}

    def allows(self, candidate: Candidate) -> bool:
        """Whether the candidate breaks no limit, and is the path's member where there is one."""
        return self.path in (None, candidate.member.path) and not self.excess(candidate)

    def excess(self, candidate: Candidate) -> dict[str, float]:
        """Return by how much, as a fraction of the limit, the candidate breaks each limit that it breaks."""
        broken = {}
        for name, limit in self.limits().items():
            value = candidate.constraint_value(name)
            over = abs(value - limit) if name == "depth" else value - limit
            if over > 0:
                broken[name] = over / limit
        return broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The member chosen, by which objective, and the data set whose accuracy decided (None for `largest`)."""

    candidate: Candidate
    objective: Objective
    data_set: str | None


def solve(
    budget: Budget,
    candidates: Sequence[Candidate],
    objective: Objective = Objective.ACCURACY,
    accuracy_on: str | None = None,
) -> Choice:
    """Return the best candidate that meets the budget.

    `accuracy` takes the highest measured top-1 (of equal ones the cheapest). Accuracies on different data sets do not
    compare, so one data set decides: `accuracy_on`, and only what was measured on it is chosen among; without that the first of
    `measured_data_sets`. Where none was measured, the largest is taken and the answer says so in `objective`. `largest` takes
    the most parameters, then the most MACs.

    Raises:
        BudgetInfeasibleError: Nothing fits; it names the binding limit and the nearest candidate.
        ConfigError: There are no candidates at all, or none along the path, or none measured on `accuracy_on`.
    """
    if not candidates:
        raise ConfigError("learngene", "there is none to choose from")
    if budget.path is not None:
        candidates = [candidate for candidate in candidates if candidate.member.path == budget.path]
        if not candidates:
            listed = "`GET /learngenes/{id}` (`tleg learngenes show NAME`) lists them"
            raise ConfigError("budget.path", f"{budget.path} is no member's; {listed}")
    if accuracy_on is not None:
        candidates = _measured_on(accuracy_on, candidates, objective)
    fitting = [candidate for candidate in candidates if not budget.excess(candidate)]
    if not fitting:
        raise _infeasible(budget, candidates)
    data_sets = measured_data_sets(fitting) if objective is Objective.ACCURACY else []
    data_set = accuracy_on or (data_sets[0] if data_sets else None)
    if data_set is None:
        return Choice(candidate=max(fitting, key=Candidate.size_order), objective=Objective.LARGEST, data_set=None)
    measured = [candidate for candidate in fitting if data_set in candidate.accuracy]
    top1 = max(candidate.accuracy[data_set].top1 for candidate in measured)
    best = min((candidate for candidate in measured if candidate.accuracy[data_set].top1 == top1), key=Candidate.size_order)
    return Choice(candidate=best, objective=Objective.ACCURACY, data_set=data_set)


def _measured_on(data_set: str, candidates: Sequence[Candidate], objective: Objective) -> Sequence[Candidate]:
    """Return the candidates that were measured on a data set; raises `ConfigError` where there are none, or size decides."""
    if objective is not Objective.ACCURACY:
        raise ConfigError("accuracy_on", f"goes with the objective {Objective.ACCURACY} only, not with {objective}")
    measured = [candidate for candidate in candidates if data_set in candidate.accuracy]
    if not measured:
        raise ConfigError("accuracy_on", not_measured(data_set, measured_data_sets(candidates)))
    return measured


def not_measured(data_set: str, measured: Sequence[str]) -> str:
    """Return in words that nothing was measured on a data set, and what was: the first of them, for there may be thousands."""
    known = ", ".join(repr(name[:80]) for name in measured[:_DATA_SETS_NAMED])
    return f"nothing was measured on {data_set[:80]!r}; there is {known or 'none'}"


def measured_data_sets(candidates: Iterable[Candidate]) -> list[str]:
    """Return the data sets that candidates were measured on, the one with most candidates first, equal ones by name.

    Candidates that were measured on fewer than `WELL_MEASURED` images count where no others decide.
    """
    counts, well = Counter[str](), Counter[str]()
    for candidate in candidates:
        for data_set, measured in candidate.accuracy.items():
            counts[data_set] += 1
            well[data_set] += measured.images >= WELL_MEASURED
    return sorted(counts, key=lambda name: (-well[name], -counts[name], name))


def _infeasible(budget: Budget, candidates: Sequence[Candidate]) -> BudgetInfeasibleError:
    """Name the nearest candidate: it breaks the fewest limits, and of those the worst one least.

    Where it breaks one limit, setting that limit to what the candidate has makes the budget feasible.
    """

    def distance(candidate: Candidate) -> tuple[int, float, tuple[int, int, str, int, str]]:
        excess = budget.excess(candidate)
        return len(excess), max(excess.values()), candidate.size_order()

    nearest = min(candidates, key=distance)
    excess = budget.excess(nearest)
    limits = budget.limits()
    return BudgetInfeasibleError(
        exceeded={name: limits[name] for name in sorted(excess, key=lambda name: -excess[name])}, nearest=nearest
    )
