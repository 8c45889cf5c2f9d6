"""The claims that a comparison tests, each with a verdict that follows from the numbers alone.

Verdicts are strict: a claim about all depths holds where it holds at every one, and does not hold where it fails at one; what
an interval leaves open is undecided. "About" a number is at least nine tenths of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tleg_core.amount import amount
from tleg_core.budget import WELL_MEASURED
from tleg_core.comparison.config import ComparisonConfig, DataSource
from tleg_core.comparison.image_store import Parts
from tleg_core.comparison.plan import Plan
from tleg_core.comparison.rows import CHEAP, Method, Row
from tleg_core.comparison.scores import Key, Scores
from tleg_core.comparison.statistics import Standing, Verdict, overall, paired_difference
from tleg_core.cost import cost
from tleg_core.learngene_config import DepthRule
from tleg_core.vit import VitConfig

STORED_RATIO = 19.0
"""What TLEG's abstract claims of the parameters stored for a family."""

PRETRAINING_RATIO = 5.0
"""… and of the pre-training."""

_ABOUT = 0.9
_ELASTIC_FROM = 4  # the smallest depth of the target "each depth from 4 to 12 within 2 points"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim about one row, and what the numbers say.

    Args:
        text: The claim.
        row: The learngene's row.
        verdict: Held, did not hold, or undecided.
        details: The numbers that it follows from, in words.
        data: The data sets on whose test images these were measured; none where they are arithmetic.
    """

    text: str
    row: str
    verdict: Verdict
    details: str
    data: tuple[str, ...] = ()

    def few_images(self, parts: Mapping[str, Parts]) -> int | None:
        """Return the fewest test images that it was measured on, where these are too few to carry a verdict."""
        fewest = min((parts[name].test.images for name in self.data), default=WELL_MEASURED)
        return fewest if fewest < WELL_MEASURED else None


def claims_of(config: ComparisonConfig, plan: Plan, scores: Scores, vit: VitConfig) -> list[Claim]:
    """Return each claim about each learngene's row that the comparison has numbers for."""
    learngenes = [row for row in config.rows if row.learngene is not None]
    claims = [claim for row in learngenes for claim in _half_the_cost(config, scores, row)]
    claims += [claim for row in learngenes for claim in _ahead(config, scores, row)]
    claims += [claim for row in learngenes for claim in _family(config, plan, scores, row, vit)]
    claims += [claim for row in learngenes for claim in _no_fine_tuning(config, scores, row)]
    order = list(dict.fromkeys(claim.text for claim in claims))
    return sorted(claims, key=lambda claim: order.index(claim.text))


def lengths_of(config: ComparisonConfig, source: DataSource) -> tuple[int, ...]:
    """Return the lengths of the fine-tunes on one data set."""
    return source.epochs or config.fine_tuning.epochs


def depths_with(scores: Scores, row: str, data: str, epochs: int) -> list[int]:
    """Return the depths at which a row has an accuracy on a data set after so many epochs."""
    return sorted({key.depth for key in scores.keys if (key.row, key.data, key.epochs) == (row, data, epochs)})


def _half_the_cost(config: ComparisonConfig, scores: Scores, row: Row) -> Iterator[Claim]:
    scratch = next((other.name for other in config.rows if other.method is Method.SCRATCH), None)
    if scratch is None:
        return
    for source in (config.data, *config.transfer):
        lengths = lengths_of(config, source)
        half = max((length for length in lengths if 2 * length <= lengths[-1]), default=None)
        if half is None:
            continue
        verdicts, words = [], []
        for depth in depths_with(scores, row.name, source.name, half):
            own = scores.by_seed(Key(row=row.name, depth=depth, data=source.name, epochs=half))
            whole = scores.by_seed(Key(row=scratch, depth=depth, data=source.name, epochs=lengths[-1]))
            difference = paired_difference(own, whole)
            if difference is not None:
                verdicts.append(difference.at_least(-config.comparable_points))
                words.append(f"d{depth} {difference.mean:+.1f} ± {difference.half:.1f}")
        if verdicts:
            yield Claim(
                text=f"comparable to scratch at half the cost of fine-tuning or less, on {source.name}: after "
                f"{amount(half, 'epoch')} at most {config.comparable_points:g} points behind scratch after "
                f"{amount(lengths[-1], 'epoch')}",
                row=row.name,
                verdict=overall(verdicts),
                details="; ".join(words),
                data=(source.name,),
            )


