"""What the demo shows, as far as it does not take minutes: its images, and its table."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from service.cli.demo_fine_tune import IMAGES, Trained, print_comparison
from service.client import Client
from tests.service.commands import assert_fits
from tests.service.server import ServerProcess


def test_the_drawings_are_what_their_readme_says() -> None:
    """2,476 light drawings on black, of 64 x 64, in 15 classes and two parts."""
    with zipfile.ZipFile(IMAGES) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    parts = Counter(tuple(Path(name).parts[:2]) for name in contents)
    assert {part: sum(count for key, count in parts.items() if key[0] == part) for part in ("train", "test")} == {
        "train": 1859,
        "test": 617,
    }
    assert {len([key for key in parts if key[0] == part]) for part in ("train", "test")} == {15}
    for content in list(contents.values())[::50]:
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == ("WEBP", (64, 64))
    assert IMAGES.stat().st_size < 2_000_000


def test_the_server_takes_every_drawing(server: ServerProcess) -> None:
    """With its test part, and refuses none."""
    with Client(server.url) as client:
        dataset = client.upload_dataset(IMAGES)
    assert (dataset.name, dataset.train, dataset.test, dataset.refused) == ("openclipart15-grey", 1859, 617, {})


def test_the_comparison_fits_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, after and from scratch, with their steps."""
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        Trained(title="descendant, before (its new head is all zeros)", steps=0, seconds=None, top1=0.1),
        Trained(title="descendant, after", steps=12_345, seconds=1234.5, top1=0.4321),
    ]
    print_comparison(rows)
    printed = capsys.readouterr()
    assert_fits(printed.out + printed.err)
    assert "43.21 %" in printed.out
