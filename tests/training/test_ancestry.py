"""Ancestry models: loading pretrained weights, and their own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.training.ancestry import AncestryCard, AncestryModel

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


def test_a_written_model_reads_back_frozen_and_computes_the_same(model: AncestryModel, tmp_path: Path) -> None:
    """Weights, statistics, card and accuracy survive."""
    model(torch.rand(8, 3, 16, 16))  # moves the batch statistics
    model.write(tmp_path / "a.safetensors", {"bars": 0.5})
    read = AncestryModel.open(tmp_path / "a.safetensors")
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    assert read.card.class_names == CARD.class_names
    assert "top-1 0.5000 on bars" in read.card.describe()
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(read(images), model.eval()(images))


def test_images_of_any_size_are_resized_and_normalised(model: AncestryModel) -> None:
    """What the network sees is 32 px in -1..1, as a plain computation has it."""
    images = torch.rand(2, 3, 16, 16)
    resized = torch.nn.functional.interpolate(images, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    model.eval()
    torch.testing.assert_close(model(images), model.network((resized - 0.5) / 0.5), rtol=1e-5, atol=1e-6)  # another layout


def test_pretrained_weights_load_strictly_but_for_the_head(model: AncestryModel, tmp_path: Path) -> None:
    """Half precision and another number of classes are fine; a missing or foreign tensor is not."""
    pretrained = timm.create_model("test_efficientnet", num_classes=1000)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in pretrained.state_dict().items()}
    save_file(halves, tmp_path / "w.safetensors")
    head = model.network.classifier.weight.clone()
    model.load_pretrained(tmp_path / "w.safetensors")
    assert torch.equal(model.network.conv_stem.weight, halves["conv_stem.weight"].float())
    assert torch.equal(model.network.classifier.weight, head)
    halves["stranger"] = halves.pop("conv_stem.weight")
    save_file(halves, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \['conv_stem.weight'\], unexpected \['stranger'\]"):
        model.load_pretrained(tmp_path / "w.safetensors")


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
    model.load_pretrained(path)
    assert torch.equal(model.network.bn1.running_var, load_file(path)["bn1.running_var"].float())


def test_files_of_another_kind_are_refused(model: AncestryModel, tmp_path: Path) -> None:
    """Not safetensors, no card, tensors of another network, an unknown architecture."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="cannot be read"):
        AncestryModel.open(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no ancestry model"):
        AncestryModel.open(path)
    del model.network.classifier
    model.write(path, {})
    with pytest.raises(CheckpointError, match="does not fit test_efficientnet"):
        AncestryModel.open(path)
    with pytest.raises(ConfigError, match="architecture"):
        AncestryModel(AncestryCard(architecture="nonesuch", img_size=8, class_names=("a",), data_set="", origin="", licence=""))
