"""What is compared: the file's fields, the graph of units, their costs, and the claims' verdicts on made-up numbers."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tleg_core.canonical import sha256_hex
from tleg_core.comparison.claims import Claim, claims_of
from tleg_core.comparison.config import ComparisonConfig, DataSource
from tleg_core.comparison.families import front, macs_of, members_csv, points_of
from tleg_core.comparison.image_store import ImageStore, Part, Parts, held_back, limited
from tleg_core.comparison.method_claims import method_claims
from tleg_core.comparison.plan import Plan, Stage
from tleg_core.comparison.planner import make_plan
from tleg_core.comparison.results import Results
from tleg_core.comparison.scores import Key, Scores
from tleg_core.comparison.unit import UnitKind
from tleg_core.cost import cost, stack_cost
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.recipe import Member
from tleg_core.training.learngene_run import depths_of
from tleg_core.training.path_sampling import PathSampler

TEXT = """
name = "made up"
depths = [4, 8, 12]

[data]
name = "photos"
train = "photos-train.parquet"
test = "photos-test.parquet"

[[transfer]]
name = "drawings"
train = "drawings-train.parquet"
test = "drawings-test.parquet"
depths = [4, 12]

[network]
embed_dim = 32
num_heads = 2
img_size = 32
patch_size = 8

[wide_network]
embed_dim = 64
num_heads = 4

[training]
epochs = 3
batch_size = 64
warmup_epochs = 1

[distillation]
alpha = 0.0

[fine_tuning]
epochs = [1, 4]
lrs = [5e-4, 1e-3]
batch_size = 32

[learngenes.tleg.depths]
train = 12

[learngenes.tleg-elastic.depths]
rule = "uniform"
train = 12
train_min = 3
self_distillation = 0.5

[learngenes.stage-wise.schedule]
method = "stagewise"

[learngenes.stage-wise.depths]
train = 16
offer_min = 5
"""

PARTS = {
    "photos": Parts(train=Part(digest="p1", images=1000, classes=10), test=Part(digest="p2", images=200, classes=10)),
    "drawings": Parts(train=Part(digest="d1", images=330, classes=15), test=Part(digest="d2", images=100, classes=15)),
}


def config(*changes: tuple[str, str]) -> ComparisonConfig:
    """Return the comparison, some of its text replaced."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return ComparisonConfig.from_toml(text)


def plan(chosen: ComparisonConfig | None = None, teacher: str | None = None) -> Plan:
    """Return its plan."""
    return default_plan() if chosen is None and teacher is None else make_plan(chosen or config(), PARTS, teacher)


@cache
def default_plan() -> Plan:
    """Return the plan of the comparison as it is, made once."""
    return make_plan(config(), PARTS, None)


@cache
def methods_plan() -> Plan:
    """Return the plan of the comparison of all methods, made once."""
    return make_plan(methods(), PARTS, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depths = [4, 8, 12]", "depths = [8, 4]", "depths: must be one or more whole numbers from 1 to 1000, ascending"),
        ("depths = [4, 12]\n", "depths = [5]\n", "drawings.depths: must be among `depths`"),
        ("epochs = 3", "epochs = 0", "training.epochs: must be at least 1"),
        ("epochs = 3", "epoch = 3", "training.epoch: is no field"),
        ("lrs = [5e-4, 1e-3]", "lrs = [1e-3, 5e-4]", "fine_tuning.lrs: must be one or more learning rates, ascending"),
        ("lrs = [5e-4, 1e-3]", "lrs = [-1.0]", "fine_tuning.lr: must be a finite number above 0"),
        ("epochs = [1, 4]", "epochs = [0, 4]", "fine_tuning.epochs: must be one or more whole numbers from 1"),
        ("epochs = [1, 4]", "epochs = [1, 4]\ntuning_depth = 5", "fine_tuning.tuning_depth: must be among `depths`"),
        ("epochs = [1, 4]", "epochs = [1, 4]\naugmentation = {shift = 99}", "fine_tuning.augmentation.shift: must be from 0"),
        ("alpha = 0.0", "alpha = 0.5", "distillation.alpha: is 0 exactly where there is no ancestry model"),
        ('name = "photos"', 'name = "Photos"', "data.name: must be lower-case"),
        ('name = "drawings"', 'name = "photos"', "transfer: has two data sets of one name"),
        ("[wide_network]\nembed_dim = 64\nnum_heads = 4", "", "wide_network: is needed"),
        ("[learngenes.tleg.depths]", "[learngenes.alone.depths]", "learngenes.alone: must be named"),
        ("train_min = 3", "train_min = 30", "learngenes.tleg-elastic.depths.train_min: and train must lie"),
        ("offer_min = 5", "offer_min = 4", "learngenes.stage-wise.depths.offer_min: must be at least 5"),
        ('name = "made up"', 'name = "made up"\nrows = ["tleg", "none"]', "rows: 'none' is none of scratch"),
        ('name = "made up"', 'name = "made up"\nseeds = [0, 0]', "seeds: must be one or more different"),
        ('name = "made up"', 'name = "made up"\nspeed = 1', "comparison.speed: is no field"),
        ('name = "made up"', "name = ", "config: is no TOML"),
        (
            "[learngenes.tleg.depths]",
            "[learngenes.tleg.preprocessing]\ncrop_pct = 0.9\n[learngenes.tleg.depths]",
            "learngenes.tleg.pre",
        ),
        (
            "[learngenes.tleg.depths]\ntrain = 12",
            "[learngenes.tleg.network]\nembed_dim = 64",
            "learngenes.tleg.network: must be",
        ),
    ],
)
def test_a_wrong_field_is_named(old: str, new: str, message: str) -> None:
    """Each error says where the file is wrong, and how."""
    with pytest.raises(ConfigError, match=f"^{message.replace('[', '.').replace('(', '.')}"):
        config((old, new))


