"""The teacher: where the logits come from that an auxiliary model learns. This is the port, and the ancestry model on the fly.

Shape legend: B images of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from tleg_core.training.ancestry import AncestryModel
from tleg_core.training.batches import Batch


class Teacher(Protocol):
    """Gives the logits of a batch's images, as the auxiliary model sees them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the logits, in order."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, C), on the batch's device, without gradient."""
        ...

    def describe(self) -> str:
        """Return what it is, in one line, for a learngene's provenance."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what decides its logits, as JSON: a run goes on only with the same."""
        ...


class AncestryTeacher:
    """A frozen ancestry model, asked at each update."""

    def __init__(self, model: AncestryModel, device: torch.device) -> None:
        self._model = model.to(device).freeze()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes."""
        return self._model.card.class_names

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return the model's logits (B, C)."""
        logits: Tensor = self._model(batch.images)
        return logits

    def describe(self) -> str:
        """Return the model's card in one line."""
        return self._model.card.describe()

    def identity(self) -> dict[str, Any]:
        """Return the card, and the digest of the weights."""
        return asdict(self._model.card) | {"weights": self._model.digest()}
