"""A whole comparison on tiny images: every row, killed and resumed, with the same results however it is run."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from service.cli import compare
from service.cli.main import app
from tleg_core.comparison.config import ComparisonConfig
from tleg_core.comparison.execution import Bench
from tleg_core.comparison.image_store import ImageStore
from tleg_core.comparison.plan import Plan
from tleg_core.comparison.planner import make_plan
from tleg_core.comparison.results import RESULTS_NAME, Results
from tleg_core.comparison.unit import UnitKind
from tleg_core.errors import TlegError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.training.ancestry import AncestryCard, AncestryModel, Fit
from tleg_core.training.architecture import Architecture
from tleg_core.training.checkpoint import read_tensors

pytestmark = pytest.mark.timeout(900)  # processes that load torch, on machines that others use too

CONFIG = """
name = "tiny"
depths = [2, 4]
seeds = [0, 1]

[data]
name = "bars"
depths = [2]
train = "TRAIN"
test = "TEST"
targets = [0.1, 1.0]

[[transfer]]
name = "fewer-bars"
train = "TRAIN"
test = "TEST"
limit = 32
depths = [4]
epochs = [2]

[network]
embed_dim = 16
num_heads = 2
img_size = 16
patch_size = 8

[wide_network]
embed_dim = 32
num_heads = 4

[training]
epochs = 2
batch_size = 16
precision = "float32"

[distillation]
alpha = 0.0

[fine_tuning]
epochs = [1, 2]
lrs = [1e-3, 3e-3]
batch_size = 16

[learngenes.tleg.depths]
train = 4

[learngenes.tleg-elastic.depths]
rule = "uniform"
train = 4
train_min = 2

[learngenes.stage-wise.schedule]
method = "stagewise"
stages = [1, 1, 1]

[learngenes.stage-wise.depths]
train = 4
offer_min = 3
"""


@pytest.fixture(scope="module")
def config_file(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of every row on 48 images, 30 of which (shifted by some pixels) are the test part."""
    root = tmp_path_factory.mktemp("comparison")
    moved = ImageSet(
        name="moved", images=np.roll(bars.images, 3, axis=2), labels=bars.labels, class_names=bars.class_names
    ).head(30)
    save_parquet(bars, root / "train.parquet")
    save_parquet(moved, root / "test.parquet")
    text = CONFIG.replace("TRAIN", str(root / "train.parquet")).replace("TEST", str(root / "test.parquet"))
    (root / "tiny.toml").write_text(text)
    return root / "tiny.toml"