def test_rows_are_the_plain_ones_and_the_learngenes() -> None:
    """All of them in the file's order, or those that are named; seeds for pre-training may be fewer."""
    names = ["scratch", "mimetic", "truncated", "weight-selection", "alone", "tleg", "tleg-elastic", "stage-wise"]
    assert [row.name for row in config().rows] == names
    few = config(
        ('name = "made up"', 'name = "made up"\nrows = ["tleg", "scratch"]\nseeds = [3, 4, 5]\npretraining_seeds = [7, 8]')
    )
    assert [row.name for row in few.rows] == ["tleg", "scratch"]
    assert [few.pretraining_seed(seed) for seed in few.seeds] == [7, 8, 7]
    chosen = few.with_choice(seeds=(9,), rows=("scratch",))
    assert (chosen.seeds, chosen.pretraining_seeds, [row.name for row in chosen.rows]) == ((9,), (7, 8), ["scratch"])


def test_every_unit_comes_after_what_it_needs() -> None:
    """The order is one in which the units can be done, each named once, each cell's unit among them."""
    made = plan()
    seen: set[str] = set()
    for name, unit in made.units.items():
        assert name == unit.id
        assert set(unit.needs) <= seen
        seen.add(name)
    assert {cell.unit for cell in made.cells} <= seen
    # 7 rows at three depths and stage-wise at two of them, before fine-tuning and after two lengths on photos; on drawings
    # the depths 4 and 12, where stage-wise has 12 alone: for each of three seeds
    assert len(made.cells) == 3 * ((7 * 3 + 2) * 3 + (7 * 2 + 1) * 2)


def test_ids_follow_from_what_decides_a_result() -> None:
    """Another limit of data, seed or learning rate is another unit; another name, or another row beside it, is not."""
    ids = set(plan().units)
    assert set(plan(config(('name = "made up"', 'name = "other"'))).units) == ids
    fewer = config().with_choice(seeds=(0,), rows=("tleg", "scratch"))
    assert set(plan(fewer).units) < ids
    other = plan(config(("lrs = [5e-4, 1e-3]", "lrs = [5e-4]")))
    kinds = {unit.kind for name, unit in other.units.items() if name not in ids}
    assert kinds == {UnitKind.FINE_TUNE}
    longer = plan(config(("epochs = 3", "epochs = 4")))
    fresh = {unit.label.split(" d")[0] for name, unit in longer.units.items() if name in ids}
    assert fresh == {"scratch", "mimetic"}


def test_ids_stay_what_they_were() -> None:
    """Results that are kept stay valid: whoever changes this number makes everybody's comparisons begin again."""
    assert sha256_hex(*(name.encode() for name in sorted(plan().units)))[:16] == "95e81de6fd6a0b77"


def test_rows_of_a_depth_and_a_seed_train_on_the_same_draws() -> None:
    """Fine-tunes differ between rows in their start alone: data, updates, seed and settings are equal."""
    units = plan().units
    cells = [cell for cell in plan().cells if (cell.depth, cell.seed, cell.data, cell.epochs) == (12, 2, "drawings", 4)]
    assert len(cells) == 8
    settings = [{k: v for k, v in units[cell.unit].settings.items() if k != "start"} for cell in cells]
    assert all(one == settings[0] for one in settings)
    assert settings[0]["training"]["seed"] == 2
    assert not settings[0]["keeps_head"]
    assert len({units[cell.unit].images for cell in cells}) == 1
    assert len({units[cell.unit].flops for cell in cells}) == 1


