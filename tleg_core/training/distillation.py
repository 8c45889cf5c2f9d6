"""Distillation: the auxiliary model learns the ancestry model's probabilities, or its decisions.

Source: TLEG (arXiv 2312.05614), stage 1, which is DeiT's soft distillation (arXiv 2012.12877, equation 2); DeiT's hard
distillation (equation 3) is the other kind.

Shape legend: B images, C classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tleg_core.learngene_config import Distillation, DistillationKind, KdNormalisation


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


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor | None, targets: Tensor, distillation: Distillation
) -> Tensor:
    """Return `(1 - alpha) * CE + alpha * KD`, a scalar; a term with weight 0 is not computed.

    KD is `divergence`, or with hard distillation the cross-entropy with the ancestry model's most probable class.

    Args:
        student_logits: (B, C), of the auxiliary model.
        teacher_logits: (B, C), of the ancestry model on the same images; None is possible where alpha is 0.
        targets: Labels, int64 (B,), or the probabilities that mixup makes of them, (B, C).
        distillation: Weights, temperature and normalisation.
    """
    alpha = distillation.alpha
    if alpha == 0.0 or teacher_logits is None:
        return functional.cross_entropy(student_logits.float(), targets)
    if alpha == 1.0:
        return _learned_from(student_logits, teacher_logits, distillation)
    cross_entropy = functional.cross_entropy(student_logits.float(), targets)
    return (1.0 - alpha) * cross_entropy + alpha * _learned_from(student_logits, teacher_logits, distillation)


def _learned_from(student_logits: Tensor, teacher_logits: Tensor, distillation: Distillation) -> Tensor:
    """Return the distillation's term, a scalar, of logits (B, C)."""
    if distillation.kind is DistillationKind.HARD:
        return functional.cross_entropy(student_logits.float(), teacher_logits.argmax(dim=1))
    return divergence(student_logits, teacher_logits, distillation)