def invoke(*words: object) -> Result:
    """Run `tleg compare` in this process; a traceback other than ours fails the test."""
    result = CliRunner().invoke(app, ["compare", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit | TlegError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the comparison, done by two workers."""
    out = tmp_path_factory.mktemp("done") / "run"
    result = invoke(config_file, "--out", out)
    assert result.exit_code == 0, result.output
    (out / "stdout.txt").write_text(result.stdout)
    (out / "stderr.txt").write_text(result.stderr)
    return out


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results by unit, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / RESULTS_NAME).read_text().splitlines()]
    assert len({line["unit"] for line in lines}) == len(lines), "a unit was done twice"
    return {line["unit"]: {name: value for name, value in line.items() if name != "seconds"} for line in lines}


def plan_of(config_file: Path, folder: Path) -> Plan:
    """Return the plan, as the command makes it."""
    config = ComparisonConfig.from_toml(config_file.read_text())
    store = ImageStore(folder / "data")
    return make_plan(config, {source.name: store.add(source, 16) for source in (config.data, *config.transfer)}, None)


def test_every_unit_has_a_result_and_every_training_its_file(config_file: Path, folder: Path) -> None:
    """Nothing of the plan is missing, nothing is there beside it, and no checkpoint is left."""
    plan, results = plan_of(config_file, folder), results_of(folder)
    assert results.keys() == plan.units.keys()
    trained = {name for name, unit in plan.units.items() if unit.kind in (UnitKind.LEARNGENE, UnitKind.NETWORK)}
    assert {file.stem for file in (folder / "artefacts").iterdir()} == trained
    assert not list((folder / "work").iterdir())
    for name, unit in plan.units.items():
        if unit.kind is UnitKind.LEARNGENE:
            assert Learngene.open(folder / "artefacts" / f"{name}.safetensors").digest == results[name]["digest"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_killed_comparison_goes_on_where_it_was(config_file: Path, folder: Path, tmp_path: Path) -> None:
    """Killed amid its units, with a line cut off, it repeats none that is done.

    One worker then does the rest, and gives the results of the two that were never disturbed, to the last bit.
    """
    out = tmp_path / "killed"
    kill_after(config_file, out, results=5)
    with (out / RESULTS_NAME).open("ab") as file:
        file.write(b'{"unit": "cut o')
    before = (out / RESULTS_NAME).read_bytes().rpartition(b"\n")[0]
    assert invoke(config_file, "--out", out, "--workers", 1).exit_code == 0
    assert (out / RESULTS_NAME).read_bytes().startswith(before + b"\n")
    assert results_of(out) == results_of(folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_no_worker_outlives_a_killed_comparison(config_file: Path, tmp_path: Path) -> None:
    """Though it is amid a training that would take hours."""
    endless = tmp_path / "endless.toml"
    text = config_file.read_text().replace("[training]\nepochs = 2", "[training]\nepochs = 10000")
    endless.write_text(text.replace('name = "tiny"', 'name = "endless"\nrows = ["scratch", "alone", "truncated"]'))
    out = tmp_path / "run"
    started = kill_after(endless, out, results=1, and_until=lambda: len(list((out / "work").glob("*"))) == 2)
    assert len(started) >= 3  # the one that workers are forked from, and two of them
    deadline_s = time.monotonic() + 20
    while any(Path(f"/proc/{process}").exists() for process in started):
        assert time.monotonic() < deadline_s, "a process outlives the comparison"
        time.sleep(0.1)


def kill_after(config_file: Path, out: Path, *, results: int, and_until: Callable[[], bool] = lambda: True) -> list[int]:
    """Start the command, kill it once it has so many results, and return the processes that it had started."""
    command = [sys.executable, "-m", "service.cli", "compare", str(config_file), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while lines_of(out) < results or not and_until():
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        started = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
    return started


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from one, by Linux's /proc."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [process for child in children for process in descendants(child)]


def lines_of(folder: Path) -> int:
    """Return how many results there are."""
    file = folder / RESULTS_NAME
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as the comparison's workers do: sums depend on the number of threads."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_stopped_within_a_unit_goes_on_from_its_checkpoint(config_file: Path, folder: Path, tmp_path: Path) -> None:
    """A learngene's training that was cut after an epoch ends in the very learngene."""
    plan = plan_of(config_file, tmp_path)
    unit = next(unit for unit in plan.units.values() if unit.kind is UnitKind.LEARNGENE)
    bench = Bench(tmp_path, torch.device("cpu"), None)
    from tleg_core.training.keeper import FolderKeeper  # noqa: PLC0415 (patched here alone)

    kept = 0
    with pytest.MonkeyPatch.context() as patch:
        keep = FolderKeeper.keep

        def cut(self: FolderKeeper, *arguments: Any) -> None:
            nonlocal kept
            keep(self, *arguments)
            kept += 1
            raise KeyboardInterrupt

        patch.setattr(FolderKeeper, "keep", cut)
        with pytest.raises(KeyboardInterrupt):
            bench.run(unit, [])
    assert kept == 1
    result = bench.run(unit, [])
    whole = results_of(folder)[unit.id]
    assert {name: result[name] for name in ("digest", "train_losses")} == {
        name: whole[name] for name in ("digest", "train_losses")
    }


def test_stored_logits_teach_as_the_ancestry_model_does(config_file: Path, tmp_path: Path, bars: ImageSet) -> None:
    """A learngene and a network alone learn from the file; asked at each update, the model teaches nearly the same."""
    torch.manual_seed(0)
    shape = Architecture.named("test_vit", img_size=32)
    made = {"data_set": "none", "origin": "random", "licence": "none", "fit": Fit.SCRATCH}
    card = AncestryCard.of(shape, class_names=bars.class_names, **made)  # type: ignore[arg-type]
    AncestryModel(card).write(tmp_path / "ancestry.safetensors", {})
    losses: dict[bool, dict[str, list[float]]] = {}
    for stored in (True, False):
        folder = tmp_path / str(stored)
        text = config_file.read_text().replace("alpha = 0.0", "alpha = 1.0\n[augmentation]\nviews = 2")
        text += f'[ancestry]\nmodel = "x"\nprecision = "float32"\nstored = {str(stored).lower()}\n'
        config = ComparisonConfig.from_toml(text)
        store = ImageStore(folder / "data")
        plan = make_plan(config, {source.name: store.add(source, 16) for source in (config.data, *config.transfer)}, "digest")
        bench = Bench(folder, torch.device("cpu"), tmp_path / "ancestry.safetensors")
        kinds = {UnitKind.LOGITS, UnitKind.LEARNGENE, UnitKind.NETWORK}
        units = [unit for unit in plan.units.values() if unit.kind in kinds and "seed 1" not in unit.label]
        assert (units[0].kind is UnitKind.LOGITS) == stored
        results = [bench.run(unit, []) for unit in units]
        losses[stored] = {result["label"]: result["train_losses"] for result in results if "train_losses" in result}
    assert losses[True].keys() == losses[False].keys()
    assert len(losses[True]) == 3 + 3  # networks of two depths and a wider one, three learngenes
    for label, found in losses[True].items():
        assert found == pytest.approx(losses[False][label], rel=0.02), label  # float16 logits


def test_rows_start_as_their_methods_say(config_file: Path, folder: Path) -> None:
    """At the depth of the source the truncated network is the network alone, and both measure alike."""
    plan, results = plan_of(config_file, folder), results_of(folder)
    by_cell = {(cell.row, cell.depth, cell.seed, cell.data, cell.epochs): cell.unit for cell in plan.cells}
    assert by_cell["truncated", 4, 0, "bars", 0] == by_cell["alone", 4, 0, "bars", 0]
    assert by_cell["truncated", 2, 0, "bars", 0] != by_cell["alone", 2, 0, "bars", 0]
    assert ("stage-wise", 2, 0, "bars", 0) not in by_cell
    chosen = results[by_cell["tleg", 2, 1, "bars", 2]]
    tried = [result for result in results.values() if result["kind"] == "tuning" and result["label"].startswith("tleg d")]
    on_bars = [result for result in tried if result["label"].endswith(" bars")]
    assert chosen["lr"] == max(on_bars, key=lambda result: (result["top1"], -result["lr"]))["lr"]
    assert len(chosen["curve"]) == 2
    assert chosen["top1"] == chosen["curve"][-1]


def test_a_network_alone_is_stored_in_timms_names(config_file: Path, folder: Path) -> None:
    """Its file holds exactly timm's tensors, float32."""
    plan = plan_of(config_file, folder)
    unit = next(unit for unit in plan.units.values() if unit.kind is UnitKind.NETWORK and unit.settings["depth"] == 2)
    tensors, _ = read_tensors(folder / "artefacts" / f"{unit.id}.safetensors")
    assert tensors["blocks.1.attn.qkv.weight"].shape[1] == unit.settings["network"]["embed_dim"]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_the_table_holds_the_mean_of_the_results(config_file: Path, folder: Path) -> None:
    """A line of table.csv agrees with the results, and table.md has every row."""
    plan, results = plan_of(config_file, folder), results_of(folder)
    with (folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = [
        item
        for item in lines
        if (item["row"], item["depth"], item["data"], item["epochs"]) == ("tleg-elastic", "2", "bars", "1")
    ]
    units = [
        cell.unit for cell in plan.cells if (cell.row, cell.depth, cell.data, cell.epochs) == ("tleg-elastic", 2, "bars", 1)
    ]
    values = [100 * results[unit]["top1"] for unit in units]
    assert float(line["mean"]) == pytest.approx(np.mean(values), abs=1e-4)
    # of two values: t(1) * s / sqrt(2) = 12.7062 * |a - b| / 2
    assert float(line["half_95"]) == pytest.approx(12.7062 * abs(values[0] - values[1]) / 2, abs=1e-3)
    assert int(line["fine_tuning_flops"]) == plan.units[units[0]].flops
    table = (folder / "table.md").read_text()
    assert all(f"| {row} |" in table for row in ("scratch", "mimetic", "truncated", "weight-selection", "alone", "stage-wise"))
    assert "| bars | 0 | stage-wise | - |" in table


def test_the_report_has_a_verdict_on_each_claim_and_its_plots(folder: Path) -> None:
    """Each learngene's row has its five claims; the plots are there as PNG and SVG, and linked."""
    report = (folder / "report.md").read_text()
    for claim in (
        "comparable to scratch",
        "on transfer",
        "fewer stored parameters",
        "less pre-training",
        "needs no fine-tuning",
    ):
        assert any(claim in line and "| tleg-elastic | **" in line for line in report.splitlines()), claim
    assert "### Epochs to 10% on bars" in report
    assert "Not finished" not in report
    plots = sorted(file.name for file in (folder / "plots").iterdir())
    assert [name for name in plots if name.endswith(".png")] == [
        f"{Path(name).stem}.png" for name in plots if name.endswith(".svg")
    ]
    assert all(f"plots/{name}" in report for name in plots if name.endswith(".png"))
    assert (folder / "plots" / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_a_verdict_on_few_test_images_says_so(folder: Path) -> None:
    """Beside it; what is arithmetic needs no images."""
    lines = (folder / "report.md").read_text().splitlines()
    for claim, few in (("comparable to scratch", True), ("on transfer", True), ("fewer stored parameters", False)):
        found = [line for line in lines if claim in line and "| tleg-elastic | **" in line]
        assert found, claim
        assert all(("**, on 30 images |" in line) == few for line in found), found
    assert any("fewer than 1,000" in line for line in lines[lines.index("## Claims") :])


def test_the_command_ends_with_its_result(folder: Path) -> None:
    """How many claims held and how many rest on few images, as in claims.csv, and where report, table and plots are."""
    claims, few, *paths = (folder / "stdout.txt").read_text().splitlines()
    with (folder / "claims.csv").open() as file:
        lines = list(csv.DictReader(file))
    verdicts = Counter(line["verdict"] for line in lines)
    on_few = [line for line in lines if line["few_test_images"] == "30"]
    assert few == f"{len(on_few)} of them rest on fewer than 1,000 test images (30), which decide little"
    counts = [f"{verdicts[verdict]} {verdict}" for verdict in ("held", "did not hold", "undecided")]
    assert claims == f"claims: {', '.join(counts)}"
    assert paths == [str(folder / name) for name in ("report.md", "table.csv", "plots")]
    assert all(Path(path).exists() for path in paths)


def test_what_is_decoded_is_said(folder: Path) -> None:
    """A line for each part; none for a part that was decoded before."""
    read = [line for line in (folder / "stderr.txt").read_text().splitlines() if line.startswith("reading ")]
    assert [line.rpartition("/")[2] for line in read] == [
        *("train.parquet (train)", "test.parquet (test)"),
        "train.parquet (train)",  # fewer of them; the test images are the same
    ]


def test_paths_are_checked_before_anything_is_decoded(config_file: Path, tmp_path: Path) -> None:
    """The ancestry model's, and those of the last data set."""
    out, missing = tmp_path / "run", tmp_path / "missing.toml"
    text = config_file.read_text().replace("alpha = 0.0", "alpha = 1.0\n[ancestry]\nmodel = 'nowhere.safetensors'")
    missing.write_text(text)
    assert "ancestry.model: there is no file nowhere.safetensors" in str(invoke(missing, "--out", out).exception)
    head, last = config_file.read_text().split("[[transfer]]")
    missing.write_text(f"{head}[[transfer]]{last.replace('test.parquet', 'nowhere.parquet')}")
    assert "fewer-bars.test: there is no file or folder" in str(invoke(missing, "--out", out).exception)
    assert not out.exists()


def test_bar_count_and_time_left_keep_their_places(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal of 80 columns, whatever the unit's name: it stands last, and is cut."""
    plan, lines = plan_of(config_file, tmp_path), []
    for label in ("short", "a unit's name that is longer than what is left of the line " * 2):
        terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
        monkeypatch.setattr(compare, "err", terminal)
        with compare._Bar(plan, Results(tmp_path / RESULTS_NAME)) as bar:
            units = list(plan.units.values())
            for unit in units[:12]:
                bar.started(unit)
                bar.done(unit, {"seconds": 1})
            bar.started(replace(units[12], label=label))
        assert isinstance(terminal.file, io.StringIO)
        lines.append(re.sub(r"\x1b\[\??\w+", "", terminal.file.getvalue()).splitlines()[-1])
    short, long = lines
    assert re.fullmatch(rf"[━╸ ]{{20}} 12/{len(units)} +0:00:\d\d \d:\d\d:\d\d left +short *", short), short
    assert short.index("short") == long.index("a unit's name")
    assert len(long) == 80
    assert long.endswith("…")


@pytest.mark.slow
def test_a_part_can_be_run_and_reported(config_file: Path, folder: Path, tmp_path: Path) -> None:
    """Two rows and one seed are done alone; the report says what is missing of more, and the rest takes up from there."""
    out = tmp_path / "part"
    assert invoke(config_file, "--out", out, "--only", "scratch,tleg", "--seeds", "0", "--device", "auto").exit_code == 0
    part = results_of(out)
    everything = results_of(folder)
    assert part.keys() < everything.keys()
    assert all(everything[unit] == result for unit, result in part.items())
    assert invoke(config_file, "--out", out, "--report-only").exit_code == 0
    assert f"Not finished: {len(part)} of {len(everything)} units are done" in (out / "report.md").read_text()


def test_a_dry_run_lists_units_and_costs_and_does_nothing(config_file: Path, tmp_path: Path) -> None:
    """It names units, images and FLOPs, and leaves no result."""
    result = invoke(config_file, "--out", tmp_path / "dry", "--dry-run", "--only", "alone")
    assert "network of width 16, depth 2, seed 0" in result.output
    assert "in all" in result.output
    assert not (tmp_path / "dry" / RESULTS_NAME).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "scratch,other"), "only: 'other' is no row"),
        (("--seeds", "0,x"), "seeds: must be like 0,1,2"),
        (("--seeds", "1,1"), "seeds: must be one or more different"),
    ],
)
def test_a_wrong_choice_is_refused(config_file: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """The error names the option, before anything runs."""
    result = invoke(config_file, "--out", tmp_path / "run", *words)
    assert message in str(result.exception)


@pytest.mark.slow
def test_one_folder_takes_one_comparison_at_a_time(config_file: Path, tmp_path: Path) -> None:
    """A second run in the same folder is refused, a report is not."""
    import fcntl  # noqa: PLC0415 (held here alone)

    out = tmp_path / "run"
    assert invoke(config_file, "--out", out, "--only", "scratch", "--seeds", "0").exit_code == 0
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another `tleg compare` is at work" in str(invoke(config_file, "--out", out).exception)
        assert invoke(config_file, "--out", out, "--report-only").exit_code == 0


def test_a_unit_that_fails_is_named_and_what_was_done_is_kept(config_file: Path, folder: Path, tmp_path: Path) -> None:
    """With a damaged learngene the error names the unit that needs it."""
    out = tmp_path / "damaged"
    assert invoke(config_file, "--out", out, "--only", "tleg", "--seeds", "0").exit_code == 0
    kept = [line for line in (out / RESULTS_NAME).read_text().splitlines() if '"kind": "learngene"' in line]
    (out / RESULTS_NAME).write_text("\n".join(kept) + "\n")
    for file in (out / "artefacts").iterdir():
        file.write_bytes(b"not a learngene")
    result = invoke(config_file, "--out", out, "--only", "tleg", "--seeds", "0")
    assert "tleg d2 seed 0: before fine-tuning: LearngeneFileError" in str(result.exception)
    assert len(Results(out / RESULTS_NAME).done(results_of(folder))) == len(kept)


@pytest.mark.slow
def test_the_shipped_smoke_runs(tmp_path: Path) -> None:
    """The shipped comparison ends and writes a report."""
    assert invoke("smoke", "--out", tmp_path / "smoke").exit_code == 0
    assert "Claims" in (tmp_path / "smoke" / "report.md").read_text()