def _ahead(config: ComparisonConfig, scores: Scores, row: Row) -> Iterator[Claim]:
    cheap = [other.name for other in config.rows if other.method in CHEAP]
    groups: list[tuple[str, Sequence[DataSource]]] = [("the training set", (config.data,)), ("transfer", config.transfer)]
    for place, sources in groups:
        standings: Counter[Standing] = Counter()
        paired: Counter[Standing] = Counter()
        behind: list[str] = []
        for source in sources:
            for length in lengths_of(config, source):
                for depth in depths_with(scores, row.name, source.name, length):
                    key = Key(row=row.name, depth=depth, data=source.name, epochs=length)
                    for name in cheap:
                        other = Key(row=name, depth=depth, data=source.name, epochs=length)
                        one, two = scores.estimate(key), scores.estimate(other)
                        difference = paired_difference(scores.by_seed(key), scores.by_seed(other))
                        if one is None or two is None or difference is None:
                            continue
                        standing = one.beside(two)
                        standings[standing] += 1
                        paired[difference.beside_zero()] += 1
                        if standing is Standing.BEHIND:
                            behind.append(f"{name} at d{depth}, {amount(length, 'epoch')} on {source.name}")
        if standings:
            details = f"by intervals {counted(standings)}; by paired differences {counted(paired)}"
            if behind:
                details += f"; behind {', '.join(behind[:6])}{' and others' if len(behind) > 6 else ''}"
            yield Claim(
                text=f"ahead of {', '.join(cheap)} on {place}, at every depth and length, with intervals that do not overlap",
                row=row.name,
                verdict=verdict_on_standings(standings),
                details=details,
                data=tuple(source.name for source in sources),
            )


def verdict_on_standings(standings: Counter[Standing]) -> Verdict:
    """Return held where all are ahead, not held where one is behind, else undecided."""
    if standings[Standing.BEHIND]:
        return Verdict.DID_NOT_HOLD
    return Verdict.UNDECIDED if standings[Standing.UNDECIDED] else Verdict.HELD


def counted(standings: Counter[Standing]) -> str:
    """Return how many there are of each, in words."""
    return ", ".join(f"{standing} {standings[standing]}" for standing in Standing) + f" of {standings.total()}"


def _family(config: ComparisonConfig, plan: Plan, scores: Scores, row: Row, vit: VitConfig) -> Iterator[Claim]:
    """Yield the claims that are arithmetic: about every member from the smallest depth to the largest."""
    assert row.learngene is not None  # noqa: S101 (asked for learngenes only)
    low = max(config.depths[0], row.learngene.schedule.build().min_depth)
    members = range(low, config.depths[-1] + 1)
    stored = sum(cost(vit, depth).params for depth in members)
    ratio = stored / plan.stored_params[row.name]
    yield Claim(
        text=f"about {STORED_RATIO:g} times fewer stored parameters for a family",
        row=row.name,
        verdict=Verdict.HELD if ratio >= _ABOUT * STORED_RATIO else Verdict.DID_NOT_HOLD,
        details=f"{ratio:.1f} times: the {len(members)} networks of depths {low} to {members[-1]} have {stored:,} parameters, "
        f"the learngene {plan.stored_params[row.name]:,}",
    )
    seed = config.seeds[0]
    images = scores.pretraining_images(row.name, config.depths, seed)
    own = scores.pretraining_flops(row.name, config.depths, seed)
    taught = config.ancestry.depth if config.base.distillation.alpha else None
    asked = 0 if taught is None else 2 * cost(vit, taught).macs  # of the ancestry network, for each image
    alone = sum((6 * cost(vit, depth).macs + asked) * images for depth in members)
    if own:
        yield Claim(
            text=f"about {PRETRAINING_RATIO:g} times less pre-training for a family",
            row=row.name,
            verdict=Verdict.HELD if alone / own >= _ABOUT * PRETRAINING_RATIO else Verdict.DID_NOT_HOLD,
            details=f"{alone / own:.1f} times: {alone:.3g} FLOPs for the {len(members)} networks, each as long on the same "
            f"images, {own:.3g} for the learngene",
        )


def _no_fine_tuning(config: ComparisonConfig, scores: Scores, row: Row) -> Iterator[Claim]:
    assert row.learngene is not None  # noqa: S101 (asked for learngenes only)
    alone = next((other.name for other in config.rows if other.method is Method.ALONE), None)
    if alone is None:
        return
    verdicts, words = [], []
    for depth in depths_with(scores, row.name, config.data.name, 0):
        if depth < _ELASTIC_FROM:
            continue
        key = Key(row=row.name, depth=depth, data=config.data.name, epochs=0)
        other = Key(row=alone, depth=depth, data=config.data.name, epochs=0)
        difference = paired_difference(scores.by_seed(key), scores.by_seed(other))
        if difference is not None:
            verdicts.append(difference.at_least(-config.elastic_points))
            words.append(f"d{depth} {difference.mean:+.1f} ± {difference.half:.1f}")
    if verdicts:
        trained = "elastic" if row.learngene.depths.rule is not DepthRule.FIXED else "trained at one depth, for comparison"
        yield Claim(
            text=f"needs no fine-tuning: each depth from {_ELASTIC_FROM} within {config.elastic_points:g} points of a network "
            f"trained alone as long ({trained})",
            row=row.name,
            verdict=overall(verdicts),
            details="; ".join(words),
            data=(config.data.name,),
        )
