"""The configuration of a learngene's training: read strictly, errors by their place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.description import Method
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import DepthRule, DistillationKind, LearngeneConfig
from tleg_core.schedule import Polynomial, Spline, Stagewise
from tleg_core.training_config import Precision

PUBLISHED = """
[network]
size = "small"
[training]
epochs = 150
batch_size = 512
warmup_epochs = 5
[augmentation]
mixup_alpha = 0.8
cutmix_alpha = 1
"""


def test_what_is_not_said_is_the_papers() -> None:
    """TLEG at depth 12, pure soft distillation at temperature 1, divided by B * C, learning rate 5e-4, weight decay 0.05."""
    config = LearngeneConfig.from_toml(PUBLISHED)
    assert config.schedule.build() == Polynomial(num_components=2)
    assert (config.depths.rule, config.depths.train) == (DepthRule.FIXED, 12)
    loss = config.distillation
    assert (loss.alpha, loss.temperature, loss.normalisation, loss.kind) == (1.0, 1.0, "numel", DistillationKind.SOFT)
    assert (config.training.lr, config.training.weight_decay, config.training.min_lr) == (5e-4, 0.05, 1e-5)
    vit = config.network.vit(1000)
    assert (vit.embed_dim, vit.num_heads, vit.img_size, vit.patch_size, vit.num_classes) == (384, 6, 224, 16, 1000)
    assert config.training.augmentation.cutmix_alpha == 1.0


def test_it_survives_json() -> None:
    """Written and read, it is the same, whatever the schedule."""
    for schedule in (
        {},
        {"method": "polynomial", "num_components": 4, "endpoint": True},
        {"method": "spline", "num_components": 5},
        {"method": "stagewise", "stages": [2, 2, 3]},
    ):
        config = LearngeneConfig.from_toml(PUBLISHED).with_changes({"schedule": schedule, "depths": {"offer_min": 3}})
        assert LearngeneConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("schedule", "built"),
    [
        ({"method": "polynomial"}, Polynomial(num_components=3)),
        ({"method": "polynomial", "num_components": 2, "endpoint": True}, Polynomial(num_components=2, endpoint=True)),
        ({"method": "spline"}, Spline(num_components=3)),
        ({"method": "stagewise"}, Stagewise()),
    ],
)
def test_schedules_by_method(schedule: dict[str, Any], built: object) -> None:
    """Each method has its schedule, with defaults."""
    config = LearngeneConfig.from_json({"training": {"epochs": 1}, "schedule": schedule, "depths": {"offer_min": 5}})
    assert config.schedule.build() == built
    assert config.schedule.method == Method(schedule["method"])


def test_overrides_are_toml_values_or_words() -> None:
    """Numbers, words, lists, truth and nothing; the last one of a field wins."""
    config = LearngeneConfig.from_toml(PUBLISHED).with_overrides(
        [
            "training.epochs=3",
            "training.epochs = 4",
            "training.warmup_epochs=0",
            "training.precision=float32",
            "training.ema_decay=0.99996",
            "training.clip_grad=none",
            "depths.rule=sandwich",
            "schedule.method=stagewise",
            "schedule.stages=[1, 2]",
            "depths.train_min=2",
            "depths.offer_min=2",
            "training.compile=true",
        ]
    )
    training = config.training
    assert (training.epochs, training.precision, training.ema_decay) == (4, Precision.FLOAT32, 0.99996)
    assert training.clip_grad is None
    assert training.compile
    assert config.schedule.build() == Stagewise(stages=(1, 2))


@pytest.mark.parametrize(
    ("override", "field", "reason"),
    [
        ("training.epochs=0", "training.epochs", "at least 1"),
        ("training.epochs=1.5", "training.epochs", "a whole number"),
        ("training.epochs=true", "training.epochs", "a whole number"),
        ("training.lr=nan", "training.lr", "finite"),
        ("training.lr=fast", "training.lr", "a number"),
        ("training.epoch=3", "training.epoch", "is no field"),
        ("train.epochs=3", "train", "is no section"),
        ("epochs=3", "set", "training.epochs=3"),
        ("training.epochs", "set", "training.epochs=3"),
        ("training.augmentation={}", "training.augmentation", "a section of its own"),
        ("augmentation.flip=2", "augmentation.flip", "from 0 to 1"),
        ("augmentation.views=2", "augmentation.views", "mixup"),
        ("augmentation.rand_augment=rand-m9", "augmentation.rand_augment", "random-resized"),
        ("network.size=giant", "network.size", "one of"),
        ("network.patch_size=15", "network.img_size", "not a multiple"),
        ("network.num_heads=5", "network.num_heads", "does not divide"),
        ("schedule.method=magic", "schedule.method", "one of"),
        ("schedule.num_components=3", "schedule.num_components", "not chosen with method tleg"),
        ("schedule.endpoint=true", "schedule.endpoint", "not chosen with method tleg"),
        ("schedule.stages=[3]", "schedule.stages", "not chosen with method tleg"),
        ("depths.rule=random", "depths.rule", "one of"),
        ("depths.train_min=13", "depths.train_min", "the smaller first"),
        ("depths.offer_max=2000", "depths.offer_min", "1..1000"),
        ("depths.self_distillation=0.5", "depths.self_distillation", "several depths"),
        ("distillation.alpha=2", "distillation.alpha", "from 0 to 1"),
        ("distillation.temperature=0", "distillation.temperature", "above 0"),
        ("preprocessing.mean=[0.5]", "preprocessing.mean", "3 numbers"),
        ("preprocessing.std=[0, 1, 1]", "preprocessing", "above 0"),
        ("preprocessing.interpolation=magic", "preprocessing.interpolation", "one of"),
        ("distillation.normalisation=sum", "distillation.normalisation", "batchmean, numel"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(override: str, field: str, reason: str) -> None:
    """The error names section, field and limit."""
    with pytest.raises(ConfigError) as caught:
        LearngeneConfig.from_toml(PUBLISHED).with_overrides([override])
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_a_schedule_with_stages_offers_no_shallower_network() -> None:
    """Neither offered nor trained below a layer for each stage."""
    stages = {"training": {"epochs": 1}, "schedule": {"method": "stagewise"}}
    with pytest.raises(ConfigError, match=r"depths\.offer_min: must be at least 5"):
        LearngeneConfig.from_json(stages)
    with pytest.raises(ConfigError, match=r"depths\.train: must be at least 5"):
        LearngeneConfig.from_json(stages | {"depths": {"offer_min": 5, "rule": "uniform"}})


@pytest.mark.parametrize("text", ["training", "[training]\nepochs = 1\n[training]\n", "x = 3", "training = 3", "[network]"])
def test_a_file_that_is_no_configuration_is_refused(text: str) -> None:
    """Broken TOML, an unknown section, a value in place of a table, no epochs."""
    with pytest.raises(ConfigError):
        LearngeneConfig.from_toml(text)


@given(
    st.dictionaries(
        st.sampled_from(["training", "network", "schedule", "depths", "distillation", "augmentation", "preprocessing"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["epochs", "lr", "size", "img_size", "method", "rule", "alpha", "train"]), inner
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_any_json_is_read_or_refused_by_a_config_error(value: dict[str, Any]) -> None:
    """Nothing else escapes, whatever a client sends."""
    try:
        config = LearngeneConfig.from_json(value)
    except ConfigError:
        return
    assert LearngeneConfig.from_json(config.to_json()) == config
