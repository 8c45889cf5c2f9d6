"""Elastic weight consolidation: a network that learns one task after the other is held near what earlier tasks needed.

Source: Kirkpatrick et al., arXiv 1612.00796, equation 3, with a term for each earlier task. The authors of Heur-LG mean to use
it; theirs reads its tensors from the wrong object, catches the error and returns 0.

Shape legend: P numbers of all the parameters that are held, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Consolidation(nn.Module):
    """The penalty, and what it is made of: buffers, so that a checkpoint has them.

    It is `strength / 2 * sum_s sum_p F_s,p (theta_p - theta_s,p)^2` over earlier tasks s. One Fisher information and one anchor
    suffice for all of them, F = sum_s F_s and the F_s-weighted mean of theta_s: the two differ by a constant, and have the same
    gradient.

    Args:
        parameters: Those that are held.
        strength: Lambda.
    """

    fisher: Tensor  # (P,)
    anchor: Tensor  # (P,)

    def __init__(self, parameters: Sequence[nn.Parameter], strength: float) -> None:
        super().__init__()
        self._held = list(parameters)  # of another module: in a list, they are not this one's
        self.strength = strength
        size = sum(parameter.numel() for parameter in parameters) if strength else 0
        device = parameters[0].device
        self.register_buffer("fisher", torch.zeros(size, device=device))
        self.register_buffer("anchor", torch.zeros(size, device=device))

    def penalty(self) -> Tensor:
        """Return the penalty of the parameters as they are, a scalar; 0 where nothing is held yet."""
        if not self.strength:
            return torch.zeros((), device=self.fisher.device)
        distance = self._flat() - self.anchor
        return self.strength / 2 * (self.fisher * distance.square()).sum()

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """Return the penalty's gradient for each parameter; nothing where there is no penalty."""
        if not self.strength:
            return []
        flat = self.strength * self.fisher * (self._flat() - self.anchor)
        pieces = torch.split(flat, [parameter.numel() for parameter in self._held])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self._held, strict=True)]

    @torch.no_grad()
    def hold(self, fisher: Sequence[Tensor]) -> None:
        """Hold the parameters where they are from now on, as much as a task's Fisher information says."""
        if not self.strength:
            return
        added = torch.cat([part.flatten() for part in fisher])
        total = self.fisher + added
        moved = (self._flat() - self.anchor) * (added / total.clamp_min(torch.finfo(total.dtype).tiny))
        self.anchor.add_(moved)
        self.fisher.copy_(total)

    def _flat(self) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in self._held])


def fisher_information(
    logits_of: Callable[[Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
    images: Tensor,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the diagonal of the Fisher information, E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2, for each parameter.

    The outer mean is over `images`, the inner one a single draw for each, by the CPU's `generator`. Images go one at a time:
    the square of a batch's mean gradient is another thing.

    Args:
        logits_of: The network, in evaluation mode: images (1, 3, H, W) to logits (1, C).
        parameters: By name.
        images: (N, 3, H, W).
        generator: Draws the classes.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in images:
        logits = logits_of(image[None]).float()
        probabilities = logits.detach().softmax(dim=1).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
        gradients = torch.autograd.grad(functional.cross_entropy(logits, drawn), list(parameters.values()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name].addcmul_(gradient, gradient, value=1 / len(images))
    return total
