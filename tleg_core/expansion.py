"""The one equation: a block tensor of layer i is a linear combination of the learngene's components.

It serves the training (torch tensors, differentiable) and the serving (numpy arrays, bit for bit reproducible) alike, since
it uses nothing but the operators `*` and `+`. Which coefficients a layer takes is the `schedule`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar


class Combinable(Protocol):
    """What `combine` asks of a component: a numpy array and a torch tensor both have it."""

    def __mul__(self, other: float, /) -> Self: ...

    def __add__(self, other: Self, /) -> Self: ...


TensorT = TypeVar("TensorT", bound=Combinable)


def combine(coefficients: Sequence[float], components: Sequence[TensorT]) -> TensorT:
    """Return `W_i = sum_k C(L)[i, k] * basis[k]`; for TLEG this is theta_i = theta_B + (i / L) * theta_A.

    Source: TLEG (arXiv 2312.05614, section 3, the linear expansion), in the zero-based form of the authors' code.

    The numerics are frozen: a component with coefficient 0 is left out, one with coefficient 1 is taken as it is, every other
    product is rounded, and the sum is taken left to right in k, rounded after each term. A fused multiply-add, or
    `torch.add(alpha=)`, is not bit-equal to that.

    Args:
        coefficients: Row i of C(L): K numbers, each exactly a float32.
        components: The K components of one block tensor, float32, all of one shape.

    Raises:
        ValueError: The lengths differ, or every coefficient is zero.
    """
    total: TensorT | None = None
    for coefficient, component in zip(coefficients, components, strict=True):
        if coefficient == 0.0:
            continue
        term = component if coefficient == 1.0 else component * coefficient
        total = term if total is None else total + term
    if total is None:
        raise ValueError("a layer needs at least one coefficient that is not zero")
    return total
