"""Pools and inherited layers in a comparison: what units leave, that they go on where they were, and what the report says."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tleg_core.comparison.config import ComparisonConfig
from tleg_core.comparison.execution import Bench
from tleg_core.comparison.image_store import ImageStore, Parts
from tleg_core.comparison.plan import Plan
from tleg_core.comparison.planner import make_plan
from tleg_core.comparison.report import write_report
from tleg_core.comparison.results import RESULTS_NAME, Results
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.path import Path as BlockPath
from tleg_core.recipe import Member

CONFIG = """
name = "tiny methods"
depths = [2, 3]
seeds = [0]
rows = ["scratch", "pool", "pool-ls", "sn-net", "heur-lg", "auto-lg"]

[data]
name = "bars"
train = "TRAIN"
test = "TEST"
depths = [3]

[network]
embed_dim = 16
num_heads = 2
img_size = 16
patch_size = 8

[ancestry]
depth = 3
epochs = 1

[training]
epochs = 1
batch_size = 16
precision = "float32"

[distillation]
alpha = 0.0

[fine_tuning]
epochs = [1]
lrs = [1e-3]
batch_size = 16

[[learngenes.pool.anchors]]
name = "small"
embed_dim = 8
num_heads = 1
depth = 3

[[learngenes.pool.anchors]]
name = "large"
embed_dim = 16
num_heads = 2
depth = 3

[learngenes.pool.anchor_training]
rule = "distilled"

[learngenes.pool.stitching]
init = "learned"

[learngenes.pool.joint]
epochs = 1

[learngenes.pool-ls]
anchors_of = "pool"

[learngenes.pool-ls.stitching]
init = "least-squares"
images = 16

[learngenes.sn-net.pool]
method = "sn-net"

[[learngenes.sn-net.anchors]]
name = "small"
embed_dim = 8
num_heads = 1
depth = 2

[[learngenes.sn-net.anchors]]
name = "large"
embed_dim = 16
num_heads = 2
depth = 3

[learngenes.heur-lg.selection]
rule = "stability"
num_layers = 2

[learngenes.heur-lg.training]
batch_size = 8

[learngenes.heur-lg.stability]
num_tasks = 2
classes_per_task = 2
windows = 1

[learngenes.auto-lg.selection]
rule = "transfer"
num_layers = 2

[learngenes.auto-lg.transfer]
depth = 2
meta_images = 4
score_images = 8
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as the comparison's workers do: sums depend on the number of threads."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def config(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> ComparisonConfig:
    """A comparison of pools and inherited layers on 48 images."""
    root = tmp_path_factory.mktemp("bars")
    moved = ImageSet(
        name="moved", images=np.roll(bars.images, 3, axis=2), labels=bars.labels, class_names=bars.class_names
    ).head(30)
    save_parquet(bars, root / "train.parquet")
    save_parquet(moved, root / "test.parquet")
    return ComparisonConfig.from_toml(
        CONFIG.replace("TRAIN", str(root / "train.parquet")).replace("TEST", str(root / "test.parquet"))
    )


def parts_and_plan(config: ComparisonConfig, folder: Path) -> tuple[dict[str, Parts], Plan]:
    """Return the data sets and the plan."""
    store = ImageStore(folder / "data")
    parts = {config.data.name: store.add(config.data, 16)}
    return parts, make_plan(config, parts, None)


@pytest.fixture(scope="module")
def done(config: ComparisonConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, Results]:
    """The comparison, done in this process, unit after unit."""
    folder = tmp_path_factory.mktemp("done")
    _, plan = parts_and_plan(config, folder)
    bench, results = Bench(folder, torch.device("cpu"), None), Results(folder / RESULTS_NAME)
    for unit in plan.units.values():
        results.append(bench.run(unit, [results[name] for name in unit.needs]))
    return folder, plan, results


def unit_of(plan: Plan, label: str) -> Unit:
    """Return the one unit whose label begins so."""
    (found,) = [unit for unit in plan.units.values() if unit.label.startswith(label)]
    return found


def opened(folder: Path, unit: Unit, stage: str = "") -> Learngene:
    """Return the learngene that a unit left."""
    return Learngene.open(folder / "artefacts" / f"{unit.id}{stage}.safetensors")


def test_a_pool_leaves_its_stitches_as_they_started_and_as_they_became(done: tuple[Path, Plan, Results]) -> None:
    """The joint training changes stitches and anchors; the other row takes the anchors from before it."""
    folder, plan, _ = done
    own, other = (unit_of(plan, f"{row}: anchors and stitches") for row in ("pool", "pool-ls"))
    before, after, taken = opened(folder, own, "-stitched"), opened(folder, own), opened(folder, other, "-stitched")
    assert before.tensors.keys() == after.tensors.keys()
    changed = {name.split(".")[0] for name in before.tensors if not np.array_equal(before.tensors[name], after.tensors[name])}
    assert changed == {"anchors", "stitches"}
    for name in before.tensors:
        same = np.array_equal(before.tensors[name], taken.tensors[name])
        assert same == name.startswith("anchors."), name
    assert not list((folder / "work").iterdir())


