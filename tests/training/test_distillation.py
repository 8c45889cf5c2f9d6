"""The distillation loss against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tleg_core.errors import ConfigError
from tleg_core.training.distillation import Distillation, KdNormalisation, distillation_loss, divergence

GENERATOR = torch.Generator().manual_seed(0)
STUDENT = torch.randn(6, 10, generator=GENERATOR)
TEACHER = torch.randn(6, 10, generator=GENERATOR)
LABELS = torch.randint(10, (6,), generator=GENERATOR)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_is_the_published_sum(temperature: float) -> None:
    """T^2 * sum p_t (log p_t - log p_s) / (B C), written out."""
    p_t, p_s = (TEACHER / temperature).softmax(1), (STUDENT / temperature).softmax(1)
    expected = temperature**2 * (p_t * (p_t.log() - p_s.log())).sum() / (6 * 10)
    found = divergence(STUDENT, TEACHER, Distillation(temperature=temperature, normalisation=KdNormalisation.NUMEL))
    torch.testing.assert_close(found, expected)


def test_at_alpha_one_the_normalisations_differ_in_scale_only() -> None:
    """The gradients of `batchmean` are C times those of `numel`."""
    gradients = {}
    for normalisation in KdNormalisation:
        student = STUDENT.clone().requires_grad_()
        distillation_loss(student, TEACHER, LABELS, Distillation(alpha=1.0, normalisation=normalisation)).backward()
        gradients[normalisation] = student.grad
    torch.testing.assert_close(gradients[KdNormalisation.BATCHMEAN], 10 * gradients[KdNormalisation.NUMEL])


def test_alpha_weighs_labels_against_the_teacher() -> None:
    """Alpha 0 is cross-entropy alone, between them is the weighted sum, and probabilities serve as targets."""
    cross_entropy = nn.functional.cross_entropy(STUDENT, LABELS)
    half = Distillation(alpha=0.25, normalisation=KdNormalisation.BATCHMEAN)
    expected = 0.75 * cross_entropy + 0.25 * divergence(STUDENT, TEACHER, half)
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, LABELS, Distillation(alpha=0.0)), cross_entropy)
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, LABELS, half), expected)
    one_hot = nn.functional.one_hot(LABELS, 10).float()
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, one_hot, half), expected)


def test_a_student_equal_to_its_teacher_has_no_loss() -> None:
    """KL is zero there, in bfloat16 too, since it is summed in float32."""
    loss = distillation_loss(TEACHER.bfloat16(), TEACHER.bfloat16(), LABELS, Distillation())
    assert loss.dtype == torch.float32
    assert abs(loss.item()) < 1e-7  # rounding


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", 1.5), ("alpha", -0.1), ("temperature", 0.0), ("temperature", float("inf"))]
)
def test_values_outside_their_limits_are_refused(field: str, value: float) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError, match=field):
        Distillation(**{field: value})
