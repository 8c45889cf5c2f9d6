"""`tleg train` with recipes of pools: from files to a measured learngene, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.training.pools import ancestry_model
from tests.training.test_commands import invoke
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.training.run_record import read_run

RECIPE = """
[pool]
method = "sn-net"
[network]
img_size = 16
patch_size = 8
[[anchors]]
name = "small"
size = "test"
embed_dim = 16
depth = 2
[[anchors]]
name = "large"
size = "test"
depth = 2
[stitching]
images = 16
[joint]
epochs = 2
warmup_epochs = 1
alpha = 0.0
[training]
epochs = 2
warmup_epochs = 1
batch_size = 16
precision = "float32"
"""


@pytest.fixture(scope="module")
def workshop(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, an ancestry ViT, a recipe and the pool that it makes."""
    root = tmp_path_factory.mktemp("workshop")
    save_parquet(bars, root / "train.parquet")
    save_parquet(bars.head(30), root / "test.parquet")
    ancestry_model().write(root / "ancestry.safetensors", {})
    (root / "recipe.toml").write_text(RECIPE)
    result = invoke(
        *("train", root / "recipe.toml", "--data", root / "train.parquet", "--test-data", root / "test.parquet"),
        *("--out", root / "pool.safetensors", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    (measuring,) = [line for line in result.output.splitlines() if line.startswith("measuring")]
    assert " 180/180 " in measuring  # thirty images along each of six paths
    return root


def test_training_writes_a_pool_with_the_accuracy_of_every_path(workshop: Path) -> None:
    """Two anchors and four stitched paths; the journal has a line for each, and curves without them."""
    description = Learngene.open(workshop / "pool.safetensors").description
    assert description.method == "sn-net"
    assert [str(entry.path) for entry in description.accuracy] == [
        *("0.0-1", "1.0-1", "0.0-0_1.0-1", "0.0-0_1.1-1", "0.0-1_1.0-1", "0.0-1_1.1-1"),
    ]
    assert description.provenance.ancestry == "none: trained on labels"
    lines = [json.loads(line) for line in (workshop / "pool.run" / "journal.jsonl").read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("epoch") == 6
    assert [line["message"] for line in lines if line["event"] == "note"] == [
        "phase 1 of 4: anchor small",
        "phase 2 of 4: anchor large",
        "phase 3 of 4: stitches by least-squares",
        "phase 4 of 4: all together",
    ]
    assert [line["path"] for line in lines if line["event"] == "measurement"][2] == "0.0-0_1.0-1"
    record = read_run(workshop / "pool.run")
    assert [report.epoch for report in record.epochs] == [1, 2, 3, 4, 5, 6]
    assert record.depth_top1 == {}


def test_a_finished_run_is_resumed_to_the_same(workshop: Path, tmp_path: Path) -> None:
    """And not begun again without being asked to."""
    workshop = shutil.copytree(workshop, tmp_path / "workshop")
    words = ["train", workshop / "recipe.toml", "--data", workshop / "train.parquet", "--out", workshop / "pool.safetensors"]
    digest = Learngene.open(workshop / "pool.safetensors").digest
    assert "--resume" in str(invoke(*words, "--device", "cpu").exception)
    assert invoke(*words, "--device", "cpu", "--resume").exit_code == 0
    assert Learngene.open(workshop / "pool.safetensors").digest == digest


def test_a_recipe_is_changed_from_the_command_line(workshop: Path, tmp_path: Path) -> None:
    """Distilled anchors and a learned start by --set; an anchor from a file; a short trial shortens both warm-ups."""
    result = invoke(
        *("train", workshop / "recipe.toml", "--data", workshop / "train.parquet", "--device", "cpu"),
        *("--ancestry", workshop / "ancestry.safetensors", "--out", tmp_path / "pool.safetensors", "--epochs", 1),
        *("--set", "pool.method=pool", "--set", "anchor_training.rule=distilled", "--set", "stitching.init=learned"),
        *("--set", "anchors.small.depth=3", "--set", "anchors.large.depth=3", "--set", "joint.epochs=1"),
        *("--set", "anchors.small.positions=front-end", "--set", "anchor_training.alpha=0.9"),
    )
    assert result.exit_code == 0, result.output
    description = Learngene.open(tmp_path / "pool.safetensors").description
    assert (description.method, len(description.pool.members), description.accuracy) == ("pool", 9, ())
    assert "vit_tiny_patch16_224" in description.provenance.ancestry
    assert "stitches: learned" in description.provenance.notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "tiny"), "size: is of each anchor its own: give --set anchors.NAME.size"),
        (("--depth", 4), "depth: is not one number here: give --set anchors.NAME.depth"),
        (("--ancestry", "ANCESTRY"), "ancestry: has no use: neither anchors"),
        (("--set", "joint.alpha=0.5"), "ancestry: is needed: the recipe distils"),
        (("--anchor", "small"), "anchor: must be like ti=tiny.safetensors"),
        (("--anchor", "small=nowhere.safetensors"), "anchor: there is no file nowhere.safetensors"),
        (("--anchor", "tiny=ANCESTRY"), "anchor: 'tiny' is none of the recipe's anchors, small, large"),
        (("--anchor", "small=ANCESTRY"), "does not fit anchor small"),
        (("--set", "joint.lr=-1"), "joint.lr: must be"),
        (("--set", "anchors.huge.depth=3"), "anchors.huge.depth: must be like small.depth"),
        (("--batch-size", 4000), "batch_size: 4000 is more than the 48 images"),
    ],
)
def test_wrong_options_are_one_clear_error(workshop: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    """Each names the option, and what to give instead."""
    place = str(workshop / "ancestry.safetensors")
    result = invoke(
        *("train", workshop / "recipe.toml", "--data", workshop / "train.parquet", "--out", tmp_path / "out.safetensors"),
        *("--device", "cpu", *(str(word).replace("ANCESTRY", place) for word in words)),
    )
    assert message in str(result.exception)


def test_anchors_are_for_pools(workshop: Path, tmp_path: Path) -> None:
    """Another recipe has none."""
    result = invoke(
        *("train", "--data", workshop / "train.parquet", "--out", tmp_path / "out.safetensors", "--device", "cpu"),
        *("--anchor", f"small={workshop / 'ancestry.safetensors'}"),
    )
    assert isinstance(result.exception, ConfigError)
    assert "anchor: is for a recipe with anchors" in str(result.exception)