def test_learning_rates_are_chosen_away_from_the_test_images() -> None:
    """A fine-tune needs its row's runs at each rate, which know no test part and leave images out."""
    units = plan().units
    cell = next(cell for cell in plan().cells if (cell.row, cell.depth, cell.data, cell.epochs) == ("tleg", 4, "drawings", 1))
    tried = [units[name] for name in units[cell.unit].needs if units[name].kind is UnitKind.TUNING]
    assert [unit.settings["training"]["lr"] for unit in tried] == [5e-4, 1e-3]
    for unit in tried:
        assert "d2" not in json.dumps(unit.settings["train"])
        assert "test" not in unit.settings
        assert unit.settings["validation"] == 0.1
        assert unit.images == 4 * 9 * 32  # 297 of 330 images make nine batches
    assert plan(config(("lrs = [5e-4, 1e-3]", "lrs = [5e-4]"))).units.keys().isdisjoint(unit.id for unit in tried)


def test_costs_are_counted_as_trained() -> None:
    """A network's training is 6 FLOPs a MAC and image; an elastic one's the sum over the depths that its updates draw."""
    made, vit = plan(), config().base.network.vit(10)
    alone = next(u for u in made.units.values() if u.kind is UnitKind.NETWORK and u.settings["depth"] == 8)
    images = 3 * 15 * 64  # three epochs of 15 whole batches of 64
    assert alone.images == images
    assert alone.flops == 6 * images * cost(vit, 8).macs
    elastic = next(u for u in made.units.values() if u.label.startswith("tleg-elastic: learngene, seed 1"))
    row = next(row.learngene for row in config().rows if row.name == "tleg-elastic")
    assert row is not None
    drawn = [depths_of(row.depths, 1, step)[0] for step in range(45)]
    assert len(set(drawn)) > 5
    forward = 64 * sum(cost(vit, depth).macs for depth in drawn)
    taught = 64 * sum(cost(vit, 12).macs for depth in drawn if depth != 12)
    assert elastic.flops == 6 * forward + 2 * taught


def test_what_is_stored_for_a_family_is_counted() -> None:
    """All networks alone; two blocks and the rest for TLEG; the source where there is one; nothing from scratch."""
    stored, vit = plan().stored_params, config().base.network.vit(10)
    assert stored["alone"] == sum(cost(vit, depth).params for depth in (4, 8, 12))
    assert stored["tleg"] == stored["tleg-elastic"] == cost(vit, 2).params
    assert stored["stage-wise"] == cost(vit, 5).params
    assert stored["truncated"] == cost(vit, 12).params
    assert stored["scratch"] == stored["mimetic"] == 0


def test_shorter_runs_may_be_read_off_the_longest() -> None:
    """Without schedules of their own the lengths share a unit, and each counts its part of the cost."""
    made = plan(config(("epochs = [1, 4]", "epochs = [1, 4]\nown_schedules = false")))
    short, long = (
        next(cell for cell in made.cells if (cell.row, cell.depth, cell.data, cell.epochs) == ("tleg", 4, "drawings", epochs))
        for epochs in (1, 4)
    )
    assert short.unit == long.unit
    assert 4 * short.flops == long.flops


def test_too_few_images_for_a_batch_are_said() -> None:
    """The data set is named."""
    few = PARTS | {"drawings": Parts(train=Part(digest="d1", images=30, classes=15), test=PARTS["drawings"].test)}
    with pytest.raises(ConfigError, match="32 is more than the 27 training images of drawings"):
        make_plan(config(), few, None)


def test_stored_logits_are_one_unit_for_all() -> None:
    """What a view shows follows from no seed, so learngenes and networks of all seeds need the same logits."""
    text = TEXT.replace(
        "alpha = 0.0", 'alpha = 0.5\n[augmentation]\nviews = 3\n[ancestry]\nmodel = "a.safetensors"\nstored = true'
    )
    made = plan(ComparisonConfig.from_toml(text), "digest")
    (logits,) = [name for name, unit in made.units.items() if unit.kind is UnitKind.LOGITS]
    trained = [unit for unit in made.units.values() if unit.kind in (UnitKind.LEARNGENE, UnitKind.NETWORK)]
    assert len(trained) == 3 * (3 + 1 + 3)
    assert all(unit.needs == (logits,) for unit in trained)
    with pytest.raises(ConfigError, match=r"augmentation\.views: is needed"):
        ComparisonConfig.from_toml(text.replace("views = 3", "flip = 0.0"))


def made_up(folder: Path, top1: dict[str, float], **special: float) -> Scores:
    """Return scores in which each row has its accuracy at any place, plus 0.001 times the seed; `special` is for 0 epochs."""
    made = plan()
    lines: dict[str, dict[str, Any]] = {}
    for cell in made.cells:
        if cell.unit not in lines:
            base = special.get(cell.row, top1[cell.row]) if cell.epochs == 0 else top1[cell.row] + 0.01 * cell.epochs
            value = base + 0.001 * cell.seed
            curve = [value] * max(cell.epochs, 1)
            lines[cell.unit] = {"unit": cell.unit, "top1": value, "curve": curve, "lr": 1e-3}
    results = written(folder, list(lines.values()))
    return Scores(made, results)


