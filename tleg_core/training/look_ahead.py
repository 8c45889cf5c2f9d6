"""Learning what and where to transfer: what a few steps of matching an ancestry's features do to a small network's loss.

The look-ahead takes T steps of gradient descent on the matching loss, one on the cross-entropy, and gives the cross-entropy
after them, differentiable in the weights lambda of the matching: the exact gradient, by autograd through the steps. The
network's own weights stay as they are.

Sources: Jang et al., "Learning What and Where to Transfer" (arXiv 1905.05901), algorithm 1; Auto-LG (arXiv 2305.02279), whose
code replays the stored steps backwards by hand.

Shape legend: B images, N tokens, D width, L layers of the ancestry, M layers of the pseudo-descendant, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tleg_core.inheritance_config import MatchCriterion


class LayeredVit(nn.Module):
    """A timm ViT that also gives the tokens after each block."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the tokens (B, N, D) after each block, and the logits (B, C), of normalised images (B, 3, H, W)."""
        network: Any = self.network
        tokens: Tensor = network._pos_embed(network.patch_embed(images))
        layers: list[Tensor] = []
        for block in network.blocks:
            tokens = block(tokens)
            layers.append(tokens)
        logits: Tensor = network.forward_head(network.norm(tokens))
        return layers, logits


def pooled(layers: Sequence[Tensor]) -> Tensor:
    """Return the mean token of each layer, (B, L, D), of L tensors (B, N, D)."""
    return torch.stack([tokens.mean(dim=1) for tokens in layers], dim=1)


def lambdas(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `lambda_mn(x) = ReLU6(w_mn . pool(S_m(x)) + b_mn)`, (B, L, M).

    Args:
        features: pool(S_m(x)), (B, L, D).
        weight: w, (L, M, D).
        bias: b, (L, M).
    """
    with torch.autocast(features.device.type, enabled=False):  # small differences between layers are what is looked for
        return functional.relu6(torch.einsum("bld,lmd->blm", features.to(weight.dtype), weight) + bias)


def matching_loss(source: Sequence[Tensor], target: Sequence[Tensor], weights: Tensor, criterion: MatchCriterion) -> Tensor:
    """Return `sum_mn mean_x lambda_mn(x) d(S_m(x), T_n(x))`, a scalar; d is the mean over tokens and channels.

    Args:
        source: S_m(x), L tensors (B, N, D).
        target: T_n(x), M tensors (B, N, D).
        weights: lambda_mn(x), (B, L, M).
        criterion: Whether d is of absolute or of squared differences.
    """
    total = weights.new_zeros(())
    for m, theirs in enumerate(source):
        for n, ours in enumerate(target):
            difference = _whole(theirs - ours)
            distance = difference.abs() if criterion is MatchCriterion.ABSOLUTE else difference.square()
            total = total + (weights[:, m, n] * distance.mean(dim=(1, 2))).mean()
    return total


def look_ahead_loss(
    network: nn.Module,
    parameters: Mapping[str, Tensor],
    weights: Tensor,
    *,
    source: Sequence[Tensor],
    meta_images: Tensor,
    images: Tensor,
    targets: Tensor,
    steps: int,
    lr: float,
    criterion: MatchCriterion,
) -> Tensor:
    """Return the cross-entropy, a scalar, after `steps` steps of matching and one on the cross-entropy itself.

    Args:
        network: Gives tokens after each layer, and logits, as `LayeredVit`; plain attention, whose gradient has a gradient.
        parameters: Its weights before the steps, each with a gradient.
        weights: lambda of the matched images, (B, L, M).
        source: The ancestry's tokens of them, L tensors (B, N, D).
        meta_images: The images that are matched, (B, 3, H, W).
        images: Those of the cross-entropy, (B, 3, H, W), before and after its step.
        targets: Their labels, int64 (B,), or probabilities (B, C).
        steps: T.
        lr: Of all steps.
        criterion: How features are compared.
    """
    now = dict(parameters)
    for _ in range(steps):
        layers, _ = functional_call(network, now, (meta_images,))
        now = _descended(now, matching_loss(source, layers, weights, criterion), lr)
    _, logits = functional_call(network, now, (images,))
    now = _descended(now, functional.cross_entropy(_whole(logits), targets), lr)
    _, logits = functional_call(network, now, (images,))
    return functional.cross_entropy(_whole(logits), targets)


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision as float32, another as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _descended(parameters: Mapping[str, Tensor], loss: Tensor, lr: float) -> dict[str, Tensor]:
    """Return the parameters one step of gradient descent further, differentiable in all that the loss depends on."""
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
    return {
        name: parameter if gradient is None else parameter - lr * gradient  # features do not depend on the head
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
