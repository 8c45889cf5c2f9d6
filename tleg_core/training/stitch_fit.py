"""Stitches by least squares: the affine map that best carries one anchor's tokens into another's, on some images.

SN-Net's initialisation: a descendant works before any training of the stitches. The authors take the pseudo-inverse of all
tokens at once, in float32; here rows come in batches and are reduced by QR decompositions in float64, which is as exact as the
pseudo-inverse of everything and needs memory for one batch only. (The normal equations would square the condition number.)

Source: SN-Net, arXiv 2302.06586, section 3.2.

Shape legend: N rows (tokens of all images), D_a and D_b widths before and after a stitch.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.training.pool_model import PoolModel

FIT_IMAGES = 100
"""Images that SN-Net fits its stitches on."""

_BATCH_SIZE = 8  # images; the states of all blocks of a Ti, S and B anchor are then 60 MB each at most

_RCOND = 1e-6
"""Directions of the inputs below this share of the largest are left out: they are the float32 activations' rounding."""


class AffineFit:
    """Least squares `min_W,b |[X 1] [W b]^T - Y|` over rows that come in batches.

    Kept are the R of `[X 1] = Q R` and `Q^T Y`: at most (D_a + 1) rows, whatever the number of rows seen.
    """

    def __init__(self) -> None:
        self._r: Tensor | None = None  # (min(N, D_a + 1), D_a + 1)
        self._rhs: Tensor | None = None  # (min(N, D_a + 1), D_b)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x (N, D_a) with their targets y (N, D_b)."""
        rows = x.detach().cpu().double()
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)  # (N, D_a + 1)
        rhs = y.detach().cpu().double()
        if self._r is not None and self._rhs is not None:
            rows, rhs = torch.cat([self._r, rows]), torch.cat([self._rhs, rhs])
        q, self._r = torch.linalg.qr(rows)
        self._rhs = q.mT @ rhs

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return weight (D_b, D_a) and bias (D_b,), float64; of several solutions the smallest one."""
        assert self._r is not None  # noqa: S101 - rows were added
        assert self._rhs is not None  # noqa: S101
        solution = torch.linalg.lstsq(self._r, self._rhs, rcond=_RCOND, driver="gelsd").solution  # (D_a + 1, D_b)
        return solution[:-1].mT.contiguous(), solution[-1].clone()


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (D_b, D_a) and bias (D_b,) of `y = x W^T + b`, float32, that minimise the squared error over N rows.

    Args:
        x: Inputs (N, D_a).
        y: Targets (N, D_b).
    """
    fit = AffineFit()
    fit.add(x, y)
    weight, bias = fit.solve()
    return weight.float(), bias.float()


@torch.no_grad()
def fit_stitches(model: PoolModel, images: Tensor) -> None:
    """Set every stitch of a pool by least squares between its anchors as they are.

    For a join (j, k), X is the output of the source's block j and Y the target's input to block k: the output of its block
    k - 1, or its embedding for k = 0. A stitch that stands at several joins gets the mean of their weights and biases.

    Args:
        model: Its anchors trained; it is left in the mode that it was in.
        images: Normalised images (N, in_chans, img_size, img_size), about `FIT_IMAGES` of the training set, on any device.

    Raises:
        ConfigError: There is no image.
    """
    if not len(images):
        raise ConfigError("images", "are needed to fit stitches on")
    stitches = model.pool.stitches
    joins: defaultdict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)  # what starts behind a block
    for index, stitch in enumerate(stitches):
        for before, after in stitch.joins:
            joins[stitch.source, before].append((index, stitch.target, after))
    fits = {start: AffineFit() for start in joins}
    needed = {anchor for stitch in stitches for anchor in (stitch.source, stitch.target)}
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for first in range(0, len(images), _BATCH_SIZE):
        batch = images[first : first + _BATCH_SIZE].to(device)
        states = {anchor: [item.flatten(0, 1) for item in model.states(batch, anchor)] for anchor in needed}
        for (source, before), ends in joins.items():
            targets = torch.cat([states[target][after] for _, target, after in ends], dim=1)  # (N, sum of D_b)
            fits[source, before].add(states[source][before + 1], targets)
    model.train(training)
    found: defaultdict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for start, ends in joins.items():
        weight, bias = fits[start].solve()
        widths = [model.pool.anchors[target].config.embed_dim for _, target, _ in ends]
        for (index, _, _), part, offset in zip(ends, torch.split(weight, widths), torch.split(bias, widths), strict=True):
            found[index].append((part, offset))
    for index, maps in found.items():
        model.assign_stitch(
            index, torch.stack([weight for weight, _ in maps]).mean(0), torch.stack([bias for _, bias in maps]).mean(0)
        )
