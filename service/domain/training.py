"""What a learngene that a job trained says of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from service.domain.dataset import Dataset
from tleg_core import __version__
from tleg_core.description import Provenance
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.pool_description import pool_summary
from tleg_core.training_description import summary

TrainedConfig = LearngeneConfig | PoolConfig
"""How a learngene comes about."""


def provenance_of(
    dataset: Dataset,
    config: TrainedConfig,
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
        notes=summary(config) if isinstance(config, LearngeneConfig) else pool_summary(config, anchors or {}),
    )
