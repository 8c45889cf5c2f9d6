"""Descendants of a learngene: TLEG's, the polynomial's and the stage-wise one's, whatever its schedule is."""

from __future__ import annotations

from tleg_core.expansion import combine
from tleg_core.learngene import Learngene
from tleg_core.tensor_source import Array
from tleg_core.vit import inventory


def initialise(learngene: Learngene, depth: int) -> dict[str, Array]:
    """Return the depth-`depth` descendant's weights as expanded, the trained head included.

    Raises:
        ConfigError: The schedule is not defined for that depth.
    """
    rows = learngene.description.basis.schedule.coefficients(depth)
    return {
        spec.name: learngene.tensors[spec.name]
        if spec.layer is None
        else combine(rows[spec.layer], list(learngene.basis(spec.part)))
        for spec in inventory(learngene.description.config, depth)
    }
