"""The configuration that follows from a data set: valid, no larger than the images, longer where there are few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.learngene_config import LearngeneConfig
from tleg_core.learngene_defaults import default_config


@given(
    num_train=st.integers(2, 10**7),
    min_side=st.integers(1, 8192),
    has_teacher=st.booleans(),
    nproc=st.integers(1, 64),
)
def test_every_data_set_has_a_configuration(num_train: int, min_side: int, has_teacher: bool, nproc: int) -> None:
    """It reads back, divides into patches and processes, and looks at a teacher exactly where there is one."""
    config = default_config(num_train=num_train, min_side=min_side, has_teacher=has_teacher, nproc=nproc)
    assert LearngeneConfig.from_json(config.to_json()) == config
    side, patch = config.network.img_size, config.network.patch_size
    assert side % patch == 0
    assert side <= max(2, min_side)
    assert 1 <= (side // patch) ** 2 <= 196
    assert config.training.batch_size % nproc == 0
    assert config.training.batch_size <= max(num_train, nproc)
    assert (config.distillation.alpha > 0) == has_teacher
    assert config.training.warmup_epochs < config.training.epochs


@pytest.mark.parametrize(
    ("num_train", "min_side", "sides", "epochs"),
    [(60_000, 28, (28, 4), 10), (2_000, 100, (96, 16), 100), (50_000, 32, (32, 4), 10), (300, 64, (64, 8), 200)],
)
def test_known_data_sets(num_train: int, min_side: int, sides: tuple[int, int], epochs: int) -> None:
    """Fashion-MNIST, some thousand drawings, CIFAR, a handful of pictures."""
    config = default_config(num_train=num_train, min_side=min_side, has_teacher=False)
    assert (config.network.img_size, config.network.patch_size) == sides
    assert config.training.epochs == epochs
