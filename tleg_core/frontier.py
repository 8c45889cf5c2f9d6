"""The Pareto front: the members that no other member beats in both cost and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from tleg_core.budget import Candidate

CostName: TypeAlias = Literal["params", "macs", "flops", "weights_bytes", "memory_bytes"]


def frontier(candidates: Sequence[Candidate], *, data_set: str, cost: CostName = "macs") -> tuple[Candidate, ...]:
    """Return the candidates measured on `data_set` that are not dominated, by rising cost.

    One is dominated where another costs no more and is at least as accurate, and better in one of the two; of several that are
    equal in both, the first by learngene and member is kept.
    """

    def order(candidate: Candidate) -> tuple[int, float, str, int, str]:
        accuracy = candidate.accuracy[data_set].top1
        return getattr(candidate.cost, cost), -accuracy, candidate.learngene, *candidate.member.order

    front: list[Candidate] = []
    for candidate in sorted((item for item in candidates if data_set in item.accuracy), key=order):
        if not front or candidate.accuracy[data_set].top1 > front[-1].accuracy[data_set].top1:
            front.append(candidate)
    return tuple(front)
