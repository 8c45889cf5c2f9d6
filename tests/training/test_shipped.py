"""The shipped learngene and images: what their cards say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import tleg_core
from tleg_core.images import load_image_set
from tleg_core.learngene import Learngene
from tleg_core.training.evaluate import measure_depths

PACKAGE = Path(tleg_core.__file__).parent
CARD = (PACKAGE / "shipped" / "README.md").read_text()


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
