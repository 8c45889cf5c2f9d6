"""The order of a run's images: which come in each update, a function of the seed and the epoch.

Shape legend: B images of a batch, over all processes; N training images.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.training.draws import generator_of

_RUN_PART = 16  # images that stay together where they can only be read in runs


class ImageOrder:
    """The order of N images, as positions 0..N - 1.

    With `repeats`, each image of an epoch comes that often in a row, and a part of the images alone comes at all, so that an
    epoch stays as long: DeiT's repeated augmentation (Hoffer et al., arXiv 1902.05509). Images that can only be read in long
    runs are shuffled within their runs, and these in parts of 16: a batch is then of many runs, and each run is read a few
    times an epoch.

    Args:
        rows: The images' rows in their source, int64 (N,).
        batch_size: B; an incomplete last batch is left out of each epoch.
        seed: Of the order.
        repeats: How often each image comes in an epoch.
        run_starts: First rows of the runs; None where any row is read alone.

    Raises:
        ConfigError: There are fewer images than a batch has.
    """

    def __init__(
        self, rows: Tensor, *, batch_size: int, seed: int, repeats: int = 1, run_starts: npt.NDArray[np.int64] | None = None
    ) -> None:
        self._count, self._batch_size, self._seed, self._repeats = len(rows), batch_size, seed, repeats
        self._runs = None if run_starts is None else torch.from_numpy(np.searchsorted(run_starts, rows.numpy(), side="right"))
        self.steps_per_epoch = len(rows) // batch_size
        if not self.steps_per_epoch:
            raise ConfigError("batch_size", f"{batch_size} is more than the {len(rows)} images")
        self._of_epoch = lru_cache(maxsize=2)(self._drawn)

    def epoch(self, step: int) -> int:
        """Return the epoch of the update after `step` updates."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> Tensor:
        """Return the positions (B,) of the images of an update."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._of_epoch(epoch)[place * self._batch_size : (place + 1) * self._batch_size]

    def repeats(self, step: int) -> Tensor:
        """Return which of its repeats in the epoch each image (B,) of an update is."""
        start = step % self.steps_per_epoch * self._batch_size
        return torch.arange(start, start + self._batch_size) % self._repeats

    def _drawn(self, epoch: int) -> Tensor:
        generator = generator_of(self._seed, "order", epoch)
        order = torch.randperm(self._count, generator=generator)
        if self._runs is not None:
            order = _in_parts_of_runs(order, self._runs, generator)
        if self._repeats == 1:
            return order
        return order[: -(-self._count // self._repeats)].repeat_interleave(self._repeats)[: self._count]


def _in_parts_of_runs(order: Tensor, runs: Tensor, generator: torch.Generator) -> Tensor:
    """Return a shuffled order with the images of a run together, in parts that are shuffled themselves.

    Args:
        order: Positions in a random order, (N,).
        runs: The run of each position, (N,).
        generator: For the order of the parts.
    """
    order = order[torch.argsort(runs[order], stable=True)]  # run by run, each in a random order of its own
    _, lengths = torch.unique_consecutive(runs[order], return_counts=True)
    within = torch.arange(len(order)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    parts = (lengths + _RUN_PART - 1) // _RUN_PART
    part = torch.repeat_interleave(parts.cumsum(0) - parts, lengths) + within // _RUN_PART  # of each image
    rank = torch.randperm(int(parts.sum()), generator=generator)
    return order[torch.argsort(rank[part], stable=True)]
