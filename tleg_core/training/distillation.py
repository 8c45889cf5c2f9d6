"""Soft distillation: the auxiliary model learns the ancestry model's probabilities.

Source: TLEG (arXiv 2312.05614), stage 1, which is DeiT's soft distillation (arXiv 2012.12877, equation 2).

Shape legend: B images, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor
from torch.nn import functional

from tleg_core.errors import ConfigError


class KdNormalisation(StrEnum):
    """What the summed divergence is divided by."""

    BATCHMEAN = "batchmean"
    """B: the mathematical mean over the images."""
    NUMEL = "numel"
    """B * C: the authors' (and DeiT's) choice, 1/C of `batchmean`; it makes the term negligible beside a label loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How the two losses are weighed.

    Args:
        alpha: Share of the distillation term, 0..1; 1 is the published recipe, which never looks at a label.
        temperature: Both sides' logits are divided by it; 1 as published.
        normalisation: See `KdNormalisation`.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    normalisation: KdNormalisation = KdNormalisation.NUMEL

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError("alpha", f"must be from 0 to 1, not {self.alpha}")
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise ConfigError("temperature", f"must be above 0, not {self.temperature}")


def divergence(student_logits: Tensor, teacher_logits: Tensor, distillation: Distillation) -> Tensor:
    """Return `T^2 * sum_{b,c} p_t * (log p_t - log p_s) / n`, p = softmax(logits / T): KL from teacher to student, a scalar.

    n is B or B * C, as `distillation.normalisation` says. Logits are (B, C), of any float type; the sum is in float32.
    """
    temperature = distillation.temperature
    total = functional.kl_div(
        functional.log_softmax(student_logits.float() / temperature, dim=1),
        functional.log_softmax(teacher_logits.float() / temperature, dim=1),
        reduction="sum",
        log_target=True,
    )
    by_batch = distillation.normalisation is KdNormalisation.BATCHMEAN
    count = student_logits.shape[0] if by_batch else student_logits.numel()
    return total * (temperature**2 / count)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, distillation: Distillation) -> Tensor:
    """Return `(1 - alpha) * CE + alpha * KD`, a scalar; a term with weight 0 is not computed.

    Args:
        student_logits: (B, C), of the auxiliary model.
        teacher_logits: (B, C), of the ancestry model on the same images.
        targets: Labels, int64 (B,), or the probabilities that mixup makes of them, (B, C).
        distillation: Weights, temperature and normalisation.
    """
    alpha = distillation.alpha
    if alpha == 1.0:
        return divergence(student_logits, teacher_logits, distillation)
    cross_entropy = functional.cross_entropy(student_logits.float(), targets)
    if alpha == 0.0:
        return cross_entropy
    return (1.0 - alpha) * cross_entropy + alpha * divergence(student_logits, teacher_logits, distillation)
