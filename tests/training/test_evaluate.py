"""Measured accuracy: the counting, and what it is measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from tleg_core.description import Description, Method, Provenance
from tleg_core.designs.basis import Basis
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet, open_images, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.schedule import Polynomial
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.evaluate import measure_depths, measure_top1
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

CPU = torch.device("cpu")
CONFIG = VitConfig(embed_dim=32, num_heads=2, img_size=16, patch_size=8, num_classes=3)


@pytest.fixture
def learngene(bars: ImageSet) -> Learngene:
    """A random learngene for the bars, wide enough apart that its depths disagree."""
    model = AuxiliaryModel(CONFIG, Polynomial(num_components=2), depth=12, seed=4)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in model.learngene_tensors().items()}
    description = Description(
        name="bars",
        method=Method.TLEG,
        design=Basis(schedule=Polynomial(num_components=2), config=CONFIG, trained_depth=12),
        provenance=Provenance(data_set="bars", ancestry="none", command="test", version="0", licence="none"),
        class_names=bars.class_names,
    )
    return Learngene.create(description, {name: tensor.numpy() for name, tensor in tensors.items()})


def test_top1_counts_every_image_once_whatever_the_batch(bars: ImageSet) -> None:
    """An oracle that reads the brightness knows all; one that always says `top` knows a third."""

    def by_brightness(images: Tensor) -> Tensor:
        return torch.stack([images[:, :, 5 * label : 5 * label + 5].mean((1, 2, 3)) for label in range(3)], dim=1)

    for batch_size in (1, 7, 48, 500):
        top1 = measure_top1(by_brightness, bars, device=CPU, batch_size=batch_size)
        assert (top1.correct, top1.images, top1.fraction) == (48, 48, 1.0)
    constant = measure_top1(lambda images: torch.eye(3)[[0] * len(images)], bars, device=CPU)
    assert constant.fraction == pytest.approx(1 / 3)


def test_accuracy_is_that_of_the_descendant_in_plain_timm(learngene: Learngene, bars: ImageSet) -> None:
    """Each depth's figure equals a count made with the expanded weights in a timm network, on images normalised by hand."""
    auxiliary = AuxiliaryModel(CONFIG, Polynomial(num_components=2), depth=12)
    auxiliary.load_learngene_tensors({name: torch.from_numpy(a.copy()) for name, a in learngene.tensors.items()})
    images = torch.from_numpy(bars.images).permute(0, 3, 1, 2) / 127.5 - 1
    for entry in measure_depths(learngene, bars, depths=(1, 5, 12), device=CPU, batch_size=10):
        network = timm.create_model(timm_architecture(CONFIG), num_classes=3, **timm_model_args(CONFIG, entry.depth))
        network.load_state_dict(auxiliary.expand(entry.depth), strict=True)
        with torch.no_grad():
            right = (network.eval()(images).argmax(1).numpy() == bars.labels).sum()
        assert (entry.top1, entry.images, entry.data_set) == (right / 48, 48, "bars")


def test_images_that_are_not_in_memory_give_the_same_accuracy(learngene: Learngene, bars: ImageSet, tmp_path: Path) -> None:
    """Read from a parquet file when asked for, in batches of another size."""
    save_parquet(bars, tmp_path / "bars.parquet")
    source = open_images(tmp_path / "bars.parquet", split="test")
    assert not isinstance(source, ImageSet)
    kept = list(measure_depths(learngene, bars, depths=(1, 5), device=CPU))
    assert list(measure_depths(learngene, source, depths=(1, 5), device=CPU, batch_size=10)) == kept
    with pytest.raises(ConfigError, match="pixels: are needed of bars"):
        measure_top1(lambda images: images, source, device=CPU)


def test_every_image_is_told_of_once(learngene: Learngene, bars: ImageSet) -> None:
    """For a progress bar; a batch of nothing is refused."""
    counts: list[int] = []
    list(measure_depths(learngene, bars, depths=(1, 2), device=CPU, batch_size=20, progressed=counts.append))
    assert counts == [20, 20, 8] * 2
    with pytest.raises(ConfigError, match="batch_size: must be at least 1, not 0"):
        measure_top1(lambda images: images, bars, device=CPU, batch_size=0)


def test_images_of_other_classes_are_refused(learngene: Learngene, bars: ImageSet) -> None:
    """Another number of classes, or the same classes in another order, would give a meaningless figure."""
    for names in (("a", "b", "c", "d"), ("bottom", "middle", "top")):
        with pytest.raises(ConfigError, match="classes"):
            next(measure_depths(learngene, replace(bars, class_names=names), depths=(1,), device=CPU))
