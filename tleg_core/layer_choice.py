"""Which layers of an ancestry model a learngene inherits: from numbers to a choice, by a stated rule. Torch-free.

How the numbers come about is `training.layer_stability`'s (Heur-LG) and `training.layer_transfer`'s (Auto-LG) business. The
authors of both only log them, and write the layers into the code by hand.

Shape legend: L layers of the ancestry, S tasks, W windows of a task, K layers that are inherited.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tleg_core.errors import ConfigError

STABILITY_RULE = (
    "each layer is ranked by the mean of its rates over all tasks and windows, and by their standard deviation across tasks "
    "(the mean over windows), lowest first; score = 1 - (rank + rank) / (2 (L - 1)); the highest scores, of equal ones the "
    "later layers"
)
"""Heur-LG's, in words."""

TRANSFER_RULE = (
    "score = the mean of lambda over images and over the layers of the pseudo-descendant; the highest scores, of equal ones "
    "the later layers"
)
"""Auto-LG's, in words."""

GIVEN_RULE = "the layers were named by hand"


def highest(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the K = `count` layers with the highest scores, ascending; of equal scores the later layers, as the papers.

    Raises:
        ConfigError: There are fewer layers.
    """
    if not 1 <= count <= len(scores):
        raise ConfigError("selection.num_layers", f"must be from 1 to the ancestry's {len(scores)} layers, not {count}")
    order = sorted(range(len(scores)), key=lambda layer: (scores[layer], layer), reverse=True)
    return tuple(sorted(order[:count]))


def stability_scores(rates: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return a score from 0 to 1 for each layer: 1 where its rates are the lowest and vary least from task to task.

    The windows of a task are compared with the same windows of the others, for gradients shrink within every task. Equal
    numbers share the mean of their ranks.

    Args:
        rates: (S, W, L), shares of a layer's weight gradients that are above the threshold.
    """
    level = rates.mean(axis=(0, 1))  # (L,)
    variation = rates.std(axis=0).mean(axis=0)  # (L,)
    span = max(2 * (rates.shape[2] - 1), 1)
    return tuple(float(1.0 - rank / span) for rank in _ranks(level) + _ranks(variation))


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each value's place among them from 0, the lowest first; equal ones have the mean of their places."""
    smaller = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    return np.asarray(smaller + (equal - 1) / 2, dtype=np.float64)
