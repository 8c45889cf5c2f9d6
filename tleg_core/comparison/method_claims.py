"""The claims of the papers behind pools and inherited layers, each with a verdict that follows from the numbers alone.

Learngene Pool (arXiv 2312.05743) against SN-Net: less is stored, smaller networks can be had, learned stitches are better than
those of least squares. SN-Net (arXiv 2302.06586): a stitched network works before any training. Learngene (arXiv 2106.06788,
2305.02279): what inherits layers is ahead of what does not, at equal steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from statistics import fmean

from tleg_core.amount import amount
from tleg_core.comparison.claims import Claim, counted, depths_with, lengths_of, verdict_on_standings
from tleg_core.comparison.config import ComparisonConfig
from tleg_core.comparison.plan import FamilyMember, Plan, Stage
from tleg_core.comparison.rows import Method, Row
from tleg_core.comparison.scores import Key, Scores
from tleg_core.comparison.statistics import Estimate, Standing, Verdict, estimate, paired_difference
from tleg_core.description import Method as PoolMethod
from tleg_core.pool_config import StitchInit


def method_claims(config: ComparisonConfig, plan: Plan, scores: Scores, num_classes: int) -> list[Claim]:
    """Return each of these claims that the comparison has rows for."""
    pools = [row for row in config.rows if row.pool is not None and row.pool.stitched]
    found: list[Claim] = []
    for row in pools:
        if row.pool is not None and row.pool.pool.method is PoolMethod.POOL and row.anchors_of is None:
            for other in pools:
                if other.pool is not None and other.pool.pool.method is PoolMethod.SN_NET and other.anchors_of is None:
                    found += _against_sn_net(plan, row.name, other.name)
    for other in pools:
        found += _learned_stitches(config, plan, scores, other)
    for row in pools:
        found += _untrained_stitches(config, plan, scores, row, num_classes)
    for row in config.rows:
        if row.method in (Method.POOL, Method.INHERITANCE):
            found += _ahead_of_scratch(config, scores, row)
    return found


def _against_sn_net(plan: Plan, pool: str, other: str) -> Iterator[Claim]:
    """Yield the claims that are arithmetic: they follow from which anchors the file gives each."""
    own, theirs = plan.stored_params[pool], plan.stored_params[other]
    yield Claim(
        text="Learngene Pool stores less than SN-Net",
        row=pool,
        verdict=Verdict.HELD if own < theirs else Verdict.DID_NOT_HOLD,
        details=f"{own:,} parameters, {theirs:,} of {other}: {own / theirs:.2f} times as many",
    )
    smallest = [min(_whole(plan, row), key=lambda member: member.macs) for row in (pool, other)]
    held = smallest[0].macs < smallest[1].macs and smallest[0].params < smallest[1].params
    words = [f"{member.macs / 1e6:.2f}M MACs and {member.params:,} parameters" for member in smallest]
    yield Claim(
        text="Learngene Pool reaches smaller networks than SN-Net",
        row=pool,
        verdict=Verdict.HELD if held else Verdict.DID_NOT_HOLD,
        details=f"the smallest member has {words[0]}, that of {other} {words[1]}",
    )


def _learned_stitches(config: ComparisonConfig, plan: Plan, scores: Scores, other: Row) -> Iterator[Claim]:
    """Yield the claims about a pool with learned stitches beside the same anchors with those of least squares."""
    learned = other.anchors_of
    if learned is None or learned.pool is None or learned.pool.stitching.init is not StitchInit.LEARNED:
        return
    if learned.name not in {row.name for row in config.rows}:
        return
    for stage, when in ((Stage.STITCHED, "before the joint training"), (Stage.WHOLE, "after the joint training")):
        own_paths, their_paths = (_by_path(plan, scores, row, stage) for row in (learned.name, other.name))
        both = [path for path in own_paths if path in their_paths]  # `stitching` may give them others, too
        own, theirs = (_means([paths[path] for path in both]) for paths in (own_paths, their_paths))
        difference = paired_difference(own, theirs)
        if difference is None:
            continue
        ahead = sum(_mean(own_paths[path]) > _mean(their_paths[path]) for path in both)
        yield Claim(
            text=f"learned stitches are better than least squares, {when}: mean over all stitched paths",
            row=learned.name,
            verdict=_verdict(difference),
            details=f"{_words(difference)} points beside {other.name} ({_mean(own):.1f} and {_mean(theirs):.1f}); ahead on "
            f"{ahead} of {len(both)} paths{'' if len(both) == len(own_paths) == len(their_paths) else ' that both have'}",
            data=(config.data.name,),
        )


def _untrained_stitches(config: ComparisonConfig, plan: Plan, scores: Scores, row: Row, num_classes: int) -> Iterator[Claim]:
    """Yield what stitches are worth before anything has trained them, and what the joint training adds."""
    before, after = (_means(_by_path(plan, scores, row.name, stage).values()) for stage in (Stage.STITCHED, Stage.WHOLE))
    if not before:
        return
    chance = 100 / num_classes
    over = estimate([value - chance for value in before.values()])
    yield Claim(
        text="a stitched network works before any training of its stitches: mean over all stitched paths ahead of chance",
        row=row.name,
        verdict=_verdict(over),
        details=f"{_words(over)} points over {chance:.1f} %",
        data=(config.data.name,),
    )
    gain = paired_difference(after, before)
    if gain is not None:
        yield Claim(
            text="the joint training makes stitched networks better: mean over all stitched paths",
            row=row.name,
            verdict=_verdict(gain),
            details=f"{_words(gain)} points",
            data=(config.data.name,),
        )


def _ahead_of_scratch(config: ComparisonConfig, scores: Scores, row: Row) -> Iterator[Claim]:
    scratch = next((other.name for other in config.rows if other.method is Method.SCRATCH), None)
    if scratch is None:
        return
    like = "at equal steps and like MACs" if row.pool is not None else "at equal steps"
    for source in (config.data, *config.transfer):
        standings: Counter[Standing] = Counter()
        paired: Counter[Standing] = Counter()
        words = []
        for length in lengths_of(config, source):
            for depth in depths_with(scores, row.name, source.name, length):
                keys = [Key(row=name, depth=depth, data=source.name, epochs=length) for name in (row.name, scratch)]
                one, two = (scores.estimate(key) for key in keys)
                difference = paired_difference(*(scores.by_seed(key) for key in keys))
                if one is None or two is None or difference is None:
                    continue
                standings[one.beside(two)] += 1
                paired[difference.beside_zero()] += 1
                words.append(f"d{depth} after {amount(length, 'epoch')} {_words(difference)}")
        if standings:
            yield Claim(
                text=f"ahead of scratch {like} on {source.name}, at every depth and length, with intervals that do not overlap",
                row=row.name,
                verdict=verdict_on_standings(standings),
                details=f"by intervals {counted(standings)}; by paired differences {counted(paired)}; {', '.join(words)}",
                data=(source.name,),
            )


def _whole(plan: Plan, row: str) -> list[FamilyMember]:
    return [member for member in plan.members if member.row == row and member.stage is Stage.WHOLE]


def _by_path(plan: Plan, scores: Scores, row: str, stage: Stage) -> dict[str, Mapping[int, float]]:
    """Return the accuracy by seed of each member with a stitch in it, by its path: whole anchors are left out."""
    own = [member for member in plan.members if (member.row, member.stage) == (row, stage)]
    paths = [(member.member.path, scores.of_member(member)) for member in own]
    return {str(path): by_seed for path, by_seed in paths if path is not None and path.joins}


def _means(found: Collection[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean accuracy over paths, by seed; of the seeds that have all of them."""
    seeds = set[int]().union(*found)
    return {seed: fmean(values[seed] for values in found) for seed in sorted(seeds) if all(seed in values for values in found)}


def _mean(by_seed: Mapping[int, float]) -> float:
    return fmean(by_seed.values()) if by_seed else 0.0


def _verdict(difference: Estimate) -> Verdict:
    """Return held where the interval is above zero, not held where it is below."""
    standing = difference.beside_zero()
    if standing is Standing.AHEAD:
        return Verdict.HELD
    return Verdict.DID_NOT_HOLD if standing is Standing.BEHIND else Verdict.UNDECIDED


def _words(difference: Estimate) -> str:
    return f"{difference.mean:+.1f} ± {difference.half:.1f}"