ROWS = ("scratch", "mimetic", "truncated", "weight-selection", "alone", "tleg", "tleg-elastic", "stage-wise")


def claims_about(row: str, scores: Scores) -> dict[str, Claim]:
    """Return the claims about a row, by their first three words and place."""
    found = claims_of(config(), plan(), scores, config().base.network.vit(10))
    return {f"{' '.join(claim.text.split()[:3])} {claim.text.count('transfer')}": claim for claim in found if claim.row == row}


def test_claims_follow_from_the_numbers(tmp_path: Path) -> None:
    """Rows apart by 10 points are decided; a row 1 point behind alone is within 2, one 3 points behind is not."""
    top1 = dict.fromkeys(ROWS, 0.5) | {"tleg": 0.6, "tleg-elastic": 0.6, "stage-wise": 0.4}
    scores = made_up(tmp_path, top1, alone=0.7, **{"tleg-elastic": 0.69, "tleg": 0.67, "stage-wise": 0.5})
    ahead, behind = claims_about("tleg", scores), claims_about("stage-wise", scores)
    assert ahead["ahead of scratch, 1"].verdict == "held"
    assert "ahead 16, behind 0, undecided 0 of 16" in ahead["ahead of scratch, 1"].details
    assert behind["ahead of scratch, 1"].verdict == "did not hold"
    assert "behind scratch at d12, 1 epoch on" in behind["ahead of scratch, 1"].details
    assert ahead["comparable to scratch 0"].verdict == "held"
    assert behind["comparable to scratch 0"].verdict == "did not hold"
    assert ahead["needs no fine-tuning: 0"].verdict == "did not hold"
    assert claims_about("tleg-elastic", scores)["needs no fine-tuning: 0"].verdict == "held"
    assert "d4 -1.0 ± 0.0" in claims_about("tleg-elastic", scores)["needs no fine-tuning: 0"].details


def test_equal_rows_are_undecided(tmp_path: Path) -> None:
    """Nothing is ahead where all score alike, and nothing is behind."""
    scores = made_up(tmp_path, dict.fromkeys(ROWS, 0.5))
    claim = claims_about("tleg", scores)["ahead of scratch, 1"]
    assert claim.verdict == "undecided"
    assert "ahead 0, behind 0, undecided 16 of 16" in claim.details


def test_a_claim_knows_how_few_images_it_rests_on(tmp_path: Path) -> None:
    """The fewest of its data sets, below a thousand; arithmetic rests on none."""
    claims = claims_about("tleg", made_up(tmp_path, dict.fromkeys(ROWS, 0.5)))
    many = replace(PARTS["photos"], test=replace(PARTS["photos"].test, images=1000))
    few = {name: claim.few_images(PARTS | {"photos": many}) for name, claim in claims.items()}
    assert (few["ahead of scratch, 0"], few["ahead of scratch, 1"], few["needs no fine-tuning: 0"]) == (None, 100, None)
    assert claims["needs no fine-tuning: 0"].few_images(PARTS) == 200
    assert claims["about 19 times 0"].few_images(PARTS) is None


def test_the_arithmetic_claims_are_of_the_whole_family(tmp_path: Path) -> None:
    """Depths 4 to 12 alone against two blocks; the elastic learngene against nine networks trained as long."""
    vit = config().base.network.vit(10)
    claims = claims_about("tleg", made_up(tmp_path, dict.fromkeys(ROWS, 0.5)))
    ratio = sum(cost(vit, depth).params for depth in range(4, 13)) / cost(vit, 2).params
    stored = claims["about 19 times 0"]
    assert stored.details.startswith(f"{ratio:.1f} times")
    assert stored.verdict == ("held" if ratio >= 0.9 * 19 else "did not hold")
    trained = sum(cost(vit, depth).macs for depth in range(4, 13)) / cost(vit, 12).macs
    assert claims["about 5 times 0"].details.startswith(f"{trained:.1f} times")
    assert claims["about 5 times 0"].verdict == ("held" if trained >= 4.5 else "did not hold")


