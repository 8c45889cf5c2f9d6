"""The training commands, from images to a measured learngene."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
import typer
from click.testing import Result
from safetensors.torch import save_file
from typer.testing import CliRunner

from service.cli import ancestry, evaluate, train, training
from service.cli.recipe_changes import configured
from tleg_core.errors import ConfigError, TlegError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene

app = typer.Typer()
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("import")(training.import_checkpoint)
app.add_typer(ancestry.app, name="ancestry")


def invoke(*words: object) -> Result:
    """Run a command in this process; a traceback other than ours fails the test."""
    arguments = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tleg", *arguments])  # what a learngene's provenance quotes
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit | TlegError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def workshop(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, an ancestry model fitted on them and a learngene trained from it: two commands."""
    root = tmp_path_factory.mktemp("workshop")
    save_parquet(bars, root / "train.parquet")
    save_parquet(bars.head(30), root / "test.parquet")
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet", num_classes=7).state_dict(), root / "pretrained.safetensors")
    data = ("--data", root / "train.parquet", "--test-data", root / "test.parquet", "--device", "cpu", "--batch-size", 16)
    fit = invoke(
        *("ancestry", "fit", "--weights", root / "pretrained.safetensors", "--architecture", "test_efficientnet"),
        *("--img-size", 32, "--out", root / "ancestry.safetensors", "--epochs", 2, *data),
    )
    assert fit.exit_code == 0, fit.output
    trained = invoke(
        *("train", "--ancestry", root / "ancestry.safetensors", "--out", root / "bars.safetensors", "--epochs", 2),
        *("--size", "test", "--num-heads", 4, "--img-size", 16, "--patch-size", 8, "--depth", 4, "--flip", 0, *data),
    )
    assert trained.exit_code == 0, trained.output
    (root / "output.txt").write_text(trained.output)
    return root


def test_training_writes_a_learngene_with_its_accuracy_at_every_depth(workshop: Path) -> None:
    """The file describes itself: network, provenance, classes, and a measurement for each member."""
    gene = Learngene.open(workshop / "bars.safetensors")
    description = gene.description
    assert (description.config.embed_dim, description.config.num_heads, description.basis.trained_depth) == (32, 4, 4)
    assert description.class_names == ("top", "middle", "bottom")
    assert [(entry.depth, entry.data_set, entry.images) for entry in description.accuracy] == [
        (depth, "test", 30) for depth in range(1, 13)
    ]
    assert "test_efficientnet" in description.provenance.ancestry
    assert description.provenance.command.startswith("tleg train --ancestry ")
    assert description.provenance.licence == ""  # nobody said one


def test_measuring_the_members_has_a_bar_of_its_own(workshop: Path) -> None:
    """By images: each of the twelve depths sees all thirty."""
    (line,) = [line for line in (workshop / "output.txt").read_text().splitlines() if line.startswith("measuring")]
    assert " 360/360 " in line


