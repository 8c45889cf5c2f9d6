"""The report of a comparison: one table (Markdown and CSV), a text with a verdict on each claim, and plots.

It can be written at any time; what is not done yet is left out, and counted.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tleg_core.amount import amount
from tleg_core.atomic_file import atomic_file
from tleg_core.budget import WELL_MEASURED
from tleg_core.comparison.claims import Claim, claims_of, lengths_of
from tleg_core.comparison.config import ComparisonConfig, DataSource
from tleg_core.comparison.families import comparable_table, families_csv, family_table, member_table, members_csv
from tleg_core.comparison.image_store import Parts
from tleg_core.comparison.method_claims import method_claims
from tleg_core.comparison.plan import Plan, depths_of_row
from tleg_core.comparison.plots import plot_names, write_plots
from tleg_core.comparison.results import Results
from tleg_core.comparison.rows import CHEAP, Method, Row
from tleg_core.comparison.scores import Key, Scores
from tleg_core.comparison.setting import setting
from tleg_core.comparison.statistics import Estimate, paired_difference

_DASH = "-"
_FEW_IMAGES = (
    "Verdicts follow from intervals over seeds, which leave out that the test images are a draw too. Where there are fewer "
    f"than {WELL_MEASURED:,} of them, their number stands beside the verdict, which says little of other images."
)


def write_report(
    config: ComparisonConfig,
    parts: Mapping[str, Parts],
    plan: Plan,
    results: Results,
    folder: Path,
    *,
    command: str,
) -> list[Claim]:
    """Write tables as Markdown and CSV, `report.md`, and the plots into a folder `plots`; return the claims.

    Args:
        config: What was compared.
        parts: The data sets by name.
        plan: The cells.
        results: What is done.
        folder: Where to write.
        command: The command line, for the report.
    """
    scores = Scores(plan, results)
    vit = config.base.network.vit(parts[config.data.name].train.classes)
    claims = claims_of(config, plan, scores, vit) + method_claims(config, plan, scores, vit.num_classes)
    texts = {
        "table.csv": _table_csv(config, plan, scores),
        "claims.csv": _claims_csv(claims, parts),
        "differences.csv": _differences_csv(config, scores),
        "members.csv": members_csv(plan, scores),
        "families.csv": families_csv(config, plan),
        "table.md": "\n".join([*_table(config, scores), "", *_costs(config, plan, scores)]) + "\n",
        "report.md": "\n".join(_report(config, parts, plan, scores, claims, command=command)) + "\n",
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as file:
            file.write(text.encode())
    write_plots(config, plan, scores, folder / "plots")
    return claims


def _report(
    config: ComparisonConfig,
    parts: Mapping[str, Parts],
    plan: Plan,
    scores: Scores,
    claims: Sequence[Claim],
    *,
    command: str,
) -> list[str]:
    lines = [f"# {config.name}: initialisations compared", "", f"    {command}", ""]
    if scores.done < scores.total:
        lines += [f"**Not finished: {scores.done} of {scores.total} units are done; the numbers are of these.**", ""]
    lines += setting(config, parts, plan)
    lines += ["", "## Claims", "", *_claims(claims, parts)]
    lines += [
        "",
        "## Accuracy",
        "",
        "Top-1 on the test images in %, mean over seeds ± half the 95 % interval (Student's t).",
        "",
    ]
    lines += _table(config, scores)
    lines += comparable_table(config)
    lines += ["", "## Families", "", *family_table(config, plan, scores), "", "![members](plots/members.png)"]
    lines += ["", "## Cost", "", *_costs(config, plan, scores)]
    lines += _targets(config, scores)
    lines += ["", "## Differences to the cheap initialisations", ""]
    lines += [
        "In points, paired by seed, ± half the 95 % interval of the difference; then by the rows' own intervals: ahead or "
        "behind where they do not overlap, else undecided.",
        "",
    ]
    lines += _differences(config, scores)
    lines += _rates(config, scores)
    lines += ["", "## Plots", ""]
    lines += [f"![{name}](plots/{name}.png)" for name in plot_names(config) if name != "members"]
    return [*lines, "", "## Members", "", *member_table(plan, scores)]


def _claims(claims: Sequence[Claim], parts: Mapping[str, Parts]) -> list[str]:
    """Return a line for each claim; a verdict that rests on few test images says so."""
    lines, few_at_all = ["| claim | row | verdict | numbers |", "|---|---|---|---|"], False
    for claim in claims:
        few = claim.few_images(parts)
        few_at_all = few_at_all or few is not None
        verdict = f"**{claim.verdict}**" if few is None else f"**{claim.verdict}**, on {few:,} images"
        lines.append(f"| {claim.text} | {claim.row} | {verdict} | {claim.details} |")
    return [_FEW_IMAGES, "", *lines] if few_at_all else lines


def _table(config: ComparisonConfig, scores: Scores) -> list[str]:
    """Return the one table: a line for each data set, length and row, a column for each depth."""
    lines = [
        f"| data | epochs | row | {' | '.join(f'd{depth}' for depth in config.depths)} |",
        f"|---|---:|---|{'---:|' * len(config.depths)}",
    ]
    for source in (config.data, *config.transfer):
        for epochs in ((0,) if source is config.data else ()) + lengths_of(config, source):
            for row in config.rows:
                keys = [Key(row=row.name, depth=depth, data=source.name, epochs=epochs) for depth in config.depths]
                cells = [_words(scores.estimate(key)) for key in keys]
                if set(cells) != {_DASH}:
                    lines.append(f"| {source.name} | {epochs} | {row.name} | {' | '.join(cells)} |")
    return lines


def _costs(config: ComparisonConfig, plan: Plan, scores: Scores) -> list[str]:
    """Return what each row keeps and costs for all compared depths together."""
    lines = [
        f"For all {len(config.depths)} depths together, one seed; fine-tuning is the longest, on {config.data.name}."
        + ("" if config.ancestry.depth is None else " Without the ancestry network, whose training stands with the families."),
        "",
        "| row | depths | parameters stored | training beforehand, FLOPs | images | fine-tuning, FLOPs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    longest = lengths_of(config, config.data)[-1]
    for row in config.rows:
        depths = depths_of_row(row, config.depths)
        before = scores.pretraining_flops(row.name, depths, config.seeds[0])
        images = scores.pretraining_images(row.name, depths, config.seeds[0])
        tuned = sum(
            scores.fine_tuning_flops(Key(row=row.name, depth=depth, data=config.data.name, epochs=longest)) for depth in depths
        )
        stored = plan.stored_params[row.name]
        lines.append(f"| {row.name} | {len(depths)} | {stored:,} | {before:.3g} | {images:,} | {tuned:.3g} |")
    return lines


def _targets(config: ComparisonConfig, scores: Scores) -> list[str]:
    """Return the epochs to each target accuracy, from the curves of the longest fine-tunes."""
    lines: list[str] = []
    for source in (config.data, *config.transfer):
        longest, depths = lengths_of(config, source)[-1], source.depths or config.depths
        for target in source.targets:
            lines += [
                "",
                f"### Epochs to {target:.0%} on {source.name}",
                "",
                f"Mean over the seeds that got there within {amount(longest, 'epoch')}, and how many did where not all.",
                "",
                f"| row | {' | '.join(f'd{depth}' for depth in depths)} |",
                f"|---|{'---:|' * len(depths)}",
            ]
            for row in config.rows:
                cells = []
                for depth in depths:
                    key = Key(row=row.name, depth=depth, data=source.name, epochs=longest)
                    reached, runs = scores.epochs_to(key, target)
                    share = "" if len(reached) == runs else f" ({len(reached)} of {runs})"
                    cells.append(f"{sum(reached) / len(reached):.1f}{share}" if reached else "not reached" if runs else _DASH)
                lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def _compared(config: ComparisonConfig) -> Iterable[tuple[Row, Row, DataSource, int]]:
    """Yield each learngene's row with each cheap one, on each data set, at each length."""
    cheap = [row for row in config.rows if row.method in CHEAP]
    for row in config.rows:
        if row.method not in (*CHEAP, Method.ALONE):
            for source in (config.data, *config.transfer):
                for length in lengths_of(config, source):
                    for other in cheap:
                        yield row, other, source, length