def test_epochs_to_a_target_are_the_first_that_reach_it(tmp_path: Path) -> None:
    """Seeds that never do are counted."""
    made = plan()
    results = Results(tmp_path / "results.jsonl")
    curves = {0: [0.1, 0.5, 0.4, 0.6], 1: [0.5, 0.1, 0.1, 0.1], 2: [0.1, 0.2, 0.3, 0.4]}
    for cell in made.cells:
        if (cell.row, cell.depth, cell.data, cell.epochs) == ("tleg", 4, "drawings", 4):
            results.append({"unit": cell.unit, "top1": curves[cell.seed][-1], "curve": curves[cell.seed], "lr": 1e-3})
    scores, key = Scores(made, results), Key(row="tleg", depth=4, data="drawings", epochs=4)
    assert scores.epochs_to(key, 0.5) == ([2, 1], 3)
    assert [round(value.mean, 1) for value in scores.curve(key)] == [23.3, 26.7, 26.7, 36.7]
    assert scores.done == 3


def test_seeds_that_share_a_learngene_are_one_measurement_of_it(tmp_path: Path) -> None:
    """Before fine-tuning three seeds of one learngene are one number, whose spread nobody knows; afterwards they are three."""
    chosen = config(('name = "made up"', 'name = "made up"\npretraining_seeds = [7]'))
    made, results = plan(chosen), Results(tmp_path / "results.jsonl")
    for unit in made.units:
        results.append({"unit": unit, "top1": 0.5, "curve": [0.5] * 4, "lr": 1e-3})
    scores = Scores(made, results)
    before = scores.estimate(Key(row="tleg", depth=4, data="photos", epochs=0))
    after = scores.estimate(Key(row="tleg", depth=4, data="photos", epochs=1))
    fresh = scores.estimate(Key(row="scratch", depth=4, data="photos", epochs=0))
    assert before is not None
    assert after is not None
    assert fresh is not None
    assert (before.count, before.half) == (1, math.inf)
    assert (after.count, fresh.count) == (3, 3)
    (claim,) = (
        claim
        for claim in claims_of(chosen, made, scores, chosen.base.network.vit(10))
        if claim.row == "tleg" and claim.text.startswith("needs no fine-tuning")
    )
    assert claim.verdict == "undecided"


def test_results_survive_a_line_that_was_cut(tmp_path: Path) -> None:
    """The last line without an end is dropped and overwritten; a broken line before it is an error."""
    path = tmp_path / "results.jsonl"
    Results(path).append({"unit": "a", "top1": 0.5})
    with path.open("ab") as file:
        file.write(b'{"unit": "b", "to')
    results = Results(path)
    assert "a" in results
    assert "b" not in results
    results.append({"unit": "c", "top1": 0.25})
    assert [json.loads(line)["unit"] for line in path.read_text().splitlines()] == ["a", "c"]
    assert Results(path)["c"]["top1"] == 0.25
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(CheckpointError, match="line 1 is no result"):
        Results(path)


