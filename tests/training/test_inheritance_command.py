"""`tleg train` on a recipe that inherits layers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from service.cli import train
from tleg_core.errors import ConfigError, TlegError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.training.ancestry import AncestryCard, AncestryModel
from tleg_core.training_recipe import read_recipe

app = typer.Typer()
app.command("train")(train.train)
app.command("other")(lambda: None)  # with two commands, typer takes the name of one

RECIPES = {
    "stability": '[selection]\nrule = "stability"\nnum_layers = 2\n'
    "[stability]\nnum_tasks = 2\nclasses_per_task = 2\nwindows = 1\nfisher_images = 2\n",
    "transfer": '[selection]\nrule = "transfer"\nnum_layers = 2\n[transfer]\ndepth = 1\nmeta_images = 8\nscore_images = 16\n',
    "given": '[selection]\nrule = "given"\nlayers = [0, 2]\n',
}
TRAINING = '[training]\nepochs = 1\nbatch_size = 8\nprecision = "float32"\n[depths]\noffer_max = 4\n'


def invoke(*words: object) -> Result:
    """Run a command in this process; a traceback other than ours fails the test."""
    arguments = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tleg", *arguments])
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit | TlegError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def ground(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a random ViT as ancestry model, and a recipe of each rule."""
    root = tmp_path_factory.mktemp("ground")
    save_parquet(bars, root / "train.parquet")
    save_parquet(bars.head(30), root / "test.parquet")
    torch.manual_seed(0)
    card = AncestryCard(
        architecture="vit_tiny_patch16_224",
        img_size=16,
        class_names=bars.class_names,
        data_set="bars",
        origin="random",
        licence="none",
        model_args={"img_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 3, "mlp_ratio": 2.0},
    )
    AncestryModel(card).write(root / "ancestry.safetensors", {})
    for name, text in RECIPES.items():
        (root / f"{name}.toml").write_text(text + TRAINING)
    return root


@pytest.mark.parametrize("rule", RECIPES)
def test_a_recipe_of_each_rule_makes_a_measured_learngene(ground: Path, rule: str, tmp_path: Path) -> None:
    """Every depth that is offered is measured, fresh layers and all; the journal says what was chosen."""
    result = invoke(
        *("train", ground / f"{rule}.toml", "--ancestry", ground / "ancestry.safetensors", "--device", "cpu"),
        *("--data", ground / "train.parquet", "--test-data", ground / "test.parquet", "--out", tmp_path / "heir.safetensors"),
    )
    assert result.exit_code == 0, result.output
    description = Learngene.open(tmp_path / "heir.safetensors").description
    assert description.selection is not None
    assert len(description.selection.chosen) == 2
    assert [entry.depth for entry in description.accuracy] == [2, 3, 4]
    assert description.provenance.command.startswith("tleg train ")
    assert "vit_tiny_patch16_224" in description.provenance.ancestry
    if rule != "given":
        lines = (tmp_path / "heir.run" / "journal.jsonl").read_text().splitlines()
        notes = [json.loads(line).get("message", "") for line in lines]
        assert any(note.startswith("inherited: layers ") for note in notes)


def test_an_ancestry_model_is_needed(ground: Path, tmp_path: Path) -> None:
    """Its layers are inherited; a network cannot be given beside it."""
    words = ("train", ground / "given.toml", "--data", ground / "train.parquet", "--out", tmp_path / "heir.safetensors")
    for more, named in (
        ((), "ancestry: is needed"),
        (("--ancestry", ground / "ancestry.safetensors", "--size", "tiny"), "size:"),
    ):
        result = invoke(*words, *more)
        assert isinstance(result.exception, ConfigError)
        assert str(result.exception).startswith(named)


def test_the_recipes_that_come_along_are_of_both_rules() -> None:
    """Six layers, as Auto-LG inherits of a ViT."""
    rules = {name: read_recipe(name).to_json()["selection"] for name in ("heur-lg-cifar10", "auto-lg-cifar10")}
    assert [rules[name]["rule"] for name in rules] == ["stability", "transfer"]
    assert [rules[name]["num_layers"] for name in rules] == [6, 6]
