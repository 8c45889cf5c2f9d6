"""The budget solver against a brute force that shares nothing with it: exact fractions and plain loops."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.budget import MAX_LIMIT, Accuracy, Budget, Candidate, Choice, Objective, solve
from tleg_core.cost import Cost
from tleg_core.description import Measurement
from tleg_core.errors import BudgetInfeasibleError, ConfigError
from tleg_core.family import Family, Variation
from tleg_core.recipe import Member

from .conftest import LearngeneFactory

LIMITS = ("depth", "max_params", "max_macs", "max_flops", "max_weights_bytes", "max_memory_bytes")
DATA_SETS = ("cifar", "digits", "flowers")


def value_of(candidate: Candidate, limit: str) -> int:
    """Return what a candidate has where `limit` applies, spelt out."""
    costs = candidate.cost
    return {
        "depth": candidate.member.depth,
        "max_params": costs.params,
        "max_macs": costs.macs,
        "max_flops": costs.macs * 2,
        "max_weights_bytes": costs.weights_bytes,
        "max_memory_bytes": costs.memory_bytes,
    }[limit]


def broken_limits(candidate: Candidate, limits: dict[str, int]) -> dict[str, Fraction]:
    """Return the limits that a candidate breaks, each with its excess as an exact fraction of the limit."""
    broken = {}
    for name, limit in limits.items():
        excess = value_of(candidate, name) - limit
        excess = abs(excess) if name == "depth" else excess
        if excess > 0:
            broken[name] = Fraction(excess, limit)
    return broken


def by_size(candidate: Candidate) -> tuple[Any, ...]:
    """Return the order by size that ends ties."""
    return candidate.cost.params, candidate.cost.macs, candidate.learngene, candidate.member.depth


def brute_force(
    limits: dict[str, int], candidates: list[Candidate], objective: str
) -> tuple[Candidate, str, str | None] | None:
    """Return the choice, the objective that decided and its data set, by trying everything; None where nothing fits."""
    fitting = [candidate for candidate in candidates if not broken_limits(candidate, limits)]
    if not fitting:
        return None
    if objective == "accuracy":
        deciding, most = None, (0, 0)
        for data_set in sorted(DATA_SETS):
            images = [candidate.accuracy[data_set].images for candidate in fitting if data_set in candidate.accuracy]
            count = len([1 for number in images if number >= 1000]), len(images)
            if count > most:
                deciding, most = data_set, count
        if deciding is not None:
            measured = [candidate for candidate in fitting if deciding in candidate.accuracy]
            best = measured[0]
            for rival in measured[1:]:
                ahead = rival.accuracy[deciding].top1 - best.accuracy[deciding].top1
                if ahead > 0 or (ahead == 0 and by_size(rival) < by_size(best)):
                    best = rival
            return best, "accuracy", deciding
    return sorted(fitting, key=by_size)[-1], "largest", None


def random_candidates(generator: random.Random) -> list[Candidate]:
    """Return a few candidates with small costs, so that ties of every kind come up."""
    span = generator.choice([3, 30, 10**6])
    measured_share = generator.choice([0.0, 0.3, 1.0])
    names = [(name, depth) for name in ("alpha", "beta", "gamma") for depth in range(1, 9)]
    return [
        Candidate(
            learngene=name,
            member=Member(depth=depth),
            cost=Cost(**{field: generator.randint(1, span) for field in ("params", "macs", "weights_bytes", "memory_bytes")}),
            accuracy={
                data_set: Accuracy(
                    top1=generator.choice([0.0, 0.5, 0.5, 0.75, generator.random()]), images=generator.choice([10, 999, 1000])
                )
                for data_set in DATA_SETS
                if generator.random() < measured_share
            },
        )
        for name, depth in generator.sample(names, generator.randint(1, 12))
    ]


def random_limits(generator: random.Random, candidates: list[Candidate]) -> dict[str, int]:
    """Return any combination of limits, near what the candidates have."""
    limits = {}
    for name in LIMITS:
        if generator.random() < generator.choice([0.2, 0.7]):
            near = value_of(generator.choice(candidates), name)
            limits[name] = max(1, near + generator.choice([-2, -1, 0, 0, 0, 1, near, -near // 2]))
    return limits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objective", Objective)
def test_thousands_of_random_budgets_agree_with_brute_force(objective: Objective, seed: int) -> None:
    """The choice, or the named limit and the nearest member, is what trying everything gives."""
    generator = random.Random(f"{objective}-{seed}")
    outcomes = {"fits": 0, "infeasible": 0}
    for _ in range(1000):
        candidates = random_candidates(generator)
        limits = random_limits(generator, candidates)
        expected = brute_force(limits, candidates, objective.value)
        if expected is not None:
            outcomes["fits"] += 1
            found = solve(Budget(**limits), candidates, objective)
            assert (found.candidate, found.objective.value, found.data_set) == expected
            continue
        outcomes["infeasible"] += 1
        with pytest.raises(BudgetInfeasibleError) as caught:
            solve(Budget(**limits), candidates, objective)
        error = caught.value
        broken = broken_limits(error.nearest, limits)
        worst = max(broken.values())
        assert broken[error.binding_constraint] == worst
        assert error.limit == limits[error.binding_constraint]
        assert error.required == value_of(error.nearest, error.binding_constraint)
        assert error.exceeded == {name: limits[name] for name in broken}
        fewest = min(len(broken_limits(candidate, limits)) for candidate in candidates)
        assert len(broken) == fewest
        rivals = [candidate for candidate in candidates if len(broken_limits(candidate, limits)) == fewest]
        assert worst == min(max(broken_limits(candidate, limits).values()) for candidate in rivals)
        ties = [candidate for candidate in rivals if max(broken_limits(candidate, limits).values()) == worst]
        assert error.nearest == min(ties, key=by_size)
        relaxed = limits | {name: value_of(error.nearest, name) for name in error.exceeded}
        assert solve(Budget(**relaxed), candidates, objective)  # does not raise: what the error says to relax is enough
    assert min(outcomes.values()) > 100  # the loop has seen enough of both


@pytest.mark.parametrize("objective", Objective)
def test_the_order_of_the_candidates_does_not_matter(objective: Objective) -> None:
    """Any permutation gives the same answer, ties included."""
    generator = random.Random(5)
    for _ in range(300):
        candidates = random_candidates(generator)
        limits = random_limits(generator, candidates)
        answers = set()
        for _ in range(3):
            generator.shuffle(candidates)
            try:
                answer = solve(Budget(**limits), candidates, objective).candidate
            except BudgetInfeasibleError as error:
                answer = error.nearest
            answers.add(by_size(answer))
        assert len(answers) == 1


@given(
    limits=st.dictionaries(st.sampled_from(LIMITS), st.integers(1, MAX_LIMIT), min_size=1),
    sizes=st.lists(st.integers(1, MAX_LIMIT // 2), min_size=1, max_size=5),
)
def test_limits_of_any_magnitude_are_compared_exactly(limits: dict[str, int], sizes: list[int]) -> None:
    """Up to the largest limit, nothing that breaks a limit is chosen and nothing that fits is refused."""
    candidates = [
        Candidate(
            learngene="huge",
            member=Member(depth=depth),
            cost=Cost(params=size, macs=size, weights_bytes=size, memory_bytes=size),
            accuracy={},
        )
        for depth, size in enumerate(sizes, start=1)
    ]
    fitting = [candidate for candidate in candidates if not broken_limits(candidate, limits)]
    if not fitting:
        with pytest.raises(BudgetInfeasibleError) as caught:
            solve(Budget(**limits), candidates)
        assert caught.value.binding_constraint in broken_limits(caught.value.nearest, limits)
        return
    found = solve(Budget(**limits), candidates).candidate
    assert found in fitting
    assert found.cost.params == max(candidate.cost.params for candidate in fitting)


def solve_by_depth(family: Family, **limits: int) -> Choice:
    """Solve over a family's members for the most accurate."""
    return solve(Budget(**limits), family.candidates(Variation()))


