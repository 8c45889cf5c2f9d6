"""The layers' weights: bit-equal to the equation, and their gradient against the chain rule written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tleg_core.expansion import combine
from tleg_core.schedule import Polynomial, Schedule, Spline, Stagewise
from tleg_core.training.layer_weights import layer_weights

SHAPES = {"mlp.fc1.weight": (5, 3), "mlp.fc1.bias": (5,)}
SCHEDULES: list[Schedule] = [
    Polynomial(),
    Polynomial(num_components=4),
    Polynomial(num_components=3, endpoint=True),
    Spline(num_components=3),
    Spline(num_components=20),  # more components than layers: some are in no layer
    Stagewise(stages=(2, 1, 3)),
]


def basis_of(schedule: Schedule) -> dict[str, Tensor]:
    """Return random components."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(schedule.num_components, *shape, generator=generator).requires_grad_()
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("depth", [3, 6, 12])
def test_every_layer_is_the_equations_to_the_bit(schedule: Schedule, depth: int) -> None:
    """For each tensor of each layer, whatever the rows look like."""
    basis = basis_of(schedule)
    rows = schedule.coefficients(depth)
    layers = layer_weights(rows, basis)
    assert len(layers) == depth
    for row, layer in zip(rows, layers, strict=True):
        assert list(layer) == list(basis)
        for name, stacked in basis.items():
            expected = combine(row, stacked.detach().unbind(0))
            assert torch.equal(layer[name].view(torch.int32), expected.view(torch.int32))  # the signs of zeros too


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("depth", [3, 6, 12])
def test_a_components_gradient_is_the_sum_over_the_layers_that_hold_it(schedule: Schedule, depth: int) -> None:
    """dL/dbasis[k] = sum_i C[i, k] dL/dW_i, in float64; a component that no layer holds has a gradient of zeros."""
    basis = basis_of(schedule)
    rows = schedule.coefficients(depth)
    layers = layer_weights(rows, basis)
    generator = torch.Generator().manual_seed(6)
    given = [{name: torch.randn(tensor.shape, generator=generator) for name, tensor in layer.items()} for layer in layers]
    loss = sum(((layer[name] * given[i][name]).sum() for i, layer in enumerate(layers) for name in layer), torch.zeros(()))
    loss.backward()
    for name, stacked in basis.items():
        by_layer = torch.stack([gradients[name].double() for gradients in given]).flatten(1)  # (L, size)
        expected = torch.tensor(rows, dtype=torch.float64).T @ by_layer  # (K, size)
        assert stacked.grad is not None
        # float32 sums of as many terms as there are layers
        torch.testing.assert_close(stacked.grad.double().flatten(1), expected, rtol=1e-5, atol=1e-6)


def test_one_hot_rows_copy_nothing() -> None:
    """A layer that takes a component as it is shares its memory, and two such layers do not share a gradient."""
    schedule = Stagewise(stages=(2, 1))
    basis = basis_of(schedule)
    first, second, _ = layer_weights(schedule.coefficients(3), basis)
    name = "mlp.fc1.weight"
    assert first[name].data_ptr() == second[name].data_ptr() == basis[name].data_ptr()
    (2 * first[name] + 3 * second[name]).sum().backward()
    gradient = basis[name].grad
    assert gradient is not None
    assert torch.equal(gradient[0], torch.full((5, 3), 5.0))
    assert not gradient[1].any()


def test_a_basis_changed_in_between_is_noticed() -> None:
    """The backward pass of what used a layer refuses weights that were changed in place after the forward pass."""
    basis = basis_of(Stagewise(stages=(1, 1)))
    first, _ = layer_weights(Stagewise(stages=(1, 1)).coefficients(2), basis)
    loss = first["mlp.fc1.weight"].square().sum()
    with torch.no_grad():
        basis["mlp.fc1.weight"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified inplace"):
        loss.backward()
