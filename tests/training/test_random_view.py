"""Random views of single images: timm's, whatever else draws, and every one that it can draw."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.transforms_factory import create_transform
from torchvision.transforms import functional

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.training.decoded import InputShape
from tleg_core.training.draws import global_draws
from tleg_core.training.random_view import RAND_AUGMENT, RandomView
from tleg_core.training_config import Augmentation, Crop

SHAPE = InputShape(side=24, channels=3, interpolation="bicubic", crop_pct=1.0)


def picture(seed: int = 0) -> Image.Image:
    """Return a noisy picture that is wider than high."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def view(**settings: object) -> RandomView:
    """Return views of 24 px."""
    return RandomView(shape=SHAPE, mean=(0.4, 0.5, 0.6), **settings)  # type: ignore[arg-type]


def test_a_view_is_what_timm_draws_with_the_same_seeds() -> None:
    """Random resized crop and RandAugment of timm's own transform, for seeds that leave out what Pillow 13 refuses."""
    timms = create_transform(
        24,
        is_training=True,
        hflip=0.0,
        auto_augment=RAND_AUGMENT,
        interpolation="bicubic",
        mean=(0.4, 0.5, 0.6),
        use_prefetcher=True,
    )
    for seed in range(40):
        with global_draws(seed):
            expected = np.asarray(timms(picture())).transpose(1, 2, 0)
        np.testing.assert_array_equal(view()(picture(), seed), expected)


def test_a_view_follows_its_seed_alone() -> None:
    """Not the global generators; and PyTorch's, which the training draws from, is left as it is."""
    before = torch.get_rng_state()
    first = view(rand_augment=None, color_jitter=0.4)(picture(), 5)
    random.seed(1)
    np.testing.assert_array_equal(view(rand_augment=None, color_jitter=0.4)(picture(), 5), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view()))(picture(), 5), view()(picture(), 5))  # noqa: S301
    assert not np.array_equal(view()(picture(), 5), view()(picture(), 6))
    assert torch.equal(torch.get_rng_state(), before)


def test_posterizing_keeps_any_number_of_bits() -> None:
    """RandAugment's policy draws from 4 bits down to none; Pillow 13 refuses none, so that one image in 650 would end a run."""
    _, augmented, _ = view()._transform
    (op,) = [op for op in augmented.transforms[0].ops if op.name == "PosterizeIncreasing"]
    assert auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"](10, {}) == (0,)
    for bits in (0, 1, 4, 8):
        kept = np.asarray(picture()) & np.uint8(0xFF << (8 - bits) & 0xFF)
        np.testing.assert_array_equal(np.asarray(op.aug_fn(picture(), bits, resample=3)), kept)


def test_colour_jitter_changes_as_much_as_torchvisions() -> None:
    """Of an even grey picture, only the brightness: by a factor from 0.6 to 1.4, both ends nearly reached."""
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    found = {int(view(rand_augment=None, color_jitter=0.4)(grey, seed)[0, 0, 0]) for seed in range(300)}
    low, high = (functional.adjust_brightness(grey, factor).getpixel((0, 0))[0] for factor in (0.6, 1.4))  # type: ignore[index]
    assert low <= min(found) <= low + 3
    assert high - 3 <= max(found) <= high


def test_colour_jitter_is_left_out_where_there_is_randaugment() -> None:
    """As timm does, whatever the command line of the paper names."""
    both = Augmentation(crop=Crop.RANDOM_RESIZED, rand_augment=RAND_AUGMENT, color_jitter=0.4)
    prep = Preprocessing(mean=(0.4, 0.5, 0.6))
    for seed in range(5):
        np.testing.assert_array_equal(RandomView.of(both, SHAPE, prep)(picture(), seed), view()(picture(), seed))


def test_a_policy_that_timm_does_not_know_is_refused() -> None:
    """Another augmentation of timm's too."""
    for policy in ("rand-q9", "original"):
        with pytest.raises(ConfigError, match="rand_augment"):
            view(rand_augment=policy)
