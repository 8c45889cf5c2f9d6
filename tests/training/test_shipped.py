"""The shipped learngene and images: what their cards say is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tleg_core
from tleg_core.family import Family
from tleg_core.images import load_image_set
from tleg_core.learngene import Learngene
from tleg_core.learngene_card import card
from tleg_core.training.evaluate import measure_depths

PACKAGE = Path(tleg_core.__file__).parent
CARD = (PACKAGE / "shipped" / "tleg-ti-fashion-mnist.md").read_text()
ELASTIC = ("tleg-ti-cifar10", "tleg-s-cifar10")
BASELINES = ("scratch-ti-cifar10", "scratch-s-cifar10", "scratch-ti-fashion-mnist")


@pytest.fixture(scope="module")
def learngene() -> Learngene:
    """The learngene that a fresh clone serves."""
    return Learngene.open(PACKAGE / "shipped" / "tleg-ti-fashion-mnist.safetensors")


def test_the_card_is_of_this_file(learngene: Learngene) -> None:
    """Digest, size and the accuracy at each depth stand in the card as in the file."""
    assert learngene.digest in CARD
    assert f"{learngene.num_params:,} parameters" in CARD
    row = re.search(r"^\| top-1 % \|(.*)\|$", CARD, re.MULTILINE)
    assert row is not None
    printed = [float(cell) for cell in row[1].split("|")]
    assert printed == [round(100 * entry.top1, 2) for entry in learngene.description.accuracy]
    assert [entry.depth for entry in learngene.description.accuracy] == list(range(1, 13))


def test_the_command_in_the_provenance_stands_in_the_card(learngene: Learngene) -> None:
    """What made the file can be run again; only the line breaks differ."""
    assert learngene.description.provenance.command in CARD.replace("\\\n  ", "")


def test_it_classifies_the_shipped_images_as_well_as_it_says(learngene: Learngene) -> None:
    """A thousand images, a tenth of those that the stated figure comes from: within 4 points, over three standard errors."""
    images = load_image_set(PACKAGE / "data" / "fashion-mnist-test-1000.parquet")
    stated = {entry.depth: entry.top1 for entry in learngene.description.accuracy}
    for entry in measure_depths(learngene, images, depths=(6, 12), device=torch.device("cpu")):
        assert entry.top1 == pytest.approx(stated[entry.depth], abs=0.04)


@pytest.mark.parametrize("name", [*ELASTIC, *BASELINES])
def test_the_cards_are_what_the_command_prints(name: str) -> None:
    """Written once by `tleg card`, and not by hand."""
    family = Family(Learngene.open(PACKAGE / "shipped" / f"{name}.safetensors"))
    assert card(family).strip() == (PACKAGE / "shipped" / f"{name}.md").read_text().strip()


@pytest.mark.parametrize("name", ELASTIC)
def test_the_elastic_ones_need_no_fine_tuning_at_any_depth(name: str) -> None:
    """From depth 3 on, no member is more than three points behind the best one: what only elastic training gives."""
    learngene = Learngene.open(PACKAGE / "shipped" / f"{name}.safetensors")
    top1 = {entry.depth: entry.top1 for entry in learngene.description.accuracy}
    assert set(top1) == set(range(2, 13))
    assert min(accuracy for depth, accuracy in top1.items() if depth >= 3) > max(top1.values()) - 0.03


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_of_the_networks_that_it_is_compared_with(name: str) -> None:
    """The same configuration, preprocessing and classes, and nothing stored."""
    baseline = Learngene.open(PACKAGE / "shipped" / f"{name}.safetensors")
    other = Learngene.open(PACKAGE / "shipped" / f"{name.replace('scratch', 'tleg')}.safetensors").description
    own = baseline.description
    assert (own.config, own.preprocessing, own.class_names) == (other.config, other.preprocessing, other.class_names)
    assert set(other.design.members) <= set(own.design.members)
    assert baseline.num_params == 0


def test_every_shipped_learngene_stands_in_the_list() -> None:
    """With a card of its own beside it."""
    listed = set(re.findall(r"\[([a-z0-9-]+)\]\(\1\.md\)", (PACKAGE / "shipped" / "README.md").read_text()))
    assert listed == {path.stem for path in (PACKAGE / "shipped").glob("*.safetensors")}
    assert all((PACKAGE / "shipped" / f"{name}.md").is_file() for name in listed)


@pytest.mark.slow
def test_they_classify_real_photos_as_well_as_they_say(shared_data: Callable[[str], Path]) -> None:
    """A thousand test images of CIFAR-10: within 5 points of the stated figure, three standard errors."""
    images = load_image_set(shared_data("cifar10-test.parquet")).head(1000)
    for name in ELASTIC:
        learngene = Learngene.open(PACKAGE / "shipped" / f"{name}.safetensors")
        stated = {entry.depth: entry.top1 for entry in learngene.description.accuracy}
        for entry in measure_depths(learngene, images, depths=(3, 12), device=torch.device("cpu")):
            assert entry.top1 == pytest.approx(stated[entry.depth], abs=0.05)
