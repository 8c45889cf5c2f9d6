"""Ancestry models: their input, loading weights, and their own file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.training.ancestry import AncestryCard, AncestryModel, Fit
from tleg_core.training.architecture import Architecture

CARD = AncestryCard(
    architecture="test_efficientnet",  # timm's own model for tests, 0.4 M parameters
    img_size=32,
    class_names=("top", "middle", "bottom"),
    data_set="bars",
    origin="random",
    licence="none",
)


@pytest.fixture
def model() -> AncestryModel:
    """A random model."""
    torch.manual_seed(0)
    return AncestryModel(CARD)


def save_timm(path: Path, architecture: str = "test_efficientnet", **arguments: Any) -> Mapping[str, Tensor]:
    """Write random weights of a timm model in half precision; return them."""
    network = timm.create_model(architecture, **arguments)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    save_file(halves, path)
    return halves


def test_a_written_model_reads_back_frozen_and_computes_the_same(model: AncestryModel, tmp_path: Path) -> None:
    """Weights, statistics, card and accuracy survive."""
    model(torch.rand(8, 3, 16, 16))  # moves the batch statistics
    model.write(tmp_path / "a.safetensors", {"bars": 0.5})
    read = AncestryModel.open(tmp_path / "a.safetensors")
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    assert asdict(read.card) == asdict(CARD) | {"accuracy": {"bars": 0.5}}
    assert read.card.describe() == "test_efficientnet (random, none), fine-tuned on bars at 32 px, top-1 0.5000 on bars"
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(read(images), model.eval()(images))


def test_files_of_before_the_fit_was_written_down_are_of_whole_networks(model: AncestryModel, tmp_path: Path) -> None:
    """The first files' cards have no `fit`; their images were normalised around 0.5 and not cropped, as they say."""
    old = {key: value for key, value in asdict(CARD).items() if key != "fit"}
    tensors = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(tensors, tmp_path / "old.safetensors", {"tleg.ancestry": json.dumps(old)})
    card = AncestryModel.open(tmp_path / "old.safetensors").card
    assert card.fit is Fit.WHOLE
    assert (card.preprocessing.mean, card.preprocessing.crop_pct) == ((0.5, 0.5, 0.5), 1.0)


