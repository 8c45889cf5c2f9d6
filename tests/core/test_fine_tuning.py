"""The settings of a fine-tune: what is refused, and what "auto" becomes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.errors import ConfigError
from tleg_core.fine_tuning import NAMES, Augmentation, FineTuneFacts, FineTuneSettings, HeadStart, held_out_count

FACTS = FineTuneFacts(num_train=1000, num_classes=5, has_test_split=False, img_size=32, depth=6, same_classes=False)


@given(num_train=st.integers(1, 10**7), nproc=st.sampled_from([1, 2, 3, 8]), epochs=st.none() | st.integers(1, 10_000))
def test_defaults_are_valid_for_any_data_set(num_train: int, nproc: int, epochs: int | None) -> None:
    """Whatever its size, as long as there is an image for each process."""
    if num_train < nproc:
        return
    settings = FineTuneSettings.resolve({"nproc": nproc, "epochs": epochs}, replace(FACTS, num_train=num_train))
    assert settings.batch_size <= num_train
    assert settings.warmup_epochs < settings.epochs


def test_auto_and_what_is_missing_are_the_same() -> None:
    """For every setting that can be auto."""
    explicit = FineTuneSettings.resolve(dict.fromkeys(NAMES, "auto"), FACTS)
    assert explicit == FineTuneSettings.resolve({}, FACTS)


def test_what_is_given_is_used() -> None:
    """Whole numbers may come as floats, as JSON writers do."""
    settings = FineTuneSettings.resolve({"epochs": 7.0, "lr": 1, "augmentation": "rand", "compile": True}, FACTS)
    assert (settings.epochs, settings.lr, settings.augmentation, settings.compile) == (7, 1.0, Augmentation.RAND, True)
    assert type(settings.epochs) is int
    assert type(settings.lr) is float


def test_settings_survive_json() -> None:
    """As they are stored in a job."""
    settings = FineTuneSettings.resolve({"clip_grad": 1.0}, FACTS)
    assert FineTuneSettings.from_json(settings.to_json()) == settings


def test_the_head_is_kept_where_the_classes_are_the_same() -> None:
    """Not for another set of classes, nor from scratch."""
    same = replace(FACTS, same_classes=True)
    assert FineTuneSettings.resolve({}, same).head is HeadStart.KEEP
    assert FineTuneSettings.resolve({"start": "scratch"}, same).head is HeadStart.ZERO
    assert FineTuneSettings.resolve({}, FACTS).head is HeadStart.ZERO
    with pytest.raises(ConfigError, match="head: can be kept"):
        FineTuneSettings.resolve({"head": "keep"}, FACTS)


@pytest.mark.parametrize(
    ("requested", "field"),
    [
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"epochs": "many"}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": [1]}, "epochs"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": 10**400}, "lr"),
        ({"epochs": 10**400}, "epochs"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs"),
        ({"augmentation": "heavy"}, "augmentation"),
        ({"augmentation": 3}, "augmentation"),
        ({"compile": "yes"}, "compile"),
        ({"batch_size": 1001}, "batch_size"),
        ({"batch_size": 7, "mixup": 0.2}, "batch_size"),
        ({"batch_size": 6, "nproc": 4}, "batch_size"),
        ({"batch_size": 6, "nproc": 2, "cutmix": 1.0}, "batch_size"),
        ({"nproc": 0}, "nproc"),
        ({"nproc": -3}, "nproc"),
        ({"epochs": -5}, "epochs"),
        ({"freeze": 7}, "freeze"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"clip_grad": 0}, "clip_grad"),
    ],
)
def test_wrong_settings_are_refused_by_name(requested: dict[str, Any], field: str) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigError) as refused:
        FineTuneSettings.resolve(requested, FACTS)
    assert refused.value.field == field


@given(images=st.integers(0, 10**6), share=st.floats(0.01, 0.9))
def test_a_class_keeps_an_image_to_train_on(images: int, share: float) -> None:
    """And gives at least one of several to be held out."""
    held = held_out_count(images, share)
    assert 0 <= held <= max(images - 1, 0)
    assert held >= 1 or images < 2
