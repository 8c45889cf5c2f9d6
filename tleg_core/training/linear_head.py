"""A linear classifier on frozen features: multinomial logistic regression, its penalty chosen on held-out images.

As CLIP's linear probes (arXiv 2103.00020, appendix A.3): L-BFGS over all of them at once, for a row of penalties. Nothing is
drawn but which images are held out, so the result follows from the seed. Where the features come from is `ancestry`'s business.

Shape legend: N images, F features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tleg_core.errors import ConfigError
from tleg_core.training.draws import generator_of

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Tried from the strongest on, each started where the one before it ended."""

_HELD_OUT = 10  # one image of so many chooses the penalty
_MAX_ITERATIONS = 100  # of L-BFGS for each penalty; a warm start needs fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearHead:
    """A fitted head.

    Args:
        weight: (C, F), float32.
        bias: (C,), float32.
        penalty: The chosen one.
        held_out_top1: Accuracy on the held-out images at that penalty, a fraction; those were then used for the fit, too.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    held_out_top1: float


def fit_linear_head(features: Tensor, labels: Tensor, num_classes: int, *, seed: int = 0) -> LinearHead:
    """Return the head with the least `mean_n CE(W x_n + b, y_n) + penalty / 2 * |W|^2`, x standardised.

    Args:
        features: (N, F), of any float type.
        labels: int64 (N,), on the same device.
        num_classes: C.
        seed: Of the choice of held-out images.

    Raises:
        ConfigError: There are fewer than two images, or features that are not finite.
    """
    count = len(features)
    if count < 2:
        raise ConfigError("data", "a head needs at least 2 images")
    features = features.float()
    if not torch.isfinite(features).all():
        raise ConfigError("precision", "the features are not all finite: compute them in float32")
    mean, std = features.mean(dim=0), features.std(dim=0)  # (F,)
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-30), std, torch.ones_like(std))  # a feature that never varies
    ready = (features - mean) / std  # (N, F)
    order = torch.randperm(count, generator=generator_of(seed, "held-out")).to(features.device)
    held_out, kept = order[: max(1, count // _HELD_OUT)], order[max(1, count // _HELD_OUT) :]
    best, best_correct, theta = PENALTIES[0], -1, _zeros(ready, num_classes)
    for penalty in PENALTIES:
        theta = _minimise(theta, ready[kept], labels[kept], penalty)
        correct = int((_logits(ready[held_out], theta).argmax(dim=1) == labels[held_out]).sum())
        if correct > best_correct:
            best, best_correct = penalty, correct
    theta = _zeros(ready, num_classes)
    for penalty in PENALTIES[: PENALTIES.index(best) + 1]:
        theta = _minimise(theta, ready, labels, penalty)
    weight = theta[:, :-1] / std  # W (x - mean) / std + b = (W / std) x + (b - (W / std) mean)
    return LinearHead(
        weight=weight,
        bias=theta[:, -1] - weight @ mean,
        penalty=best,
        held_out_top1=best_correct / len(held_out),
    )


def _zeros(ready: Tensor, num_classes: int) -> Tensor:
    """Return W and b of zeros as one tensor (C, F + 1)."""
    return torch.zeros((num_classes, ready.shape[1] + 1), device=ready.device)


def _logits(ready: Tensor, theta: Tensor) -> Tensor:
    return functional.linear(ready, theta[:, :-1], theta[:, -1])  # (N, C)


def _minimise(start: Tensor, ready: Tensor, labels: Tensor, penalty: float) -> Tensor:
    """Return the minimum that L-BFGS reaches from `start`."""
    theta = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([theta], max_iter=_MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(_logits(ready, theta), labels) + penalty / 2 * theta[:, :-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return theta.detach()
