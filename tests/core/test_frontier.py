"""The Pareto front against its definition, every pair compared."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from tleg_core.budget import Accuracy, Candidate
from tleg_core.cost import Cost
from tleg_core.frontier import CostName, frontier
from tleg_core.recipe import Member


def candidate(name: str, depth: int, price: int, top1: float | None, generator: random.Random) -> Candidate:
    """Return a candidate whose MACs are `price`, measured on "digits" unless `top1` is None."""
    others = {field: generator.randint(1, 6) for field in ("params", "weights_bytes", "memory_bytes")}
    accuracy = {} if top1 is None else {"digits": Accuracy(top1=top1, images=10)}
    return Candidate(learngene=name, member=Member(depth=depth), cost=Cost(macs=price, **others), accuracy=accuracy)


def price_of(item: Candidate, cost: str) -> int:
    """Return one cost of a candidate."""
    return 2 * item.cost.macs if cost == "flops" else vars_of(item.cost)[cost]


def vars_of(cost: Cost) -> dict[str, int]:
    """Return the fields of a slotted dataclass."""
    return {name: getattr(cost, name) for name in ("params", "macs", "weights_bytes", "memory_bytes")}


def dominates(a: Candidate, b: Candidate, cost: str) -> bool:
    """Whether `a` costs no more, is as accurate, and is better in one; of full equals the first by name and depth."""
    price_a, price_b = price_of(a, cost), price_of(b, cost)
    top_a, top_b = a.accuracy["digits"].top1, b.accuracy["digits"].top1
    if (price_a, top_a) == (price_b, top_b):
        return (a.learngene, a.member.depth) < (b.learngene, b.member.depth)
    return price_a <= price_b and top_a >= top_b


@pytest.mark.parametrize("cost", get_args(CostName))
def test_the_front_is_what_no_pair_comparison_removes(cost: CostName) -> None:
    """On a thousand random sets, ties included, the front is the definition's, by rising cost and accuracy."""
    generator = random.Random(cost)
    names = [(name, depth) for name in ("a", "b") for depth in range(1, 9)]
    for _ in range(1000):
        items = [
            candidate(name, depth, generator.randint(1, 6), generator.choice([None, 0.0, 0.25, 0.5, 0.75, 1.0]), generator)
            for name, depth in generator.sample(names, generator.randint(0, 16))
        ]
        measured = [item for item in items if item.accuracy]
        expected = [item for item in measured if not any(dominates(other, item, cost) for other in measured)]
        found = frontier(items, data_set="digits", cost=cost)
        assert list(found) == sorted(expected, key=lambda item: price_of(item, cost))
        accuracies = [item.accuracy["digits"].top1 for item in found]
        assert accuracies == sorted(set(accuracies))


def test_a_data_set_nobody_measured_has_an_empty_front() -> None:
    """Candidates without a measurement on the data set are left out."""
    items = [candidate("a", 1, 1, 0.5, random.Random(0))]
    assert frontier(items, data_set="flowers") == ()
    assert frontier([], data_set="digits") == ()
