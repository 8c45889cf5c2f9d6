"""Fitting ancestry models: the whole network, the head alone, neither; and the commands that do it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import typer
from click.testing import Result
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from service.cli import ancestry
from tleg_core.errors import CheckpointError, ConfigError, TlegError
from tleg_core.image_source import read_picture
from tleg_core.images import ImageSet, load_image_set, open_images, save_parquet
from tleg_core.training.ancestry import AncestryCard, AncestryModel, Fit
from tleg_core.training.ancestry_fit import features_of, fit_ancestry_head
from tleg_core.training.architecture import Architecture
from tleg_core.training.evaluate import measure_top1
from tleg_core.training.journal import Journal
from tleg_core.training.preprocessing import to_unit
from tleg_core.training_config import Precision

CPU = torch.device("cpu")

app = typer.Typer()
app.add_typer(ancestry.app, name="ancestry")


def invoke(*words: object) -> Result:
    """Run `tleg ancestry` in this process; a traceback other than ours fails the test."""
    arguments = ["ancestry", *(str(word) for word in words)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tleg", *arguments])
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit | TlegError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def workshop(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and weights of two timm models with a head of 7 classes."""
    root = tmp_path_factory.mktemp("ancestry")
    save_parquet(bars, root / "train.parquet")
    save_parquet(bars.head(30), root / "test.parquet")
    torch.manual_seed(0)
    for name, arguments in (("test_efficientnet", {}), ("test_vit", {"img_size": 32})):
        save_file(timm.create_model(name, num_classes=7, **arguments).state_dict(), root / f"{name}.safetensors")
    return root


def data_of(root: Path) -> tuple[object, ...]:
    """The options that say which images, and where to compute."""
    return ("--data", root / "train.parquet", "--test-data", root / "test.parquet", "--device", "cpu", "--batch-size", 16)


def card_of(architecture: str, bars: ImageSet) -> AncestryCard:
    """A card of a tiny model for 32 px."""
    shape = Architecture.named(architecture, img_size=32)
    return AncestryCard.of(shape, class_names=bars.class_names, data_set="bars", origin="o", licence="l", fit=Fit.HEAD)


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_vit"])
def test_the_head_alone_is_fitted_and_nothing_else_moves(workshop: Path, tmp_path: Path, architecture: str) -> None:
    """Every other tensor, batch statistics included, is the pretrained one; the measured accuracy stands in the file."""
    weights = workshop / f"{architecture}.safetensors"
    out = tmp_path / "a.safetensors"
    result = invoke(
        *("fit", "--head-only", "--weights", weights, "--architecture", architecture, "--img-size", 32, "--out", out),
        *data_of(workshop),
    )
    assert result.exit_code == 0, result.output
    model = AncestryModel.open(out)
    head = model.network.pretrained_cfg["classifier"]
    before, after = load_file(weights), load_file(out)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert name.startswith(head) or torch.equal(tensor, before[name]), name
    top1 = measure_top1(model, load_image_set(workshop / "test.parquet"), device=CPU)
    assert model.card.accuracy == {"test": top1.fraction}
    assert top1.fraction > 0.8  # a linear head on the features of even a random network tells three bands apart
    assert f"top-1 {top1.fraction:.2%}" in result.output
    assert model.card.fit is Fit.HEAD
    assert "frozen, its head fitted on train" in model.card.describe()
    timms = timm.data.resolve_model_data_config(timm.create_model(architecture))
    assert model.card.preprocessing.crop_pct == timms["crop_pct"]


def test_features_are_computed_once_for_the_same_model_and_images(bars: ImageSet, tmp_path: Path) -> None:
    """They are read where they are kept, and computed anew for other weights, images, input or arithmetic."""
    torch.manual_seed(0)
    model = AncestryModel(card_of("test_vit", bars)).freeze()
    path = tmp_path / "features.safetensors"
    asked = {"batch_size": 20, "device": CPU}
    counts: list[int] = []
    first = features_of(model, bars, path, precision=Precision.FLOAT32, progressed=counts.append, **asked)
    assert counts == [20, 20, 8]
    images = to_unit(torch.from_numpy(bars.images))
    torch.testing.assert_close(first, model.features(images), rtol=1e-4, atol=1e-5)  # in other batches
    stamp = path.stat().st_mtime_ns
    with torch.no_grad():
        model.head().weight.zero_()  # another head needs no other features
    assert torch.equal(features_of(model, bars, path, precision=Precision.FLOAT32, **asked), first)
    assert path.stat().st_mtime_ns == stamp
    others = [(bars.head(40), Precision.FLOAT32), (bars, Precision.BFLOAT16), (bars, Precision.FLOAT32)]
    for number, (data, precision) in enumerate(others):
        if number == 2:
            with torch.no_grad():
                model.network.norm.weight.mul_(2.0)
        again = features_of(model, data, path, precision=precision, **asked)
        assert len(again) == len(data)
        assert not torch.equal(again[:40], first[:40]) or len(data) == 40
        assert path.stat().st_mtime_ns > stamp
        stamp = path.stat().st_mtime_ns


