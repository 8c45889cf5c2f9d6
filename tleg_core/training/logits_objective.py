"""The loss of any network that learns from labels and from a teacher's logits.

Shape legend: B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tleg_core.description import Preprocessing
from tleg_core.learngene_config import Distillation
from tleg_core.training.batches import Batch
from tleg_core.training.distillation import distillation_loss
from tleg_core.training.loop import Outcome
from tleg_core.training.preprocessing import prepare
from tleg_core.training.teacher import Teacher


class LogitsObjective:
    """The loss of an update.

    Args:
        network: Maps normalised images (B, 3, H, W) and the number of updates before this one to logits (B, C).
        distillation: How labels and the teacher's logits are weighed.
        teacher: Where those come from; None where alpha is 0.
        img_size: Side of the network's input, in pixels.
        preprocessing: How it is normalised.
    """

    def __init__(
        self,
        network: Callable[[Tensor, int], Tensor],
        distillation: Distillation,
        teacher: Teacher | None,
        *,
        img_size: int,
        preprocessing: Preprocessing,
    ) -> None:
        self._network, self._distillation, self._teacher = network, distillation, teacher
        self._img_size, self._preprocessing = img_size, preprocessing

    def __call__(self, batch: Batch) -> Outcome:
        """Return the loss and the network's logits."""
        logits = self._network(prepare(batch.images, self._img_size, self._preprocessing), batch.step)
        theirs = None if self._teacher is None else self._teacher.logits(batch)
        return Outcome(loss=distillation_loss(logits, theirs, batch.targets, self._distillation), logits=logits)