def test_a_familys_budget_is_met_by_its_costs(family: Family) -> None:
    """Each member is chosen where the limit is exactly what it has, and one less takes the member before it."""
    candidates = family.candidates(Variation())
    for smaller, candidate in pairwise(candidates):
        for limit in LIMITS[1:]:
            if value_of(candidate, limit) == value_of(smaller, limit):
                continue
            assert (
                solve(Budget(**{limit: value_of(candidate, limit)}), candidates).candidate.cost.params >= candidate.cost.params
            )
            below = solve(Budget(**{limit: value_of(candidate, limit) - 1}), candidates).candidate
            assert value_of(below, limit) < value_of(candidate, limit)
        assert solve(Budget(max_params=candidate.cost.params), candidates).candidate == candidate
        assert solve(Budget(depth=candidate.member.depth), candidates).candidate == candidate


def test_accuracy_prefers_the_measured_best_to_the_largest(make_learngene: LearngeneFactory) -> None:
    """A smaller member that measured better wins, unless the objective is size or the budget leaves it out."""
    measured = [(3, 0.5), (6, 0.9), (9, 0.8)]
    accuracy = tuple(Measurement(depth=depth, data_set="digits", top1=top1, images=100) for depth, top1 in measured)
    candidates = Family(make_learngene(accuracy=accuracy)).candidates(Variation())
    best = solve(Budget(), candidates)
    assert (best.candidate.member.depth, best.objective, best.data_set) == (6, Objective.ACCURACY, "digits")
    assert solve(Budget(), candidates, Objective.LARGEST).candidate.member.depth == 12
    below_six = solve(Budget(max_params=candidates[4].cost.params), candidates)
    assert below_six.candidate.member.depth == 3
    unmeasured = solve(Budget(depth=5), candidates)
    assert (unmeasured.candidate.member.depth, unmeasured.objective, unmeasured.data_set) == (5, Objective.LARGEST, None)