def test_a_model_without_one_linear_head_is_refused(bars: ImageSet, tmp_path: Path) -> None:
    """Here a distilled one, which has two."""
    card = card_of("deit_tiny_distilled_patch16_224", bars)
    save_file(timm.create_model(card.architecture, img_size=32).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="head_only: needs a model that ends in one linear layer"):
        fit_ancestry_head(
            card,
            tmp_path / "w.safetensors",
            bars,
            bars,
            seed=0,
            precision=Precision.FLOAT32,
            batch_size=16,
            out=tmp_path / "a.safetensors",
            folder=tmp_path,
            journal=Journal(tmp_path / "journal.jsonl"),
            device=CPU,
        )


def test_a_whole_network_is_trained_from_random_weights_and_says_so(workshop: Path, tmp_path: Path) -> None:
    """The card names no origin that it does not have; two runs with one seed are equal."""
    words = ("fit", "--from-scratch", "--architecture", "test_vit", "--model-arg", "img_size=32", "--model-arg", "depth=2")
    words += ("--epochs", 2, "--lr", 1e-3, "--crop-pct", 1, "--mean", "0.4,0.4,0.4", *data_of(workshop))
    for name in ("a", "b"):
        result = invoke(*words, "--out", tmp_path / f"{name}.safetensors")
        assert result.exit_code == 0, result.output
    model, again = (AncestryModel.open(tmp_path / f"{name}.safetensors") for name in ("a", "b"))
    assert model.digest() == again.digest()
    assert model.card == again.card
    card = model.card
    assert card.describe().startswith("test_vit, trained from random weights on train at 32 px, top-1 ")
    assert (card.origin, card.licence, card.fit) == ("random weights, seed 0", "none needed", Fit.SCRATCH)
    assert card.model_args == {"img_size": 32, "depth": 2}
    assert (card.preprocessing.mean, card.preprocessing.crop_pct) == ((0.4, 0.4, 0.4), 1.0)


@pytest.mark.parametrize("how", [("--head-only",), ("--epochs", 1)])
def test_photos_of_many_sizes_in_folders_will_do(
    workshop: Path, bars: ImageSet, tmp_path: Path, how: tuple[object, ...]
) -> None:
    """They are read when asked for, and brought to the model's size as timm's evaluation does: the centre of each."""
    for part, few in (("train", 24), ("test", 12)):
        for row in range(few):
            folder = tmp_path / "photos" / part / bars.class_names[bars.labels[row]]
            folder.mkdir(parents=True, exist_ok=True)
            side = 40 + row
            Image.fromarray(bars.images[row]).resize((side + 7, side)).save(folder / f"{part}-{row}.png")
    out = tmp_path / "a.safetensors"
    words = ("--data", tmp_path / "photos", "--test-data", tmp_path / "photos", "--device", "cpu", "--batch-size", 8)
    words += ("--architecture", "test_efficientnet", "--weights", workshop / "test_efficientnet.safetensors")
    result = invoke("fit", *how, *words, "--img-size", 32, "--crop-pct", 0.8, "--out", out)
    assert result.exit_code == 0, result.output
    model = AncestryModel.open(out)
    theirs = timm.data.create_transform(32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.8)
    test = open_images(tmp_path / "photos", split="test")
    with torch.no_grad():
        predicted = [int(model.network(theirs(read_picture(test, row))[None]).argmax()) for row in range(len(test))]
    assert model.card.accuracy == {"photos-test": pytest.approx((np.array(predicted) == test.labels).mean())}


def test_a_whole_network_is_not_resumed_with_other_weights(workshop: Path, tmp_path: Path) -> None:
    """What a run started from is part of what it is."""
    torch.manual_seed(1)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "other.safetensors")
    words = ("fit", "--architecture", "test_efficientnet", "--img-size", 32, "--epochs", 1, *data_of(workshop))
    words += ("--out", tmp_path / "a.safetensors", "--weights")
    assert invoke(*words, workshop / "test_efficientnet.safetensors").exit_code == 0
    assert invoke(*words, workshop / "test_efficientnet.safetensors", "--resume").exit_code == 0
    result = invoke(*words, tmp_path / "other.safetensors", "--resume")
    assert isinstance(result.exception, CheckpointError)
    assert "is of another run: weights was" in str(result.exception)


