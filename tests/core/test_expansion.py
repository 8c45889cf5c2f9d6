"""The one equation against plain torch, bit for bit, and its gradients against the formula's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tleg_core.expansion import combine
from tleg_core.schedule import Polynomial, Stagewise


def components(count: int, size: int = 4096, seed: int = 0) -> list[np.ndarray]:
    """Return `count` float32 arrays with the spread of a trained network's weights."""
    generator = np.random.default_rng(seed)
    return [generator.normal(0.0, 0.02, size).astype(np.float32) for _ in range(count)]


def bits(array: np.ndarray) -> np.ndarray:
    """Return the bits, which tell -0 from 0 too."""
    return array.view(np.uint32)


@pytest.mark.parametrize("depth", [1, 3, 7, 12, 100])
def test_layer_0_is_theta_b_bit_for_bit(depth: int) -> None:
    """At layer 0 nothing is added, not even a zero that would turn -0 into 0 or a product with an infinity into NaN."""
    base, slope = components(2)
    base[:2] = -0.0, 0.0
    slope[:4] = np.inf, -np.inf, np.finfo(np.float32).max, 1.0
    found = combine(Polynomial().coefficients(depth)[0], [base, slope])
    assert np.array_equal(bits(found), bits(base))


@pytest.mark.parametrize("depth", [2, 3, 5, 7, 11, 12, 24])
@pytest.mark.parametrize("num_components", [2, 3, 5])
def test_numpy_equals_torchs_separate_products_and_sums(depth: int, num_components: int) -> None:
    """Each layer has the bits of float32 torch.mul and torch.add, taken left to right in k."""
    basis = components(num_components)
    in_torch = [torch.from_numpy(component) for component in basis]
    for layer, row in enumerate(Polynomial(num_components=num_components).coefficients(depth)):
        expected = in_torch[0]
        for k in range(1, num_components if layer else 1):
            power = 1.0
            for _ in range(k):
                power *= layer / depth
            product = torch.mul(in_torch[k], torch.tensor(power, dtype=torch.float64).to(torch.float32))
            expected = torch.add(expected, product)
        found = combine(row, basis)
        assert found.dtype == np.float32
        assert np.array_equal(bits(found), bits(expected.numpy()))


def test_numpy_and_torch_inputs_give_the_same_bits() -> None:
    """Training and serving expand alike."""
    basis = components(3)
    for row in Polynomial(num_components=3).coefficients(7):
        in_torch = combine(row, [torch.from_numpy(component) for component in basis])
        assert np.array_equal(bits(combine(row, basis)), bits(in_torch.numpy()))


def test_a_fused_multiply_add_has_other_bits() -> None:
    """One rounding instead of two differs somewhere, which is why the two are frozen as separate operations."""
    base, slope = components(2)
    coefficient = Polynomial().coefficients(12)[7][1]
    found = combine((1.0, coefficient), [base, slope])
    fused = (base.astype(np.float64) + slope.astype(np.float64) * coefficient).astype(np.float32)  # the product is exact
    assert not np.array_equal(bits(found), bits(fused))
    assert np.allclose(found, fused, rtol=0, atol=2**-27)  # by a unit in the last place of the largest, no more


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch fuses in its vector kernels only")
def test_torchs_add_with_alpha_has_other_bits() -> None:
    """`torch.add(alpha=)` is fused on this machine's vector unit and so is not bit-equal."""
    base, slope = components(2)
    coefficient = Polynomial().coefficients(12)[7][1]
    found = combine((1.0, coefficient), [base, slope])
    fused = torch.add(torch.from_numpy(base), torch.from_numpy(slope), alpha=coefficient)
    assert not np.array_equal(bits(found), bits(fused.numpy()))


def test_a_one_hot_row_takes_its_component_as_it_is() -> None:
    """Stage-wise sharing copies: the result is the component, without arithmetic."""
    basis = components(5)
    for row in Stagewise().coefficients(12):
        assert combine(row, basis) is basis[row.index(1.0)]


@pytest.mark.parametrize("layer", [0, 1, 5])
def test_gradients_flow_to_every_component_in_proportion(layer: int) -> None:
    """The gradient of component k is its coefficient times the gradient of the layer; none where the coefficient is 0."""
    basis = [torch.from_numpy(component).requires_grad_() for component in components(3, size=16)]
    row = Polynomial(num_components=3).coefficients(6)[layer]
    upstream = torch.arange(16, dtype=torch.float32)
    combine(row, basis).backward(upstream)
    for coefficient, component in zip(row, basis, strict=True):
        if coefficient == 0.0:
            assert component.grad is None
        else:
            assert component.grad is not None
            assert torch.equal(component.grad, upstream * coefficient)


def test_the_expansion_is_the_derivative_that_finite_differences_give() -> None:
    """Torch's gradcheck agrees in float64."""
    basis = tuple(torch.from_numpy(component.astype(np.float64)).requires_grad_() for component in components(3, size=5))
    assert torch.autograd.gradcheck(lambda *parts: combine((1.0, 0.5, 0.25), parts), basis)


def test_inputs_are_left_alone() -> None:
    """Nothing is written into the components."""
    basis = components(3)
    before = [component.copy() for component in basis]
    combine((1.0, 0.5, 0.25), basis)
    combine((0.5, 0.0, 0.25), basis)
    assert all(np.array_equal(bits(a), bits(b)) for a, b in zip(basis, before, strict=True))


@pytest.mark.parametrize("coefficients", [(), (0.0, 0.0), (1.0,), (1.0, 0.5, 0.25)])
def test_a_row_that_makes_no_layer_is_refused(coefficients: tuple[float, ...]) -> None:
    """Rows of another length than the basis, or of zeros only, raise ValueError."""
    with pytest.raises(ValueError, match=r"zip|at least one"):
        combine(coefficients, components(len(coefficients) if not any(coefficients) else 2, size=4))
