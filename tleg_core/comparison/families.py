"""The families side by side: every member's accuracy against its cost before any fine-tuning, and what a family costs.

Accuracies are on the test images of the data that all was trained on. On the front is a member that no other one beats at its
cost or below; stitches that nothing has trained yet are shown, and on no front.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tleg_core.comparison.config import ComparisonConfig
from tleg_core.comparison.plan import FamilyMember, Plan, Stage
from tleg_core.comparison.scores import Scores
from tleg_core.comparison.statistics import Estimate, estimate

CostOf = Callable[[FamilyMember], int]
"""A member's MACs, or its parameters."""

_BYTES = 4  # of a float32
_COLUMNS = (
    *("row", "stage", "member", "blocks", "macs", "params", "seeds", "mean", "half_95", "by_seed"),
    *("on_front_by_macs", "on_front_by_params"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """A member and its accuracy, in points."""

    member: FamilyMember
    top1: Estimate


def macs_of(member: FamilyMember) -> int:
    """Return the multiply-accumulates."""
    return member.macs


def params_of(member: FamilyMember) -> int:
    """Return the parameters."""
    return member.params


def points_of(plan: Plan, scores: Scores) -> list[Point]:
    """Return every member that there is an accuracy of, in the plan's order."""
    found = [(member, list(scores.of_member(member).values())) for member in plan.members]
    return [Point(member, estimate(values)) for member, values in found if values]


def front(points: Sequence[Point], cost_of: CostOf) -> list[Point]:
    """Return the members, cheapest first, each more accurate than all that cost as much or less; made families only."""
    best = -math.inf
    found: list[Point] = []
    whole = [point for point in points if point.member.stage is Stage.WHOLE]
    for point in sorted(whole, key=lambda point: (cost_of(point.member), -point.top1.mean)):
        if point.top1.mean > best:
            best = point.top1.mean
            found.append(point)
    return found


def family_table(config: ComparisonConfig, plan: Plan, scores: Scores) -> list[str]:
    """Return a line for each row: its members, what is stored, and what making it costs."""
    points, seed = points_of(plan, scores), config.seeds[0]
    lines = [
        "Accuracy of the members as they are, without any fine-tuning; cost of making the family of one seed; a row without "
        "parameters stored makes its networks afresh.",
        "",
        "| row | members | MACs | parameters | top-1, least to best | stored, parameters | stored, MB | making, FLOPs "
        "| its ancestry, FLOPs | together |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in config.rows:
        own = [point for point in points if point.member.row == row.name and point.member.stage is Stage.WHOLE]
        members = [member for member in plan.members if member.row == row.name and member.stage is Stage.WHOLE]
        macs, params = [member.macs for member in members], [member.params for member in members]
        means = [point.top1.mean for point in own]
        accuracy = f"{min(means):.1f} to {max(means):.1f}" if means else "-"
        making = plan.making_flops(row.name, row.depths(config.depths), seed)
        ancestry = plan.ancestry_flops(row.name, seed)
        stored = plan.stored_params[row.name]
        lines.append(
            f"| {row.name} | {len(members)} | {min(macs) / 1e6:.2f}M to {max(macs) / 1e6:.2f}M | {min(params):,} to "
            f"{max(params):,} | {accuracy} | {stored:,} | {_BYTES * stored / 1e6:.2f} | {making:.3g} | {ancestry:.3g} "
            f"| {making + ancestry:.3g} |"
        )
    return lines


def comparable_table(config: ComparisonConfig) -> list[str]:
    """Return which path of a pool stands beside the network of each depth; no lines where there is no pool."""
    pools = [row for row in config.rows if row.pool is not None]
    if not pools:
        return []
    lines = [
        "",
        "A pool's member in the column of a depth is the path nearest to that depth's network in MACs, classifiers left out:",
        "",
        f"| row | {' | '.join(f'd{depth}' for depth in config.depths)} |",
        f"|---|{'---|' * len(config.depths)}",
    ]
    for row in pools:
        cells = [f"`{row.paths[depth]}`" if depth in row.paths else "-" for depth in config.depths]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def member_table(plan: Plan, scores: Scores) -> list[str]:
    """Return a line for each member of each family, cheapest first within a row and stage."""
    points = points_of(plan, scores)
    by_macs, by_params = front(points, macs_of), front(points, params_of)
    lines = [
        "| row | member | stage | MACs | parameters | top-1 | on the front by |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    rows = list(dict.fromkeys(point.member.row for point in points))
    for point in sorted(points, key=lambda point: (rows.index(point.member.row), point.member.stage, point.member.macs)):
        member, half = point.member, point.top1.half
        fronts = [name for name, found in (("MACs", by_macs), ("parameters", by_params)) if point in found]
        spread = f" ± {half:.1f}" if math.isfinite(half) else ""
        lines.append(
            f"| {member.row} | {member.member.label} | {member.stage} | {member.macs:,} | {member.params:,} | "
            f"{point.top1.mean:.1f}{spread} | {', '.join(fronts)} |"
        )
    return lines


def members_csv(plan: Plan, scores: Scores) -> str:
    """Return a line for each member of each family, with its accuracy by seed."""
    points = points_of(plan, scores)
    by_macs, by_params = front(points, macs_of), front(points, params_of)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for point in points:
        member, top1 = point.member, point.top1
        seeds = " ".join(f"{seed}:{value:.4f}" for seed, value in scores.of_member(member).items())
        half = f"{top1.half:.4f}" if math.isfinite(top1.half) else ""
        numbers = [member.macs, member.params, top1.count, f"{top1.mean:.4f}", half, seeds]
        fronts = [int(point in by_macs), int(point in by_params)]
        writer.writerow([member.row, member.stage, member.member.label, member.member.depth, *numbers, *fronts])
    return text.getvalue()


def families_csv(config: ComparisonConfig, plan: Plan) -> str:
    """Return a line for each row and seed: what is stored, and what making it costs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", "members", "stored_params", "making_flops", "ancestry_flops"])
    for row in config.rows:
        members = sum(member.row == row.name and member.stage is Stage.WHOLE for member in plan.members)
        for seed in config.seeds:
            making = plan.making_flops(row.name, row.depths(config.depths), seed)
            costs = [plan.stored_params[row.name], making, plan.ancestry_flops(row.name, seed)]
            writer.writerow([row.name, seed, members, *costs])
    return text.getvalue()