def test_a_model_with_its_head_is_imported_untouched(workshop: Path, bars: ImageSet, tmp_path: Path) -> None:
    """No training: the tensors are the file's, the classes those given or the test data's."""
    torch.manual_seed(2)
    network = timm.create_model("test_efficientnet", num_classes=3)
    save_file(
        {k: t.half() if t.is_floating_point() else t for k, t in network.state_dict().items()}, tmp_path / "w.safetensors"
    )
    (tmp_path / "names.txt").write_text("top\nmiddle\nbottom\n")
    words = ("import", "--weights", tmp_path / "w.safetensors", "--architecture", "test_efficientnet", "--img-size", 32)
    words += ("--device", "cpu", "--origin", "somewhere", "--licence", "MIT", "--out", tmp_path / "a.safetensors")
    for given in (
        ("--classes", "top,middle,bottom"),
        ("--classes", tmp_path / "names.txt"),
        ("--test-data", workshop / "test.parquet"),
    ):
        result = invoke(*words, *given)
        assert result.exit_code == 0, result.output
        model = AncestryModel.open(tmp_path / "a.safetensors")
        assert model.card.class_names == bars.class_names
        assert model.card.describe().startswith(
            "test_efficientnet (somewhere, MIT), trained elsewhere on unknown data at 32 px"
        )
        after = load_file(tmp_path / "a.safetensors")
        assert all(
            torch.equal(after[name], t.half().float() if t.is_floating_point() else t)
            for name, t in network.state_dict().items()
        )
    top1 = measure_top1(model, load_image_set(workshop / "test.parquet"), device=CPU)
    assert model.card.accuracy == {"test": top1.fraction}
    result = invoke(*words, "--classes", "bottom,top,middle", "--test-data", workshop / "test.parquet")
    assert "classes: are not those of test, or stand in another order" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fit",), "weights: are needed, or --from-scratch; not both"),
        (("fit", "--from-scratch", "--weights", "WEIGHTS"), "weights: are needed, or --from-scratch; not both"),
        (("fit", "--from-scratch", "--head-only"), "head_only: needs pretrained --weights"),
        (("fit", "--weights", "nowhere"), "weights: there is no file nowhere"),
        (("fit", "--weights", "WEIGHTS", "--head-only", "--epochs", 2), "epochs: is of no use with --head-only"),
        (("fit", "--weights", "WEIGHTS", "--model-arg", "112"), "model_arg: must be like img_size=112, not '112'"),
        (("fit", "--weights", "WEIGHTS", "--model-arg", "num_classes=3"), "model_args.num_classes: cannot be given"),
        (("fit", "--weights", "WEIGHTS", "--mean", "grey"), "mean: must be like 0.5,0.5,0.5"),
        (("fit", "--weights", "WEIGHTS", "--architecture", "test_vat"), "timm has no model 'test_vat'; there is test_vit"),
        (("fit", "--weights", "WEIGHTS", "--architecture", "test_resnet"), "does not fit test_resnet: missing"),
        (("import", "--weights", "WEIGHTS"), "classes: are needed"),
        (("import", "--weights", "WEIGHTS", "--classes", "a,a"), "classes: must be names, each once"),
        (("import", "--weights", "WEIGHTS", "--classes", "a,b"), "of another shape ['classifier.bias (7,), not (2,)'"),
    ],
)
def test_wrong_options_are_one_clear_error(workshop: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    """Each names the option and what it may be."""
    given = [workshop / "test_efficientnet.safetensors" if word == "WEIGHTS" else word for word in words]
    if "--architecture" not in given:
        given += ["--architecture", "test_efficientnet"]
    data = data_of(workshop) if words[0] == "fit" else ("--device", "cpu")
    result = invoke(*given, *data, "--img-size", 32, "--out", tmp_path / "a.safetensors")
    assert isinstance(result.exception, TlegError), result.output
    assert message in str(result.exception)
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.slow
def test_a_head_on_dinov2_knows_photos(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """From 150 CIFAR-10 photos a linear head on the real ViT-S learns far more than the tenth that chance gives on others."""
    weights = shared_data("vit_small_patch14_dinov2_imgfocus_112.fp16.safetensors")
    for part, count in (("train", 150), ("test", 100)):
        photos = pq.read_table(shared_data(f"cifar10-{part}.parquet")).slice(0, count)
        pq.write_table(photos, tmp_path / f"{part}.parquet")
    result = invoke(
        *("fit", "--head-only", "--weights", weights, "--architecture", "vit_small_patch14_dinov2"),
        *("--model-arg", "img_size=112", "--out", tmp_path / "a.safetensors", *data_of(tmp_path)),
    )
    assert result.exit_code == 0, result.output
    card = AncestryModel.open(tmp_path / "a.safetensors").card
    assert card.accuracy["test"] > 0.25  # 71.5 % with 2,000 photos
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)  # ImageNet's, as timm says of DINOv2
    assert json.loads((tmp_path / "a.run" / "journal.jsonl").read_text().splitlines()[0])["event"] == "start"