def test_a_few_images_do_not_decide_for_everybody() -> None:
    """A pool of many members that were measured on 81 images leaves the choice to what was measured on ten thousand."""

    def candidate(learngene: str, depth: int, data_set: str, images: int) -> Candidate:
        cost = Cost(params=depth, macs=depth, weights_bytes=depth, memory_bytes=depth)
        accuracy = {data_set: Accuracy(top1=0.3, images=images)}
        return Candidate(learngene=learngene, member=Member(depth=depth), cost=cost, accuracy=accuracy)

    toys = [candidate("toy-pool", depth, "flowers", 81) for depth in range(1, 30)]
    measured = [candidate("a-learngene", depth, "digits", 10_000) for depth in (6, 12)]
    assert solve(Budget(), toys + measured).data_set == "digits"
    assert solve(Budget(), toys).data_set == "flowers"


def test_an_infeasible_budget_says_so_in_one_sentence(family: Family) -> None:
    """The message has the limit, the nearest member and what it has."""
    with pytest.raises(
        BudgetInfeasibleError, match=r"no member fits; the nearest is test-tleg d1: max_params is 10 and it has [\d,]+$"
    ):
        solve_by_depth(family, max_params=10)
    with pytest.raises(BudgetInfeasibleError) as caught:
        solve_by_depth(family, depth=40)
    assert (caught.value.binding_constraint, caught.value.nearest.member.depth, caught.value.required) == ("depth", 12, 12)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, MAX_LIMIT + 1, 1.5, True, "3", float("nan")])
def test_a_limit_that_is_no_limit_is_refused_by_name(name: str, value: Any) -> None:
    """Whole numbers from 1 to 2^63 - 1 only."""
    with pytest.raises(ConfigError) as caught:
        Budget(**{name: value})
    assert caught.value.field == f"budget.{name}"


def test_no_candidates_at_all_is_an_error_of_its_own() -> None:
    """An empty choice is no infeasible budget."""
    with pytest.raises(ConfigError, match="learngene"):
        solve(Budget(), [])
