"""The configuration of inherited layers: read strictly, errors by their place."""

from __future__ import annotations

from typing import Any

import pytest

from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import (
    DEFAULT_LAYERS,
    CarriedWeights,
    GradientSign,
    InheritanceConfig,
    MatchCriterion,
    SelectionRule,
    Stability,
    TaskStart,
    Transfer,
)

HEURISTIC = """
[selection]
rule = "stability"
num_layers = 4
[stability]
num_tasks = 3
classes_per_task = 2
threshold = 5e-10
[training]
epochs = 2
[augmentation]
flip = 0.0
"""


def read(**sections: dict[str, Any]) -> InheritanceConfig:
    """Return the heuristic's configuration with some fields changed."""
    return InheritanceConfig.from_toml(HEURISTIC).with_changes(sections)


def test_the_heuristic_is_read() -> None:
    """What is not said: absolute gradients, the sequence of the paper, the collective model's weights, a penalty."""
    config = read()
    assert (config.selection.rule, config.selection.count) == (SelectionRule.STABILITY, 4)
    assert config.stability == Stability(
        num_tasks=3,
        classes_per_task=2,
        threshold=5e-10,
        sign=GradientSign.ABSOLUTE,
        start=TaskStart.PREVIOUS,
        weights=CarriedWeights.COLLECTIVE,
        ewc_lambda=40.0,
    )
    assert config.transfer is None
    assert (config.training.epochs, config.training.augmentation.flip) == (2, 0.0)
    assert (config.min_depth, config.depths.offer_max) == (4, 12)


def test_the_automatic_rule_has_the_papers_numbers_for_vits() -> None:
    """A pseudo-descendant of six layers, two inner steps, match weight 0.1, absolute differences; six layers are inherited."""
    config = InheritanceConfig.from_json({"selection": {"rule": "transfer"}, "training": {"epochs": 1}})
    assert config.transfer == Transfer(depth=6, inner_steps=2, match_weight=0.1, criterion=MatchCriterion.ABSOLUTE)
    assert config.stability is None
    assert config.selection.count == DEFAULT_LAYERS == 6


def test_layers_named_by_hand_need_no_training() -> None:
    """The first two and the last four of DINO ViT-S, as in the authors' code."""
    config = InheritanceConfig.from_json({"selection": {"rule": "given", "layers": [0, 1, 8, 9, 10, 11]}})
    assert config.selection.layers == (0, 1, 8, 9, 10, 11)
    assert config.selection.count == config.min_depth == 6


@pytest.mark.parametrize(
    "value",
    [
        {"selection": {"rule": "stability"}, "training": {"epochs": 3}, "depths": {"offer_min": 8, "offer_max": 20}},
        {"selection": {"rule": "transfer", "num_layers": 2}, "transfer": {"depth": 3}, "training": {"epochs": 3}},
        {"selection": {"rule": "given", "layers": [0, 3]}, "depths": {"offer_max": 2}},
    ],
)
def test_it_survives_json(value: dict[str, Any]) -> None:
    """Written and read, it is the same, whatever the rule."""
    config = InheritanceConfig.from_json(value)
    assert InheritanceConfig.from_json(config.to_json()) == config
    assert config.with_seed(7).with_overrides(["training.seed=0"]) == config


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"selection": {"rule": "magic"}}, r"selection\.rule: must be one of stability, transfer, given"),
        ({"selection": {"rule": "transfer"}}, r"stability: is a section of rule stability alone"),
        ({"transfer": {"depth": 3}}, r"transfer: is a section of rule transfer alone"),
        ({"selection": {"layers": [1]}}, r"selection\.layers: are named exactly with rule given"),
        ({"selection": {"num_layers": 0}}, r"selection\.num_layers: must be from 1 to 64"),
        ({"selection": {"num_layers": 65}}, r"selection\.num_layers: must be from 1 to 64"),
        ({"stability": {"num_tasks": 0}}, r"stability\.num_tasks: must be from 1"),
        ({"stability": {"classes_per_task": 1}}, r"stability\.classes_per_task: must be from 2"),
        ({"stability": {"threshold": -1.0}}, r"stability\.threshold: must be from 0"),
        ({"stability": {"threshold_quantile": 1.5}}, r"stability\.threshold_quantile: must be from 0 to 1"),
        ({"stability": {"sign": "negative"}}, r"stability\.sign: must be one of absolute, positive"),
        ({"stability": {"start": "ancestry"}}, r"stability\.weights: must be ancestry"),
        ({"stability": {"start": "ancestry", "weights": "ancestry"}}, r"stability\.ewc_lambda: must be 0"),
        ({"stability": {"tasks": 3}}, r"stability\.tasks: is no field"),
        ({"depths": {"offer_min": 3}}, r"depths\.offer_min: and offer_max must be at least 4"),
        ({"depths": {"offer_max": 3}}, r"depths\.offer_min: and offer_max must be at least 4"),
        ({"depths": {"offer_min": 0}}, r"depths\.offer_min: and offer_max must lie within 1\.\.1000"),
        ({"training": {"ema_decay": 0.9}}, r"training\.ema_decay: must be left out"),
        ({"training": {"layer_decay": 0.7}}, r"training\.layer_decay: must be 1"),
        ({"training": {"compile": True}}, r"training\.compile: is not done here"),
        ({"training": {"precision": "float16"}}, r"training\.precision: must be another"),
        ({"network": {"size": "tiny"}}, r"network: is no section"),
        ({"preprocessing": {}}, r"preprocessing: is no section"),
    ],
)
def test_errors_name_the_field(sections: dict[str, dict[str, Any]], named: str) -> None:
    """Each by its place, with its limits."""
    with pytest.raises(ConfigError, match=f"^{named}"):
        read(**sections)


@pytest.mark.parametrize(
    ("selection", "named"),
    [
        ({"rule": "given"}, "layers: are named exactly"),
        ({"rule": "given", "layers": []}, "layers: must ascend"),
        ({"rule": "given", "layers": [3, 1]}, "layers: must ascend"),
        ({"rule": "given", "layers": [-1, 1]}, "layers: must ascend"),
        ({"rule": "given", "layers": [1], "num_layers": 1}, "num_layers: is not chosen"),
    ],
)
def test_given_layers_ascend_and_are_counted(selection: dict[str, Any], named: str) -> None:
    """They are named once, and nothing else."""
    with pytest.raises(ConfigError, match=rf"^selection\.{named}"):
        InheritanceConfig.from_json({"selection": selection})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", 0),
        ("inner_steps", 0),
        ("inner_lr", 0.0),
        ("meta_lr", float("inf")),
        ("match_weight", -1.0),
        ("meta_images", 0),
    ],
)
def test_transfer_has_limits(field: str, value: float) -> None:
    """Each names its field."""
    with pytest.raises(ConfigError, match=rf"^transfer\.{field}: must be"):
        InheritanceConfig.from_json({"selection": {"rule": "transfer"}, "training": {"epochs": 1}, "transfer": {field: value}})


def test_gradients_of_gradients_are_not_checkpointed() -> None:
    """Heur-LG's may be."""
    assert read(training={"grad_checkpointing": True}).training.grad_checkpointing
    with pytest.raises(ConfigError, match=r"^training\.grad_checkpointing"):
        InheritanceConfig.from_json({"selection": {"rule": "transfer"}, "training": {"epochs": 1, "grad_checkpointing": True}})