def test_images_of_any_size_are_resized_and_normalised(model: AncestryModel) -> None:
    """What the network sees is 32 px in -1..1, as a plain computation has it."""
    images = torch.rand(2, 3, 16, 16)
    resized = torch.nn.functional.interpolate(images, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    model.eval()
    torch.testing.assert_close(model(images), model.network((resized - 0.5) / 0.5), rtol=1e-5, atol=1e-6)  # another layout


def test_the_centre_is_cut_out_as_timms_evaluation_does() -> None:
    """Of an image resized to 32 / 0.8 = 40 px the 32 in the middle are seen, with the model's own mean and std."""
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), interpolation="bilinear", crop_pct=0.8)
    model = AncestryModel(replace(CARD, preprocessing=preprocessing)).eval()
    images = torch.rand(2, 3, 16, 16)
    seen = torch.nn.functional.interpolate(images, size=(40, 40), mode="bilinear", antialias=True)[..., 4:36, 4:36]
    seen = (seen - torch.tensor(preprocessing.mean).view(3, 1, 1)) / torch.tensor(preprocessing.std).view(3, 1, 1)
    torch.testing.assert_close(model(images), model.network(seen), rtol=1e-5, atol=1e-5)  # another layout


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet", "test_resnet", "test_convnext", "test_byobnet"])
def test_the_head_makes_the_logits_of_the_features(architecture: str) -> None:
    """For models that pool, normalise and flatten in different places."""
    torch.manual_seed(0)
    card = AncestryCard.of(
        Architecture.named(architecture, img_size=32), class_names=("a", "b"), data_set="", origin="", licence="", fit=Fit.HEAD
    )
    model = AncestryModel(card).freeze()
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(model.head()(model.features(images)), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_classes", [1000, 3, 0])
def test_weights_load_strictly_but_for_the_head(model: AncestryModel, tmp_path: Path, num_classes: int) -> None:
    """Half precision, and a head of other classes, of as many, or none, are fine; a missing or foreign tensor is not."""
    halves = dict(save_timm(tmp_path / "w.safetensors", num_classes=num_classes))
    head = model.head().weight.clone()
    model.load_weights(tmp_path / "w.safetensors", with_head=False)
    assert torch.equal(model.network.conv_stem.weight, halves["conv_stem.weight"].float())
    assert torch.equal(model.head().weight, head)
    halves["stranger"] = halves.pop("conv_stem.weight")
    save_file(halves, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \['conv_stem.weight'\], unexpected \['stranger'\]"):
        model.load_weights(tmp_path / "w.safetensors", with_head=False)


def test_a_model_is_loaded_with_its_head(model: AncestryModel, tmp_path: Path) -> None:
    """All tensors are the file's; a head of other classes, or none, is named."""
    halves = save_timm(tmp_path / "w.safetensors", num_classes=3)
    model.load_weights(tmp_path / "w.safetensors", with_head=True)
    assert torch.equal(model.head().weight, halves["classifier.weight"].float())
    save_timm(tmp_path / "w.safetensors", num_classes=7)
    with pytest.raises(CheckpointError, match=r"of another shape \['classifier.bias \(7,\), not \(3,\)'"):
        model.load_weights(tmp_path / "w.safetensors", with_head=True)
    save_timm(tmp_path / "w.safetensors", num_classes=0)
    with pytest.raises(CheckpointError, match=r"missing \['classifier.bias', 'classifier.weight'\]"):
        model.load_weights(tmp_path / "w.safetensors", with_head=True)


def test_the_digest_is_of_all_weights_or_of_all_but_the_heads(model: AncestryModel) -> None:
    """Another head is another model with the same body."""
    whole, body = model.digest(), model.digest(with_head=False)
    with torch.no_grad():
        model.head().weight.add_(1.0)
    assert model.digest() != whole
    assert model.digest(with_head=False) == body


def test_the_shared_efficientnet_loads_whole(shared_data: Callable[[str], Path]) -> None:
    """A real pretrained file in half precision fits its timm architecture, statistics included."""
    path = shared_data("tf_efficientnet_lite0.fp16.safetensors")
    card = AncestryCard(
        architecture="tf_efficientnet_lite0",
        img_size=64,
        class_names=("a", "b"),
        data_set="x",
        origin="x",
        licence="Apache-2.0",
    )
    model = AncestryModel(card)
    model.load_weights(path, with_head=False)
    assert torch.equal(model.network.bn1.running_var, load_file(path)["bn1.running_var"].float())


def test_the_shared_dinov2_loads_whole(shared_data: Callable[[str], Path]) -> None:
    """A real checkpoint without a head, for 112 px, gives the features that timm's own headless model gives."""
    path = shared_data("vit_small_patch14_dinov2_imgfocus_112.fp16.safetensors")
    card = AncestryCard.of(
        Architecture.named("vit_small_patch14_dinov2", img_size=112),
        class_names=("a", "b"),
        data_set="x",
        origin="x",
        licence="MIT",
        fit=Fit.HEAD,
    )
    model = AncestryModel(card).freeze()
    model.load_weights(path, with_head=False)
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=112, num_classes=0).eval()
    theirs.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, strict=True)
    images = torch.rand(1, 3, 112, 112)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(model.features(images), theirs((images - mean) / std), rtol=1e-4, atol=1e-4)


def test_files_of_another_kind_are_refused(model: AncestryModel, tmp_path: Path) -> None:
    """Not safetensors, no card, tensors of another network, an unknown architecture, a fit that is none."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="cannot be read"):
        AncestryModel.open(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no ancestry model"):
        AncestryModel.open(path)
    save_file({"x": torch.zeros(1)}, path, {"tleg.ancestry": json.dumps(asdict(CARD) | {"fit": "magic"})})
    with pytest.raises(CheckpointError, match="no ancestry model"):
        AncestryModel.open(path)
    del model.network.classifier
    model.write(path, {})
    with pytest.raises(CheckpointError, match="does not fit test_efficientnet"):
        AncestryModel.open(path)
    with pytest.raises(ConfigError, match="architecture"):
        AncestryModel(AncestryCard(architecture="nonesuch", img_size=8, class_names=("a",), data_set="", origin="", licence=""))
