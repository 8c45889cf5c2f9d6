"""A recipe with what a command line changes of it: short options are fields, `--set` reaches every one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tleg_core.config_section import parse_overrides
from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.training_recipe import AnyConfig, read_recipe

BASE: Final[Mapping[str, Any]] = {
    "training": {"epochs": 10, "warmup_epochs": 1},
    "network": {"img_size": 28, "patch_size": 7},
}
"""What is trained where no recipe is named: TLEG for small images."""

_OF_ANCHORS = ("size", "embed_dim", "num_heads")  # a pool's network says what its anchors share


def configured(
    recipe: str | None,
    given: Mapping[str, Mapping[str, Any]],
    changes: Sequence[str],
    *,
    has_ancestry: bool,
    anchors: Collection[str] = (),
) -> AnyConfig:
    """Return the recipe with what the command line changes of it.

    Args:
        recipe: Its name or file; None for `BASE`, which learns from labels alone where there is no ancestry model.
        given: Fields by section that short options set; None where one is not given.
        changes: What `--set` was given.
        has_ancestry: Whether there is an ancestry model.
        anchors: A pool's anchors that are there already.

    Raises:
        ConfigError: A field cannot be; there is no ancestry model and the recipe needs one, or it has no use for one.
    """
    base: AnyConfig = LearngeneConfig.from_json(BASE) if recipe is None else read_recipe(recipe)
    if recipe is None and not has_ancestry:
        base = base.with_changes({"distillation": {"alpha": 0.0}})
    said = {section: {name: value for name, value in items.items() if value is not None} for section, items in given.items()}
    said = {section: items for section, items in said.items() if items}
    if not isinstance(base, LearngeneConfig):
        _refuse_network(base, said)
    for section, items in parse_overrides(changes).items():
        said[section] = said.get(section, {}) | items
    _shorten_warmup(said, "training", base.training.warmup_epochs)
    if isinstance(base, PoolConfig):
        _shorten_warmup(said, "joint", base.joint.warmup_epochs)
    config: AnyConfig = base.with_changes(said)
    _check_ancestry(config, has_ancestry=has_ancestry, anchors=anchors)
    return config


def _refuse_network(base: PoolConfig | InheritanceConfig, said: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `ConfigError` where a short option is of a network that this recipe does not have."""
    network, is_pool = said.get("network", {}), isinstance(base, PoolConfig)
    for name in _OF_ANCHORS if is_pool else network:
        if name in network:
            where = f"of each anchor its own: give --set anchors.NAME.{name}=…" if is_pool else "the ancestry model's"
            raise ConfigError(name, f"is {where}")
    if "depths" in said:
        field_name = "anchors.NAME.depth" if is_pool else "depths.offer_max"
        raise ConfigError("depth", f"is not one number here: give --set {field_name}=…")


def _shorten_warmup(said: dict[str, dict[str, Any]], section: str, warmup_epochs: int) -> None:
    """Cut the warm-up to fewer epochs than are asked for, unless it is said itself: a short trial needs no other one named."""
    fields = said.get(section, {})
    epochs = fields.get("epochs")
    if isinstance(epochs, int) and epochs >= 1 and "warmup_epochs" not in fields:
        said[section] = fields | {"warmup_epochs": min(warmup_epochs, epochs - 1)}


def _check_ancestry(config: AnyConfig, *, has_ancestry: bool, anchors: Collection[str]) -> None:
    """Raise `ConfigError` unless there is an ancestry model exactly where one is learned from."""
    if isinstance(config, PoolConfig):
        needs, instead = config.learns_from_ancestry(anchors), "--set anchor_training.rule=alone and joint.alpha=0"
        nothing = "neither anchors that are to be trained nor the joint training learn from it"
    elif isinstance(config, LearngeneConfig):
        needs, instead = config.distillation.alpha != 0.0, "--set distillation.alpha=0"
        nothing = "the recipe learns from labels alone (distillation.alpha is 0)"
    else:
        needs, instead, nothing = True, "", ""
    if needs and not has_ancestry:
        words = f"the recipe distils (or give {instead} to learn from labels)" if instead else "its layers are inherited"
        raise ConfigError("ancestry", f"is needed: {words}")
    if has_ancestry and not needs:
        raise ConfigError("ancestry", f"has no use: {nothing}")
