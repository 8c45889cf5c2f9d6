"""The weights of an auxiliary model's layers: `expansion.combine` for all of a block's tensors at once, differentiable.

Layer i is `W_i = sum_k C[i, k] * basis[k]`, so the gradient of component k is `sum_i C[i, k] * dL/dW_i`: the same equation with
the columns of C in place of its rows. Both directions therefore go through `combine`, which leaves out coefficients of 0 and
takes those of 1 as they are: a one-hot row costs nothing but a view. Each product and each sum is one call for all the tensors
of a block, which on a GPU is one kernel.

Shape legend: K components, L depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tleg_core.expansion import combine
from tleg_core.schedule import Coefficients


def layer_weights(rows: Coefficients, basis: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the weights of every layer by their names in a block, bit-equal to `combine` for each of them.

    Args:
        rows: C(L), L rows of K coefficients.
        basis: The stacked components (K, ...) by name within a block.
    """
    flat: tuple[Tensor, ...] = _LayerWeights.apply(rows, *basis.values())
    count = len(basis)
    return [dict(zip(basis, flat[layer * count : (layer + 1) * count], strict=True)) for layer in range(len(rows))]


class _Tensors:
    """The tensors of a block, of one component or of one layer, that are multiplied and added together."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    def __mul__(self, coefficient: float, /) -> Self:
        return type(self)(torch._foreach_mul(self.tensors, coefficient))

    def __add__(self, other: Self, /) -> Self:
        return type(self)(torch._foreach_add(self.tensors, other.tensors))


class _LayerWeights(torch.autograd.Function):
    """All layers' tensors, layer by layer, of the stacked components of each tensor of a block."""

    @staticmethod
    def forward(ctx: Any, rows: Coefficients, *stacked: Tensor) -> tuple[Tensor, ...]:
        ctx.rows = rows
        parts = [tensor.detach() for tensor in stacked]
        layers = []
        for row in rows:
            # made anew for each row: two layers that take one component as it is must not return one and the same tensor
            components = [_Tensors([part[k] for part in parts]) for k in range(len(row))]
            layers.append(combine(row, components).tensors)
        return tuple(tensor for layer in layers for tensor in layer)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows: Coefficients = ctx.rows
        count = len(gradients) // len(rows)
        layers = [_Tensors(gradients[layer * count : (layer + 1) * count]) for layer in range(len(rows))]
        components = [
            combine(column, layers).tensors if any(column) else [torch.zeros_like(tensor) for tensor in gradients[:count]]
            for column in zip(*rows, strict=True)
        ]
        return (None, *(torch.stack(component) for component in zip(*components, strict=True)))