def _differences(config: ComparisonConfig, scores: Scores) -> list[str]:
    lines = [
        f"| row | beside | data | epochs | {' | '.join(f'd{depth}' for depth in config.depths)} |",
        f"|---|---|---|---:|{'---|' * len(config.depths)}",
    ]
    for row, other, source, length in _compared(config):
        cells = []
        for depth in config.depths:
            key = Key(row=row.name, depth=depth, data=source.name, epochs=length)
            beside = Key(row=other.name, depth=depth, data=source.name, epochs=length)
            difference = paired_difference(scores.by_seed(key), scores.by_seed(beside))
            one, two = scores.estimate(key), scores.estimate(beside)
            if difference is None or one is None or two is None:
                cells.append(_DASH)
            else:
                cells.append(f"{_words(difference, sign='+')} {one.beside(two)}")
        if set(cells) != {_DASH}:
            lines.append(f"| {row.name} | {other.name} | {source.name} | {length} | {' | '.join(cells)} |")
    return lines


def _rates(config: ComparisonConfig, scores: Scores) -> list[str]:
    """Return the learning rate that each row was given on each data set, where there was a choice."""
    if len(config.fine_tuning.lrs) == 1:
        return []
    sources = (config.data, *config.transfer)
    lines = [
        "",
        "## Learning rates",
        "",
        f"| row | {' | '.join(source.name for source in sources)} |",
        "|---|" + "---:|" * len(sources),
    ]
    for row in config.rows:
        cells = []
        for source in sources:
            depth = depths_of_row(row, source.depths or config.depths)[-1:]
            length = lengths_of(config, source)[-1]
            lr = scores.lr(Key(row=row.name, depth=depth[0], data=source.name, epochs=length)) if depth else None
            cells.append(_DASH if lr is None else f"{lr:g}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    diverged = scores.diverged()
    return lines + (["", f"Diverged, and counted as 0 %: {', '.join(diverged)}."] if diverged else [])


_COLUMNS = (
    *("data", "epochs", "row", "depth", "seeds", "mean", "half_95", "low_95", "high_95", "by_seed", "lr"),
    *("fine_tuning_flops", "pretraining_flops_all_depths", "stored_params_all_depths"),
)


def _table_csv(config: ComparisonConfig, plan: Plan, scores: Scores) -> str:
    """Return the one table with a line for each accuracy, and what it cost."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    before = {row.name: scores.pretraining_flops(row.name, config.depths, config.seeds[0]) for row in config.rows}
    for key in scores.keys:
        found = scores.estimate(key)
        if found is not None:
            numbers = [_number(value) for value in (found.mean, found.half, found.low, found.high)]
            seeds = " ".join(f"{seed}:{value:.4f}" for seed, value in scores.by_seed(key).items())
            costs = [scores.fine_tuning_flops(key), before[key.row], plan.stored_params[key.row]]
            writer.writerow([key.data, key.epochs, key.row, key.depth, found.count, *numbers, seeds, scores.lr(key), *costs])
    return text.getvalue()


def _differences_csv(config: ComparisonConfig, scores: Scores) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "beside", "data", "epochs", "depth", "seeds", "mean", "half_95", "by_intervals", "paired"])
    for row, other, source, length in _compared(config):
        for depth in config.depths:
            key = Key(row=row.name, depth=depth, data=source.name, epochs=length)
            beside = Key(row=other.name, depth=depth, data=source.name, epochs=length)
            difference = paired_difference(scores.by_seed(key), scores.by_seed(beside))
            one, two = scores.estimate(key), scores.estimate(beside)
            if difference is not None and one is not None and two is not None:
                numbers = [difference.count, _number(difference.mean), _number(difference.half)]
                standings = [one.beside(two), difference.beside_zero()]
                writer.writerow([row.name, other.name, source.name, length, depth, *numbers, *standings])
    return text.getvalue()


def _claims_csv(claims: Sequence[Claim], parts: Mapping[str, Parts]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["claim", "row", "verdict", "details", "few_test_images"])
    writer.writerows([claim.text, claim.row, claim.verdict, claim.details, claim.few_images(parts) or ""] for claim in claims)
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _words(value: Estimate | None, sign: str = "") -> str:
    if value is None:
        return _DASH
    spread = f" ± {value.half:.1f}" if math.isfinite(value.half) else ""
    return f"{value.mean:{sign}.1f}{spread}"