def test_the_journal_holds_the_run(workshop: Path) -> None:
    """Start, epochs, measurements and the end, one JSON object a line."""
    lines = (workshop / "bars.run" / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["start", "step", "epoch", "epoch", *["measurement"] * 12, "done"]


def test_evaluating_replaces_the_accuracy_on_the_same_data_only(workshop: Path, tmp_path: Path) -> None:
    """Depths and image counts are as asked, other entries stay, and the learngene's digest does not change."""
    before = Learngene.open(workshop / "bars.safetensors")
    before.write(tmp_path / "copy.safetensors")
    result = invoke(
        *("evaluate", tmp_path / "copy.safetensors", "--data", workshop / "test.parquet"),
        *("--depths", "2,4-5", "--limit", 6, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    after = Learngene.open(tmp_path / "copy.safetensors")
    assert {entry.depth for entry in after.description.accuracy if entry.images == 6} == {2, 4, 5}
    assert len(after.description.accuracy) == 12
    assert after.digest == before.digest


def test_a_finished_runs_folder_is_not_overwritten(workshop: Path, tmp_path: Path) -> None:
    """Training to the same place again asks for --resume, which then finds nothing left to do and gives the same bytes."""
    workshop = shutil.copytree(workshop, tmp_path / "workshop")
    words = ["train", "--ancestry", workshop / "ancestry.safetensors", "--out", workshop / "bars.safetensors", "--epochs", 2]
    words += ["--size", "test", "--num-heads", 4, "--img-size", 16, "--patch-size", 8, "--depth", 4, "--flip", 0]
    words += ["--data", workshop / "train.parquet", "--device", "cpu", "--batch-size", 16]
    digest = Learngene.open(workshop / "bars.safetensors").digest
    assert "--resume" in str(invoke(*words).exception)
    assert invoke(*words, "--resume").exit_code == 0
    assert Learngene.open(workshop / "bars.safetensors").digest == digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "giant"), "size: must be one of"),
        (("--set", "distillation.normalisation=mean"), "distillation.normalisation: must be one of batchmean, numel"),
        (("--set", "distillation.alpha=2"), "distillation.alpha: must be from 0 to 1"),
        (("--num-heads", 5), "num_heads: 5 does not divide"),
        (("--patch-size", 5), "img_size: 28 is not a multiple"),
        (("--device", "abacus"), "device: must be auto, cpu, cuda or one of several as cuda:1, not 'abacus'"),
        (("--batch-size", 4000), "batch_size: 4000 is more than the 48 images"),
        (("--test-data", "SAME"), "test_data: holds the very images"),
        (("--ancestry", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("--name", "Not A Name"), "name: must be"),
    ],
)
def test_wrong_options_are_one_clear_error(workshop: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    """Each names the option and its limits."""
    words = tuple(workshop / "train.parquet" if word == "SAME" else word for word in words)
    result = invoke(
        *("train", "--data", workshop / "train.parquet", "--ancestry", workshop / "ancestry.safetensors"),
        *("--out", tmp_path / "out.safetensors", "--device", "cpu", "--batch-size", 16, *words),
    )
    assert isinstance(result.exception, TlegError)
    assert message in str(result.exception)


def test_a_short_trial_shortens_the_warm_up_whichever_way_it_is_asked_for() -> None:
    """`--epochs 1` is `--set training.epochs=1`; a warm-up that is named is taken as it is."""
    short = [
        configured("elastic-ti-cifar10", {"training": {"epochs": epochs}}, changes, has_ancestry=True)
        for epochs, changes in ((1, []), (None, ["training.epochs=1"]))
    ]
    assert short[0] == short[1]
    assert (short[0].training.epochs, short[0].training.warmup_epochs) == (1, 0)
    with pytest.raises(ConfigError, match=r"training\.warmup_epochs"):
        configured("elastic-ti-cifar10", {}, ["training.epochs=1", "training.warmup_epochs=1"], has_ancestry=True)


def test_images_of_one_class_teach_nothing(bars: ImageSet, tmp_path: Path) -> None:
    """A data set with images of a single class is refused before anything is trained."""
    one = bars.labels == 0
    alone = ImageSet(name="alone", images=bars.images[one], labels=bars.labels[one], class_names=bars.class_names)
    save_parquet(alone, tmp_path / "alone.parquet")
    result = invoke(
        *("train", "--data", tmp_path / "alone.parquet", "--out", tmp_path / "out.safetensors", "--device", "cpu"),
        *("--batch-size", 8, "--size", "test", "--img-size", 16, "--patch-size", 8),
    )
    assert isinstance(result.exception, ConfigError)
    assert "one class alone" in str(result.exception)


@pytest.mark.parametrize("depths", ["0", "13", "x", "3-", ""])
def test_wrong_depths_are_refused(workshop: Path, depths: str) -> None:
    """Outside what the learngene offers, or no list at all."""
    result = invoke("evaluate", workshop / "bars.safetensors", "--data", workshop / "test.parquet", "--depths", depths)
    assert "depths: must" in str(result.exception)


def test_importing_writes_a_file_that_opens(workshop: Path, tmp_path: Path) -> None:
    """A learngene saved in the authors' form comes back with the same tensors."""
    gene = Learngene.open(workshop / "bars.safetensors")
    official = {}
    for name, array in gene.tensors.items():
        if name.startswith("basis."):
            module, kind = name.removeprefix("basis.").rsplit(".", 1)
            for component, which in enumerate(("base", "ilayer")):
                official[f"blocks.block.{module}.instances.0.{kind}_{which}"] = torch.from_numpy(array[component].copy())
        else:
            official[name] = torch.from_numpy(array.copy())
    torch.save({"model": official, "epoch": 149, "args": {"lr": 5e-4}}, tmp_path / "aux.pth")
    result = invoke("import", tmp_path / "aux.pth", "--out", tmp_path / "again.safetensors", "--num-heads", 4)
    assert result.exit_code == 0, result.output
    assert Learngene.open(tmp_path / "again.safetensors").digest == gene.digest
