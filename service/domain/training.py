"""What a learngene that a job trained says of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from service.domain.dataset import Dataset
from tleg_core import __version__, inheritance_description
from tleg_core.description import Description, Preprocessing, Provenance
from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.layer_choice import GIVEN_RULE
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.pool_description import describe_pool, pool_summary
from tleg_core.selection import Selection
from tleg_core.stack import Stack
from tleg_core.training_description import describe_learngene, summary
from tleg_core.training_recipe import AnyConfig


def provenance_of(
    dataset: Dataset,
    config: AnyConfig,
    *,
    name: str,
    images: int,
    teacher: str | None,
    licence: str,
    anchors: Mapping[str, str] | None = None,
) -> Provenance:
    """Return the provenance: the same for the same request, whichever job, attempt and worker trained it.

    Args:
        dataset: What it was trained on.
        config: How.
        name: The learngene's id.
        images: Training images.
        teacher: The id of the model that was learned from; None where labels alone taught.
        licence: The licence that the learngene is given.
        anchors: The ids of models that are a pool's anchors, by the anchor's name.
    """
    request = {"name": name, "dataset": dataset.id, "teacher": teacher, "licence": licence, "config": config.to_json()}
    if anchors:
        request["anchors"] = dict(anchors)
    return Provenance(
        data_set=f"{dataset.name or dataset.id} ({images:,} images)",
        ancestry="none: trained on labels" if teacher is None else f"model {teacher} of the service that trained it",
        command=f"POST /learngenes/trainings {json.dumps(request, sort_keys=True)}",
        version=__version__,
        licence=licence,
        notes=_summary(config, anchors or {}),
    )


def description_of(
    name: str,
    config: AnyConfig,
    provenance: Provenance,
    class_names: tuple[str, ...],
    *,
    ancestry: tuple[Stack, Preprocessing] | None,
) -> Description:
    """Return what a learngene will say of itself, before it is trained: which layers are inherited is not known by then.

    Args:
        name: Its id.
        config: How it comes about.
        provenance: Where it comes from.
        class_names: The data set's classes.
        ancestry: The plain ViT whose layers are inherited, and how its input is made.

    Raises:
        ConfigError: Something is not valid.
    """
    match config:
        case LearngeneConfig():
            return describe_learngene(name, config, provenance, class_names, config.preprocessing)
        case PoolConfig():
            return describe_pool(name, config, provenance, class_names)
        case InheritanceConfig():
            if ancestry is None:
                raise ConfigError("teacher", "is needed: its layers are what is inherited")
            stack, preprocessing = ancestry
            layers = config.selection.layers or tuple(range(config.selection.count))
            return inheritance_description.describe_inheritance(
                name,
                config,
                provenance,
                class_names,
                network=stack.config,
                depth=stack.depth,
                preprocessing=preprocessing,
                selection=Selection(rule=GIVEN_RULE, scores=(0.0,) * stack.depth, chosen=layers),
            )


def epochs_of(config: AnyConfig, anchors: Mapping[str, str]) -> int:
    """Return the epochs of all that is trained; `anchors` are models already."""
    match config:
        case LearngeneConfig():
            return config.training.epochs
        case PoolConfig():
            return config.total_epochs(anchors)
        case InheritanceConfig():
            return config.total_epochs


def _summary(config: AnyConfig, anchors: Mapping[str, str]) -> str:
    match config:
        case LearngeneConfig():
            return summary(config)
        case PoolConfig():
            return pool_summary(config, anchors)
        case InheritanceConfig():
            return inheritance_description.summary(config)
