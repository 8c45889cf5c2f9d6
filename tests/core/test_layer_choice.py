"""From numbers to layers."""

from __future__ import annotations

import numpy as np
import pytest

from tleg_core.errors import ConfigError
from tleg_core.layer_choice import highest, stability_scores


def test_the_highest_scores_are_chosen_in_the_networks_order() -> None:
    """Of equal ones the later layers."""
    assert highest([0.1, 0.9, 0.5, 0.7], 2) == (1, 3)
    assert highest([1.0, 1.0, 1.0, 1.0], 2) == (2, 3)
    assert highest([0.5, 0.2, 0.5, 0.9], 2) == (2, 3)
    assert highest([0.3], 1) == (0,)


@pytest.mark.parametrize("count", [0, 5])
def test_there_must_be_so_many_layers(count: int) -> None:
    """The field and the limit are named."""
    with pytest.raises(ConfigError, match=r"selection\.num_layers: must be from 1 to the ancestry's 4 layers"):
        highest([1.0, 2.0, 3.0, 4.0], count)


def test_low_and_steady_rates_are_stable() -> None:
    """Layer 0 is low and steady, 1 low but unsteady, 2 high but steady, 3 high and unsteady."""
    rates = np.array([[[0.1, 0.05, 0.8, 0.5]], [[0.1, 0.25, 0.8, 1.0]]])  # (2 tasks, 1 window, 4 layers)
    scores = stability_scores(rates)
    assert scores[0] > max(scores[1:3])
    assert min(scores[1:3]) > scores[3]


def test_scores_are_the_ranks_of_mean_and_deviation() -> None:
    """First in both is 1, last in both 0; equal numbers share their places."""
    rates = np.array([[[0.0, 0.1, 0.4]], [[0.0, 0.3, 0.8]]])
    assert stability_scores(rates) == (1.0, 0.5, 0.0)
    assert stability_scores(np.full((3, 2, 4), 0.25)) == (0.5,) * 4


def test_windows_are_compared_with_the_same_windows_of_other_tasks() -> None:
    """A layer whose rate falls alike in every task varies less than one that is high in one task and low in another."""
    falls, jumps = [[0.9, 0.1], [0.9, 0.1]], [[0.5, 0.4], [0.6, 0.5]]  # (tasks, windows), the same mean
    rates = np.stack([np.array(falls), np.array(jumps)], axis=2)
    falling, jumping = stability_scores(rates)
    assert falling > jumping


def test_a_single_layer_has_the_score_of_a_first() -> None:
    """There is nothing to divide by."""
    assert stability_scores(np.zeros((2, 2, 1))) == (1.0,)
