"""The linear head on frozen features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tleg_core.errors import ConfigError
from tleg_core.training.linear_head import LinearHead, fit_linear_head


def blobs(count: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (N, 6) around three centres, on very different scales, one feature constant; and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    points = torch.zeros(count, 6)
    points[:, :3] = functional.one_hot(labels, 3).float() + spread * torch.randn(count, 3, generator=generator)
    points[:, 3:5] = torch.randn(count, 2, generator=generator)
    return points * torch.tensor([1.0, 100.0, 0.01, 10.0, 1.0, 1.0]) + 5.0, labels


def top1(head: LinearHead, features: Tensor, labels: Tensor) -> float:
    """Accuracy of the head applied to raw features, as a network's last layer is."""
    predicted = functional.linear(features, head.weight, head.bias).argmax(dim=1)
    return (predicted == labels).float().mean().item()


def test_separable_classes_are_told_apart_in_raw_features() -> None:
    """The standardisation is folded into weight and bias, so unseen points are classified from what the network gives."""
    head = fit_linear_head(*blobs(300, 0.1), 3)
    assert head.weight.shape == (3, 6)
    assert top1(head, *blobs(300, 0.1, seed=1)) == 1.0
    assert head.held_out_top1 == 1.0


def test_the_fit_is_the_minimum_of_its_own_objective() -> None:
    """At the solution the gradient of CE + penalty / 2 * |W|^2 over standardised features vanishes."""
    features, labels = blobs(300, 0.7)
    head = fit_linear_head(features, labels, 3)
    mean, std = features.mean(0), features.std(0)
    std[5] = 1.0  # never varies
    weight = (head.weight * std).requires_grad_(True)
    bias = (head.bias + head.weight @ mean).requires_grad_(True)
    loss = functional.cross_entropy(functional.linear((features - mean) / std, weight, bias), labels)
    (loss + head.penalty / 2 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-4  # L-BFGS stops there, in float32
    assert bias.grad is not None
    assert bias.grad.abs().max() < 1e-4


def test_the_penalty_is_chosen_on_held_out_images() -> None:
    """With more noise features than images a strong penalty wins, and unseen points gain by it."""
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(60, 200, generator=generator), torch.arange(60) % 2
    features[:, 0] += 2.0 * labels
    assert fit_linear_head(features, labels, 2).penalty >= 0.1


def test_the_same_seed_gives_the_same_head() -> None:
    """To the bit."""
    first, again = fit_linear_head(*blobs(90, 0.5), 3, seed=4), fit_linear_head(*blobs(90, 0.5), 3, seed=4)
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)


def test_what_cannot_be_fitted_is_refused() -> None:
    """One image, or overflown features."""
    with pytest.raises(ConfigError, match="data: a head needs at least 2 images"):
        fit_linear_head(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), 2)
    with pytest.raises(ConfigError, match="not all finite"):
        fit_linear_head(torch.full((4, 4), float("inf")), torch.zeros(4, dtype=torch.int64), 2)
