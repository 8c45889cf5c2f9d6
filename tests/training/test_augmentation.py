"""Augmentation of whole batches."""

from __future__ import annotations

import torch

from tleg_core.training.augmentation import erase, flip_and_shift, mix, shifts
from tleg_core.training_config import Augmentation

PIXELS = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)


def test_without_flip_and_shift_nothing_changes() -> None:
    """Zero is off."""
    same = flip_and_shift(PIXELS, shifts(len(PIXELS), Augmentation(flip=0.0, shift=0), torch.Generator().manual_seed(0)))
    assert torch.equal(same, PIXELS)


def test_a_certain_flip_mirrors_the_columns() -> None:
    """Rows and channels stay."""
    flipped = flip_and_shift(PIXELS, shifts(len(PIXELS), Augmentation(flip=1.0, shift=0), torch.Generator().manual_seed(0)))
    assert torch.equal(flipped, PIXELS.flip(2))


def test_a_shift_is_a_crop_of_the_edge_padded_image() -> None:
    """Every result is one of the 9 crops that padding by one pixel allows, and several of them occur."""
    image = torch.rand(1, 3, 6, 7)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    crops = [padded[..., y : y + 6, x : x + 7] for y in range(3) for x in range(3)]
    batch = image.permute(0, 2, 3, 1).expand(40, 6, 7, 3)
    draws = shifts(len(batch), Augmentation(flip=0.0, shift=1), torch.Generator().manual_seed(0))
    shifted = flip_and_shift(batch, draws).permute(0, 3, 1, 2)
    found = {next(i for i, crop in enumerate(crops) if torch.equal(crop[0], one)) for one in shifted}
    assert len(found) > 5


def test_mixup_follows_the_seed_alone() -> None:
    """Equal seeds give equal mixtures, whatever was drawn elsewhere; targets are probabilities."""
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    augmentation = Augmentation(mixup_alpha=0.8, label_smoothing=0.1)
    first, targets = mix(images, labels, augmentation, 3, 5)
    again, _ = mix(images, labels, augmentation, 3, 5)
    assert torch.equal(first, again)
    assert not torch.equal(first, images)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert mix(images, labels, Augmentation(), 3, 5)[1] is labels


def test_cutmix_pastes_a_part_of_another_image() -> None:
    """Every pixel is of the image itself or of its partner, and the target says in which shares."""
    images = torch.stack([torch.full((3, 8, 8), float(number)) for number in range(4)])
    cut, targets = mix(images, torch.arange(4), Augmentation(cutmix_alpha=1.0), 4, 2)
    for number, (image, target) in enumerate(zip(cut, targets, strict=True)):
        own = (image == number).float().mean()
        assert torch.equal((image == number) | (image == 3 - number), torch.ones(3, 8, 8, dtype=torch.bool))
        torch.testing.assert_close(target[number], own)


def test_random_erasing_follows_the_seed_alone() -> None:
    """A certain erasing changes a rectangle of each image, the same one each time."""
    torch.manual_seed(1)
    first = erase(torch.zeros(6, 3, 16, 16), Augmentation(random_erasing=1.0), 3)
    torch.manual_seed(1)
    again = erase(torch.zeros(6, 3, 16, 16), Augmentation(random_erasing=1.0), 3)
    assert torch.equal(first, again)
    assert all(0 < int((image != 0).sum()) < image.numel() for image in first)
    assert not erase(torch.zeros(6, 3, 16, 16), Augmentation(), 3).any()
