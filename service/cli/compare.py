"""`tleg compare`: initialisations against each other, at equal data, steps and seeds, as a table, a report and plots."""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from service.cli.console import compact, err, hours_minutes_seconds, out, print_facts, print_table, printable
from service.cli.training_options import DeviceOption, command_line, resolve_device
from tleg_core.amount import amount
from tleg_core.budget import WELL_MEASURED
from tleg_core.comparison.claims import Claim
from tleg_core.comparison.config import ComparisonConfig, DataSource
from tleg_core.comparison.image_store import ImageStore, Parts, check_paths
from tleg_core.comparison.plan import Plan
from tleg_core.comparison.planner import make_plan
from tleg_core.comparison.results import RESULTS_NAME, Result, Results
from tleg_core.comparison.statistics import Verdict
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.errors import ConfigError

_BAR_WIDTH = 20  # columns: what stands beside it leaves a unit's name some 30 of 80
_SHIPPED = Path(__file__).parents[2] / "tleg_core" / "comparisons"


def compare(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a comparison that ships with tleg.")],
    *,
    folder: Annotated[Path, typer.Option("--out", help="The folder of results, trained files, tables and plots.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, of one thread each; on a GPU there is one.")] = 2,
    seeds: Annotated[str | None, typer.Option(help="Seeds such as 0,1,2, instead of the file's.")] = None,
    only: Annotated[str | None, typer.Option(help="Only these rows, such as scratch,tleg-elastic.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing: report what is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing: read the data sets, list the units and what they cost.")
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Compare initialisations; the same command goes on where a stopped one was."""
    text = _config_text(config)
    chosen = ComparisonConfig.from_toml(text).with_choice(seeds=_whole_numbers(seeds), rows=_names(only))
    ancestry = None if chosen.ancestry.model is None else Path(chosen.ancestry.model)
    sources = (chosen.data, *chosen.transfer)
    _check_paths(ancestry, sources)
    folder.mkdir(parents=True, exist_ok=True)
    store = ImageStore(folder / "data", lambda path, part: err.print(printable(f"reading {path} ({part})"), soft_wrap=True))
    parts = {source.name: store.add(source, chosen.base.network.img_size) for source in sources}
    plan = make_plan(chosen, parts, None if ancestry is None else sha256(ancestry.read_bytes()).hexdigest())
    results = Results(folder / RESULTS_NAME)
    if dry_run:
        _show(plan, results)
        _show_rows(chosen, plan)
        return
    from tleg_core.comparison.report import write_report  # before the runs: what it needs must be there

    if not report_only:
        from tleg_core.comparison.runs import run_plan

        device = "cpu" if device == "cpu" else str(resolve_device(device))  # without torch, where the CPU is asked for
        with _locked(folder):
            results = Results(folder / RESULTS_NAME)  # again: another comparison may have ended since, and added to them
            (folder / "config.toml").write_text(text)
            count = workers if device == "cpu" else 1
            with _Bar(plan, results) as bar:
                run_plan(plan, results, folder, workers=count, device=device, ancestry=ancestry, progress=bar)
    _show_claims(write_report(chosen, parts, plan, results, folder, command=command_line()), parts)
    for path in ("report.md", "table.csv", "plots"):
        out.print(printable(str(folder / path)), soft_wrap=True)


def _config_text(name: str) -> str:
    path = Path(name)
    if not path.suffix and (_SHIPPED / f"{name}.toml").is_file():
        path = _SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in _SHIPPED.glob("*.toml")))
        raise ConfigError("config", f"there is no file {name}; shipped are {shipped}")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ConfigError("config", f"{name} is no text") from error


def _whole_numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError("seeds", f"must be like 0,1,2, not {text!r}") from None


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(","))


def _check_paths(ancestry: Path | None, sources: Sequence[DataSource]) -> None:
    """Raise `ConfigError` where there is nothing at a path, before anything is decoded, which takes a while."""
    if ancestry is not None and not ancestry.is_file():
        raise ConfigError("ancestry.model", f"there is no file {ancestry}")
    for source in sources:
        check_paths(source)


def _show(plan: Plan, results: Results) -> None:
    """Print the units, and what they cost in all."""
    rows = [
        (unit.label, str(unit.kind), f"{unit.images:,}", compact(unit.flops), "done" if name in results else "")
        for name, unit in plan.units.items()
    ]
    print_table(("unit", "kind", "images", "FLOPs", ""), rows)
    kinds = {kind: [unit for unit in plan.units.values() if unit.kind is kind] for kind in UnitKind}
    print_facts(
        (
            f"{kind} units",
            f"{len(units)}, {sum(unit.images for unit in units):,} images, {sum(u.flops for u in units):.3g} FLOPs",
        )
        for kind, units in kinds.items()
        if units
    )
    left = [unit for name, unit in plan.units.items() if name not in results]
    print_facts(
        [
            ("in all", f"{amount(len(plan.units), 'unit')}, {plan.images:,} training images, {plan.flops:.3g} FLOPs"),
            (
                "left",
                f"{amount(len(left), 'unit')}, {sum(u.images for u in left):,} images, {sum(u.flops for u in left):.3g} FLOPs",
            ),
        ]
    )


def _show_rows(config: ComparisonConfig, plan: Plan) -> None:
    """Print the parameters stored of each row's family, and the FLOPs that making it costs for one seed."""
    rows = []
    for row in config.rows:
        making = plan.making_flops(row.name, row.depths(config.depths), config.seeds[0])
        ancestry = plan.ancestry_flops(row.name, config.seeds[0])
        members = len({member.member for member in plan.members if member.row == row.name})
        costs = (making, ancestry, making + ancestry)
        rows.append((row.name, str(members), f"{plan.stored_params[row.name]:,}", *(f"{flops:.3g}" for flops in costs)))
    print_table(("row", "members", "stored", "making", "ancestry", "together"), rows)


def _show_claims(claims: Sequence[Claim], parts: Mapping[str, Parts]) -> None:
    """Print how many claims there are of each verdict, and how many of them rest on few test images."""
    verdicts = Counter(claim.verdict for claim in claims)
    out.print(f"claims: {', '.join(f'{verdicts[verdict]} {verdict}' for verdict in Verdict)}")
    few = [images for claim in claims if (images := claim.few_images(parts)) is not None]
    if few:
        out.print(f"{len(few)} of them rest on fewer than {WELL_MEASURED:,} test images ({min(few):,}), which decide little")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for the block; raises `ConfigError` where another comparison does."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("out", f"another `tleg compare` is at work in {folder}") from None
        yield


class _Bar:
    """Shows how far the runs are: a bar where there is a terminal, else a line a unit. The time left follows from the FLOPs.

    The unit's name stands last and is cut: bar, count and times keep their places.
    """

    def __init__(self, plan: Plan, results: Results) -> None:
        self._units = len(plan.units)
        done = results.done(plan.units)
        self._count = len(done)
        self._left = sum(unit.flops for name, unit in plan.units.items() if name not in done)
        self._flops = 0
        self._start_s = time.monotonic()
        columns = (
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True, min_width=2 * len(str(self._units)) + 1)),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}", table_column=Column(no_wrap=True, min_width=len("12:34:56 left"))),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        self._progress = Progress(*columns, console=err, disable=not err.is_terminal, expand=True)
        count = f"{self._count}/{self._units}"
        self._task: TaskID = self._progress.add_task("", total=max(self._left, 1), count=count, eta="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, unit: Unit) -> None:
        """Name the unit."""
        self._progress.update(self._task, description=printable(unit.label))

    def done(self, unit: Unit, result: Result) -> None:
        """Move on."""
        self._count += 1
        self._flops += unit.flops
        elapsed_s = time.monotonic() - self._start_s
        left_s = elapsed_s * (self._left - self._flops) / self._flops if self._flops else None
        eta = "" if left_s is None else f"{hours_minutes_seconds(left_s)} left"
        self._progress.update(self._task, completed=self._flops, count=f"{self._count}/{self._units}", eta=eta)
        if not err.is_terminal:
            top1 = f", top-1 {result['top1']:.2%}" if "top1" in result else ""
            err.print(f"{self._count}/{self._units} {unit.label}{top1}, {result['seconds']} s; {eta}", soft_wrap=True)