def test_every_path_is_measured_before_and_after(config: ComparisonConfig, done: tuple[Path, Plan, Results]) -> None:
    """All members have an accuracy at both times, those without joint training once; in the CSV as in the results."""
    folder, plan, results = done
    parts, _ = parts_and_plan(config, folder)
    write_report(config, parts, plan, results, folder, command="tleg compare tiny")
    with (folder / "members.csv").open() as file:
        lines = list(csv.DictReader(file))
    counts = {row.name: sum(line["row"] == row.name for line in lines) for row in config.rows}
    pool, unpaired = 2 * (2 + 7), 2 + 2
    assert counts == {"scratch": 2, "pool": pool, "pool-ls": pool, "sn-net": unpaired, "heur-lg": 2, "auto-lg": 2}
    measured = results[unit_of(plan, "pool seed 0: every path, whole").id]["paths"]
    for line in (line for line in lines if (line["row"], line["stage"]) == ("pool", "whole")):
        assert float(line["mean"]) == pytest.approx(100 * measured[line["member"].removeprefix("p")], abs=1e-3)
    report = (folder / "report.md").read_text()
    for claim in ("stores less than SN-Net", "reaches smaller networks", "learned stitches are better", "ahead of scratch at"):
        assert claim in report
    assert "Not finished" not in report
    assert (folder / "plots" / "members.png").read_bytes().startswith(b"\x89PNG")


def test_a_members_fine_tune_starts_from_the_networks_along_its_path(done: tuple[Path, Plan, Results]) -> None:
    """The path of the cell is one of the pool's, and its weights are the pool's own."""
    from tleg_core.comparison.initial_weights import initial_weights  # noqa: PLC0415 (looked into here alone)

    folder, plan, _ = done
    cell = next(cell for cell in plan.cells if (cell.row, cell.depth, cell.epochs) == ("pool", 3, 1))
    assert cell.path is not None
    unit = plan.units[cell.unit]
    pool = opened(folder, plan.units[unit.needs[0]])
    weights = initial_weights(unit.settings["start"], folder / "artefacts" / f"{unit.needs[0]}.safetensors")
    stack = pool.description.pool.stack(Member.along(BlockPath.parse(cell.path)))
    assert [(name, array.shape) for name, array in weights.items()] == [(spec.name, spec.shape) for spec in stack.inventory()]
    first = BlockPath.parse(cell.path).segments[0].anchor
    assert np.array_equal(weights["pos_embed"], pool.tensors[f"anchors.{first}.pos_embed"])


def test_inherited_layers_are_the_ancestry_networks(done: tuple[Path, Plan, Results]) -> None:
    """Auto-LG's layers are the ancestry's own; both rules leave which ones they chose, and fresh layers follow the seed."""
    folder, plan, results = done
    automatic, heuristic = (unit_of(plan, f"{row}: layers") for row in ("auto-lg", "heur-lg"))
    assert automatic.needs == heuristic.needs
    learngene = opened(folder, automatic)
    chosen = results[automatic.id]["layers"]
    assert len(chosen) == len(results[heuristic.id]["layers"]) == 2
    from safetensors.numpy import load_file  # noqa: PLC0415 (read here alone)

    ancestry = load_file(folder / "artefacts" / f"{automatic.needs[0]}.safetensors")
    for place, layer in enumerate(chosen):
        found = learngene.tensors["basis.mlp.fc1.weight"][place]
        assert np.array_equal(found, ancestry[f"blocks.{layer}.mlp.fc1.weight"])


@pytest.mark.parametrize("kept", [1, 5, 6])
def test_a_pool_that_was_cut_goes_on_to_the_same_files(
    config: ComparisonConfig, done: tuple[Path, Plan, Results], tmp_path: Path, kept: int
) -> None:
    """Cut within an anchor, between phases or within the joint training, it leaves the very pool, and the one before."""
    from tleg_core.training.keeper import FolderKeeper  # noqa: PLC0415 (patched here alone)

    folder, _, results = done
    _, plan = parts_and_plan(config, tmp_path)
    bench, unit = Bench(tmp_path, torch.device("cpu"), None), unit_of(plan, "pool: anchors and stitches")
    (ancestor,) = unit.needs
    name = f"{ancestor}.safetensors"
    (tmp_path / "artefacts" / name).write_bytes((folder / "artefacts" / name).read_bytes())
    count = 0
    with pytest.MonkeyPatch.context() as patch:
        keep = FolderKeeper.keep

        def cut(self: FolderKeeper, *arguments: Any) -> None:
            nonlocal count
            keep(self, *arguments)
            count += 1
            if count == kept:
                raise KeyboardInterrupt

        patch.setattr(FolderKeeper, "keep", cut)
        with pytest.raises(KeyboardInterrupt):
            bench.run(unit, [])
    assert bench.run(unit, [])["digest"] == results[unit.id]["digest"]
    for file in (f"{unit.id}.safetensors", f"{unit.id}-stitched.safetensors"):
        assert (tmp_path / "artefacts" / file).read_bytes() == (folder / "artefacts" / file).read_bytes()


def test_all_kinds_of_units_were_done(done: tuple[Path, Plan, Results]) -> None:
    """The comparison has pools, inherited layers and measurements of paths, each with its result."""
    _, plan, results = done
    kinds = {unit.kind for unit in plan.units.values()}
    assert kinds == {
        *(UnitKind.NETWORK, UnitKind.POOL, UnitKind.INHERITANCE, UnitKind.PATHS, UnitKind.MEASURE, UnitKind.FINE_TUNE),
    }
    assert results.done(plan.units) == set(plan.units)