def images(count: int) -> ImageSet:
    """Return images that each have one colour of their own, sorted by class."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8), 8 * 8 * 3).reshape(count, 8, 8, 3)
    return ImageSet(name="colours", images=pixels, labels=np.arange(count) // 10, class_names=("a", "b", "c", "d"))


def test_a_limit_takes_images_of_all_classes() -> None:
    """Though the file is sorted by class; the same ones each time, in their order."""
    some = limited(images(40), 20)
    assert set(some.labels.tolist()) == {0, 1, 2, 3}
    assert np.array_equal(some.images, limited(images(40), 20).images)
    assert (np.diff(some.images[:, 0, 0, 0].astype(int)) > 0).all()
    assert limited(images(40), 100).digest() == images(40).digest()


def test_what_is_held_back_is_not_trained_on() -> None:
    """Together the two parts are all images, each in one of them."""
    train, back = held_back(images(40), 0.1)
    assert (len(train), len(back)) == (36, 4)
    colours = sorted([*train.images[:, 0, 0, 0].tolist(), *back.images[:, 0, 0, 0].tolist()])
    assert colours == list(range(40))


def test_a_store_decodes_once_and_notices_another_file(tmp_path: Path) -> None:
    """The same file gives the same digest from the index; other images at the same path another one."""
    source: dict[str, Any] = {
        "name": "colours",
        "train": str(tmp_path / "train.parquet"),
        "test": str(tmp_path / "test.parquet"),
    }
    save_parquet(images(40), tmp_path / "train.parquet")
    save_parquet(images(30), tmp_path / "test.parquet")
    read: list[tuple[str, str]] = []
    store = ImageStore(tmp_path / "store", lambda path, part: read.append((Path(path).name, part)))
    other = ImageSet(name="x", images=images(40).images, labels=images(40).labels, class_names=("a", "b", "c", "e"))
    save_parquet(other, tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match=r"colours\.test: has other classes"):
        store.add(DataSource(**(source | {"test": str(tmp_path / "other.parquet")})), 8)
    with pytest.raises(ConfigError, match="holds the very training images"):
        store.add(DataSource(**(source | {"test": source["train"]})), 8)
    read.clear()
    parts = store.add(DataSource(**source), 8)
    assert read == [("test.parquet", "test")]  # the training images were read above
    assert store.read(parts.train.digest).digest() == images(40).digest()
    assert ImageStore(tmp_path / "store").add(DataSource(**source), 8) == parts
    save_parquet(images(35), tmp_path / "train.parquet")
    assert store.add(DataSource(**source), 8).train.images == 35
    assert read == [("test.parquet", "test"), ("train.parquet", "train")]
    with pytest.raises(ConfigError, match="'nothing' is not shipped; there is openclipart15-grey"):
        store.add(DataSource(**(source | {"train": "shipped:nothing"})), 8)


def test_a_shipped_set_is_unpacked_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left when unpacking stops in the middle is never taken for the data set."""
    source = DataSource(name="drawings", train="shipped:openclipart15-grey", test="shipped:openclipart15-grey", limit=20)
    extract = zipfile.ZipFile._extract_member  # type: ignore[attr-defined]
    count = 0

    def stopping(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError("the disk is full")
        return extract(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "_extract_member", stopping)
        with pytest.raises(OSError, match="the disk is full"):
            ImageStore(tmp_path).add(source, 8)
    assert list(tmp_path.iterdir()) == []


METHODS = (
    TEXT.replace("alpha = 0.0", 'alpha = 0.5\nnormalisation = "batchmean"\n\n[ancestry]\ndepth = 6\nepochs = 2').replace(
        "depths = [4, 8, 12]", "depths = [2, 4, 12]"
    )
    + """
[learngenes.pool.anchor_training]
rule = "distilled"

[[learngenes.pool.anchors]]
name = "small"
embed_dim = 16
num_heads = 1
depth = 3
positions = "front-end"

[[learngenes.pool.anchors]]
name = "large"
embed_dim = 32
num_heads = 2
depth = 3

[learngenes.pool.stitching]
init = "learned"

[learngenes.pool.joint]
epochs = 1

[learngenes.pool-ls]
anchors_of = "pool"

[learngenes.pool-ls.stitching]
init = "least-squares"

[learngenes.sn-net.pool]
method = "sn-net"

[[learngenes.sn-net.anchors]]
name = "small"
embed_dim = 16
num_heads = 1
depth = 4

[[learngenes.sn-net.anchors]]
name = "large"
embed_dim = 32
num_heads = 2
depth = 4

[learngenes.sn-net.joint]
epochs = 2
alpha = 0.0

[learngenes.heur-lg.selection]
rule = "stability"
num_layers = 3

[learngenes.heur-lg.depths]
offer_max = 12

[learngenes.auto-lg.selection]
rule = "transfer"
num_layers = 3

[learngenes.auto-lg.transfer]
depth = 3
"""
).replace("depths = [4, 12]\n", "depths = [2, 4]\n")


def methods(*changes: tuple[str, str]) -> ComparisonConfig:
    """Return the comparison of all methods, some of its text replaced."""
    text = METHODS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return ComparisonConfig.from_toml(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth = 6\nepochs = 2", 'model = "a.safetensors"', "learngenes.pool: needs an ancestry network trained here"),
        ("depth = 6\nepochs = 2", 'depth = 6\nmodel = "a"', "ancestry.depth: is of a network trained here"),
        ("depth = 6\nepochs = 2", "epochs = 2", "ancestry.epochs: are of a network trained here"),
        ("depth = 6\nepochs = 2", "depth = 2", "learngenes.heur-lg.selection: wants layers that an ancestry of 2"),
        ('anchors_of = "pool"', 'anchors_of = "tleg"', "learngenes.pool-ls.anchors_of: must name a row that has anchors"),
        ('init = "least-squares"', 'init = "learned"', "learngenes.pool-ls.stitching.init: learned needs the matrices"),
        ("[learngenes.pool-ls.stitching]", "[learngenes.pool-ls.training]", "learngenes.pool-ls.training: is said by the row"),
        (
            "[learngenes.pool.stitching]",
            "[learngenes.pool.network]\npatch_size = 16\n[learngenes.pool.stitching]",
            "learngenes.pool.network: must be that of all rows",
        ),
        (
            "[learngenes.pool.stitching]",
            "[learngenes.pool.preprocessing]\ncrop_pct = 0.9\n[learngenes.pool.stitching]",
            "learngenes.pool.preprocessing: must be left out",
        ),
        ('rule = "distilled"', 'rule = "wished"', "learngenes.pool.anchor_training.rule: must be one of"),
        ("num_layers = 3\n\n[learngenes.heur-lg.depths]", "layers = [0]\n[learngenes.heur-lg.depths]", "learngenes.heur-lg"),
    ],
)
def test_a_wrong_field_of_a_pool_or_an_inheritance_is_named(old: str, new: str, message: str) -> None:
    """Each error names the row and the field."""
    with pytest.raises(ConfigError) as raised:
        methods((old, new))
    assert str(raised.value).startswith(message)


