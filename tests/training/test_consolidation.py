"""Elastic weight consolidation: the penalty acts, and the Fisher information is what its definition says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tleg_core.training.consolidation import Consolidation, fisher_information


def layer(*values: float) -> nn.Linear:
    """Return a linear layer, its four weights and its bias in float64."""
    linear = nn.Linear(2, 2).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(values[:4]).view(2, 2))
        linear.bias.copy_(torch.tensor(values[4:]))
    return linear


def test_moving_weights_costs_as_much_as_the_fisher_information_says() -> None:
    """Nothing before a task is held, nothing at its weights, `strength / 2 * F d^2` away from them."""
    linear = layer(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    held = Consolidation([linear.weight, linear.bias], strength=10.0).double()
    assert held.penalty() == 0.0
    held.hold([torch.tensor([[1.0, 0.0], [2.0, 0.5]]), torch.tensor([0.0, 3.0])])
    assert held.penalty() == 0.0
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.add_(1.0)
    assert held.penalty().item() == pytest.approx(10.0 / 2 * (1.0 + 2.0 + 0.5 + 3.0))


def test_one_anchor_has_the_gradient_of_a_term_for_each_task() -> None:
    """With two tasks held at different weights, one entry of which neither needs."""
    first, second = torch.tensor([1.0, 0.0, 2.0, 0.1, 0.0, 4.0]), torch.tensor([3.0, 0.0, 0.0, 0.2, 1.0, 4.0])
    starts = [torch.arange(6.0), torch.tensor([2.0, -1.0, 5.0, 0.0, 1.0, 1.0])]
    linear = layer(*starts[0].tolist())
    held = Consolidation([linear.weight, linear.bias], strength=3.0).double()
    held.hold([first[:4].view(2, 2), first[4:]])
    with torch.no_grad():
        linear.weight.copy_(starts[1][:4].view(2, 2))
        linear.bias.copy_(starts[1][4:])
    held.hold([second[:4].view(2, 2), second[4:]])
    with torch.no_grad():
        linear.weight.copy_(torch.full((2, 2), 7.0))
        linear.bias.copy_(torch.full((2,), -7.0))
    now = torch.tensor([7.0, 7.0, 7.0, 7.0, -7.0, -7.0])
    expected = 3.0 * (first * (now - starts[0]) + second * (now - starts[1]))
    gradients = torch.autograd.grad(held.penalty(), [linear.weight, linear.bias])
    for found in (gradients, held.gradients()):
        torch.testing.assert_close(torch.cat([part.flatten() for part in found]), expected.double())


def test_without_strength_nothing_is_held_or_stored() -> None:
    """The buffers are empty, so that a checkpoint is not larger for it."""
    linear = nn.Linear(2, 2)
    held = Consolidation([linear.weight], strength=0.0)
    held.hold([torch.ones(2, 2)])
    assert (held.fisher.numel(), held.gradients(), held.penalty().item()) == (0, [], 0.0)


def test_the_fisher_information_of_a_linear_classifier_is_the_known_one() -> None:
    """F of W[c, j] is p_c (1 - p_c) x_j^2: the mean over the classes that the model itself draws, whatever the labels."""
    linear = layer(0.3, -0.2, 0.5, 0.1, 0.4, -0.3)
    image = torch.tensor([1.5, -2.0], dtype=torch.float64)
    images = image.expand(3000, 2)
    found = fisher_information(linear, dict(linear.named_parameters()), images, torch.Generator().manual_seed(0))
    p = linear(image).detach().softmax(dim=0)
    variance = p * (1 - p)
    torch.testing.assert_close(found["weight"], variance[:, None] * image.square(), rtol=0.1, atol=0.0)  # 3,000 draws
    torch.testing.assert_close(found["bias"], variance, rtol=0.1, atol=0.0)
