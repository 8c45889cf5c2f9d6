"""Images decoded from a data set file: as timm's evaluation sees them, kept or not, augmented reproducibly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tleg_core.errors import ConfigError
from tleg_core.fine_tuning import FineTuneFacts, FineTuneSettings
from tleg_core.image_file import TEST, TRAIN, ImageFile, ImageFileWriter, decode_image
from tleg_core.training.augmented import RandPixels
from tleg_core.training.decoded import DecodedPixels, InputShape
from tleg_core.training.fine_tune import split_images
from tleg_core.training.random_view import RandomView

CPU = torch.device("cpu")
SIDES = ((40, 64), (64, 40), (32, 32), (33, 100), (20, 21), (300, 200))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> ImageFile:
    """Pictures of several shapes, noise on a slope."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("file") / "images.arrow"
    with ImageFileWriter(path, ("a", "b")) as writer:
        for index, (width, height) in enumerate(SIDES * 2):
            slope = np.linspace(0, 200, width * height * 3).reshape(height, width, 3)
            buffer = io.BytesIO()
            Image.fromarray((slope + rng.integers(0, 50, slope.shape)).astype(np.uint8)).save(buffer, "PNG")
            writer.add(buffer.getvalue(), str(index), index % 2, TRAIN)
    return ImageFile.open(path)


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    """Two threads."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize(("interpolation", "crop_pct"), [("bicubic", 1.0), ("bilinear", 0.875), ("lanczos", 0.9)])
def test_an_image_is_brought_to_size_as_timm_does(file: ImageFile, interpolation: str, crop_pct: float) -> None:
    """Pixel for pixel timm's evaluation transform."""
    shape = InputShape(side=32, channels=3, interpolation=interpolation, crop_pct=crop_pct)
    transform = timm.data.create_transform(32, interpolation=interpolation, crop_pct=crop_pct, use_prefetcher=True)
    for row in range(len(SIDES)):
        expected = np.asarray(transform(decode_image(file.encoded(row)))).transpose(1, 2, 0)
        np.testing.assert_array_equal(shape.fit(file.encoded(row)), expected)


def test_images_are_the_same_kept_or_not_and_in_any_order(file: ImageFile, threads: ThreadPoolExecutor) -> None:
    """Expected before or not, taken twice, in one batch twice."""
    shape = InputShape(side=16, channels=3, interpolation="bicubic", crop_pct=1.0)
    kept, passing = (
        DecodedPixels(file, shape, device=CPU, threads=threads, keep_bytes=size, keep_device=CPU) for size in (10**6, 10)
    )
    assert (kept.kept_bytes, passing.kept_bytes) == (len(file) * 16 * 16 * 3, 0)
    for pixels in (kept, passing):
        pixels.expect([1, 2, 3], 0)
        for rows in ([3, 1, 1], [0, 2, 3], [3, 1, 1]):
            expected = np.stack([shape.fit(file.encoded(row)) for row in rows])
            np.testing.assert_array_equal(pixels.take(rows, 0).numpy(), expected)


def test_a_network_of_one_channel_sees_grey(file: ImageFile) -> None:
    """And one of any other number has no pictures."""
    assert InputShape(side=8, channels=1, interpolation="bicubic", crop_pct=1.0).fit(file.encoded(0)).shape == (8, 8, 1)
    with pytest.raises(ConfigError, match="channels"):
        InputShape(side=8, channels=4, interpolation="bicubic", crop_pct=1.0)


def test_randaugment_follows_seed_epoch_and_image_alone(file: ImageFile, threads: ThreadPoolExecutor) -> None:
    """The same in any batch and thread; another in another epoch."""
    shape = InputShape(side=16, channels=3, interpolation="bicubic", crop_pct=1.0)

    def pixels(seed: int = 3) -> RandPixels:
        return RandPixels(file, RandomView(shape=shape, mean=(0.5, 0.5, 0.5)), seed=seed, device=CPU, threads=threads)

    first = pixels().take([0, 1, 2, 3, 4], 7)
    torch.manual_seed(0)
    again = pixels()
    again.expect([4, 3], 7)
    assert torch.equal(again.take([4, 3, 2, 1, 0], 7).flip(0), first)
    assert not torch.equal(pixels().take([0, 1, 2, 3, 4], 8), first)
    assert not torch.equal(pixels(4).take([0, 1, 2, 3, 4], 7), first)


def settings(**requested: object) -> FineTuneSettings:
    """Return settings for a small set."""
    facts = FineTuneFacts(num_train=20, num_classes=3, has_test_split=False, img_size=32, depth=2, same_classes=False)
    return FineTuneSettings.resolve(requested, facts)


def labelled(path: Path, labels: list[int], splits: list[int]) -> ImageFile:
    """Return a file with those labels and splits."""
    with ImageFileWriter(path, ("a", "b", "c")) as writer:
        for label, split in zip(labels, splits, strict=True):
            writer.add(b"x", "x", label, split)
    return ImageFile.open(path)


def test_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    """By the seed; a class of one image is trained on."""
    file = labelled(tmp_path / "f", [0] * 10 + [1] * 4 + [2], [TRAIN] * 15)
    split = split_images(file, settings(holdout=0.3))
    assert np.bincount(file.labels[split.held_out], minlength=3).tolist() == [3, 1, 0]
    assert sorted([*split.train.tolist(), *split.held_out.tolist()]) == list(range(15))
    assert torch.equal(split_images(file, settings(holdout=0.3)).held_out, split.held_out)
    assert not torch.equal(split_images(file, settings(holdout=0.3, seed=1)).held_out, split.held_out)


def test_the_sets_own_test_split_is_held_out(tmp_path: Path) -> None:
    """Whatever share was asked for."""
    file = labelled(tmp_path / "f", [0, 1, 2, 0], [TRAIN, TRAIN, TEST, TEST])
    assert split_images(file, settings()).held_out.tolist() == [2, 3]


def test_a_set_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    """One image of each class, or nothing but a test split."""
    with pytest.raises(ConfigError, match="nothing can be held out"):
        split_images(labelled(tmp_path / "f", [0, 1, 2], [TRAIN] * 3), settings())
    with pytest.raises(ConfigError, match="no training images"):
        split_images(labelled(tmp_path / "g", [0, 1], [TEST] * 2), settings())