def test_the_ancestry_network_is_one_for_all_rows_of_a_seed() -> None:
    """It is trained from labels, and what learns or inherits from one needs that very unit."""
    made = methods_plan()
    ancestors = {name: unit for name, unit in made.units.items() if unit.label.startswith("ancestry network")}
    assert len(ancestors) == 3
    for seed in (0, 1, 2):
        (own,) = [name for name, unit in ancestors.items() if unit.label.endswith(f"seed {seed}")]
        assert ancestors[own].settings["teacher"] is None
        assert ancestors[own].settings["training"]["epochs"] == 2
        users = [row for (row, at), unit in made.ancestors.items() if (at, unit) == (seed, own)]
        learned = ["truncated", "weight-selection", "alone", "tleg", "tleg-elastic", "stage-wise"]
        assert users == [*learned, "pool", "pool-ls", "heur-lg", "auto-lg"]  # sn-net here learns from labels alone
    seen: set[str] = set()
    for name, unit in made.units.items():
        assert name == unit.id
        assert set(unit.needs) <= seen
        seen.add(name)


def test_a_pool_stands_beside_the_networks_of_its_cost() -> None:
    """In a depth's column is the path nearest in MACs; where none is near, the pool has no cell; all paths are measured."""
    chosen = methods()
    row = next(row for row in chosen.rows if row.name == "sn-net")
    assert set(row.paths) == {2, 4}  # the largest member is far below depth 12
    vit, design = chosen.base.network.vit(0), row.pool.design(0) if row.pool else None
    assert design is not None
    for depth, path in row.paths.items():
        wanted = cost(vit, depth).macs
        near = abs(stack_cost(design.stack(Member.along(path))).macs - wanted)
        assert near <= 0.2 * wanted
        assert near == min(abs(stack_cost(design.stack(member)).macs - wanted) for member in design.members)
    made = methods_plan()
    cells = [cell for cell in made.cells if cell.row == "sn-net"]
    assert {cell.depth for cell in cells} == {2, 4}
    assert {cell.path for cell in cells} == {str(path) for path in row.paths.values()}
    members = [member for member in made.members if member.row == "sn-net"]
    assert len(members) == 2 * (2 + 10)  # two anchors and 3 * 4 - 2 paths, before and after the joint training
    assert {len(member.units) for member in members} == {3}
    tuned = next(made.units[cell.unit] for cell in cells if (cell.depth, cell.data, cell.epochs) == (2, "drawings", 4))
    stack = design.stack(Member.along(row.paths[2])).with_changes(num_classes=15)
    assert tuned.macs == tuned.images * stack_cost(stack).macs


def test_what_a_pool_costs_is_counted_path_by_path() -> None:
    """Anchors, what they ask of the ancestry, and of each joint update the path drawn; shared anchors count for both."""
    chosen, images = methods(), 15 * 64
    made, vit = methods_plan(), chosen.base.network.vit(10)
    by_label = {unit.label: unit for unit in made.units.values()}
    own, other = by_label["pool: anchors and stitches, seed 1"], by_label["pool-ls: anchors and stitches, seed 1"]
    small, large = (replace(vit, embed_dim=width, num_heads=heads) for width, heads in ((16, 1), (32, 2)))
    row = next(row for row in chosen.rows if row.name == "pool")
    assert row.pool is not None
    design, joint = row.pool.design(10), row.pool.with_seed(1).joint
    sampler = PathSampler.of(design, joint, 1)
    drawn = 64 * sum(stack_cost(design.stack(Member.along(sampler.path(step)))).macs for step in range(15))
    matrices = 16 * 32 * (2 * 3 * 16 + 2 * 1 * 32)  # outputs and attentions, at three positions and at one
    asked = cost(vit, 6).macs
    anchors = 3 * images * (cost(small, 3).macs + cost(large, 3).macs + matrices)
    assert (own.macs, own.extra_macs) == (anchors + drawn, (3 * images * 2 + images) * asked)
    fitted = 100 * (cost(small, 3).macs + cost(large, 3).macs)
    assert (other.macs, other.extra_macs) == (drawn, images * asked + fitted)
    depths = row.depths(chosen.depths)
    making = made.making_flops("pool-ls", depths, 1)
    assert making == other.flops + 6 * anchors + 2 * 3 * images * 2 * asked
    assert made.ancestry_flops("pool-ls", 1) == 6 * 2 * images * cost(vit, 6).macs
    assert made.ancestry_flops("sn-net", 1) == 0
    assert made.stored_params["pool"] == cost(small, 3).params + cost(large, 3).params + 2 * (16 * 32 + 32)
    assert made.stored_params["heur-lg"] == cost(vit, 3).params


def test_a_front_has_what_nothing_cheaper_beats(tmp_path: Path) -> None:
    """Cheapest first and strictly better; stitches that are not trained yet are on none."""
    chosen = methods().with_choice(seeds=(0, 1), rows=("alone", "pool"))
    made = plan(chosen)
    by_depth = {0: 0.0, 2: 0.3, 4: 0.2, 12: 0.5}
    lines = []
    for name, unit in made.units.items():
        value = 0.9 if unit.settings.get("stage") == "stitched" else 0.1
        paths = {str(member.path): value for member in design_members(chosen)}
        lines.append({"unit": name, "top1": by_depth[depth_of(unit.label)], "paths": paths, "curve": [0.0] * 4})
    results = written(tmp_path, lines)
    points = points_of(made, Scores(made, results))
    assert {point.member.stage for point in points} == {Stage.STITCHED, Stage.WHOLE}
    labels = [point.member.member.label for point in front(points, macs_of)]
    assert labels == ["p0.0-2", "d2", "d12"]
    text = members_csv(made, Scores(made, results)).splitlines()
    assert len(text) == 1 + 3 + 2 * 9
    assert [line.split(",")[2] for line in text if line.endswith("1,1")] == ["d2", "d12", "p0.0-2"]


def written(folder: Path, lines: list[dict[str, Any]]) -> Results:
    """Return results that are all there."""
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Results(folder / "results.jsonl")


def design_members(chosen: ComparisonConfig) -> tuple[Member, ...]:
    """Return the members of the comparison's pool."""
    pool = next(row.pool for row in chosen.rows if row.pool is not None)
    return pool.design(10).members


def depth_of(label: str) -> int:
    """Return the depth in a measurement's label; 0 where there is none."""
    word = next((word for word in label.split() if word[0] == "d" and word[1:].isdigit()), "d0")
    return int(word[1:])


def test_claims_about_pools_follow_from_the_numbers(tmp_path: Path) -> None:
    """Learned stitches that start behind and end ahead; less stored, and smaller members, because of the anchors."""
    chosen = methods()
    made, lines = methods_plan(), []
    paths = [str(member.path) for row in chosen.rows if row.pool is not None for member in row.pool.design(10).members]
    for name, unit in made.units.items():
        value = 0.3 + 0.001 * int(unit.label.partition("seed ")[2][:1] or 0)
        if unit.label.startswith("pool seed"):
            value += -0.1 if unit.settings["stage"] == "stitched" else 0.1
        lines.append({"unit": name, "top1": 0.3, "paths": dict.fromkeys(paths, value), "curve": [0.3] * 4})
    results = written(tmp_path, lines)
    claims = {(claim.row, claim.text): claim for claim in method_claims(chosen, made, Scores(made, results), num_classes=10)}
    assert claims["pool", "Learngene Pool stores less than SN-Net"].verdict == "held"
    assert claims["pool", "Learngene Pool reaches smaller networks than SN-Net"].verdict == "held"
    better = "learned stitches are better than least squares, {} the joint training: mean over all stitched paths"
    before, after = claims["pool", better.format("before")], claims["pool", better.format("after")]
    assert before.verdict == "did not hold"
    assert before.details.startswith("-10.0 ± 0.0 points beside pool-ls (20.1 and 30.1); ahead on 0 of 7 paths")
    assert after.verdict == "held"
    assert "ahead on 7 of 7 paths" in after.details
    works = "a stitched network works before any training of its stitches: mean over all stitched paths ahead of chance"
    assert claims["sn-net", works].verdict == "held"
    equal = "ahead of scratch at equal steps on drawings, at every depth and length, with intervals that do not overlap"
    assert claims["heur-lg", equal].verdict == "undecided"


def test_learned_stitches_are_compared_on_the_paths_that_both_have(tmp_path: Path) -> None:
    """The least-squares pool may be stitched at fewer places: windows of one block join block j to block j alone."""
    chosen = methods(
        ('init = "least-squares"\n\n[learngenes.sn-net', 'init = "least-squares"\nkernel = 1\n\n[learngenes.sn-net')
    )
    made = make_plan(chosen, PARTS, None)
    paths = [str(member.path) for row in chosen.rows if row.pool is not None for member in row.pool.design(10).members]
    lines = [{"unit": name, "top1": 0.3, "paths": dict.fromkeys(paths, 0.3), "curve": [0.3] * 4} for name in made.units]
    claims = method_claims(chosen, made, Scores(made, written(tmp_path, lines)), num_classes=10)
    better = [claim for claim in claims if "better than least squares" in claim.text]
    assert [claim.details.rpartition("on ")[2] for claim in better] == ["0 of 3 paths that both have"] * 2
