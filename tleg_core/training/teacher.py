"""The teacher: where the logits come from that an auxiliary model is to learn.

This is the port, and the ancestry model on the fly; logits that were computed beforehand are `stored_logits`'.

Shape legend: B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.training.ancestry import AncestryCard, AncestryModel
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.loop import autocast
from tleg_core.training_config import Precision, TrainingConfig


class Teacher(Protocol):
    """Gives the logits of a batch's images, as the auxiliary model sees them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the logits, in order."""
        ...

    def check(self, batches: Batches, config: TrainingConfig) -> None:
        """Raise `ConfigError` where it has no logits for these batches, made as `config` says."""
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
    """A frozen ancestry model, asked at each update.

    Args:
        model: The ancestry model.
        device: Where it computes.
        precision: Its arithmetic, whatever the auxiliary model's is.
    """

    def __init__(self, model: AncestryModel, device: torch.device, precision: Precision = Precision.FLOAT32) -> None:
        self._model = model.to(device).freeze()
        self._device, self.precision = device, precision

    @property
    def model(self) -> AncestryModel:
        """The model, frozen."""
        return self._model

    @property
    def card(self) -> AncestryCard:
        """The model's card."""
        return self._model.card

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes."""
        return self._model.card.class_names

    def check(self, batches: Batches, config: TrainingConfig) -> None:
        """Do nothing: it can look at any image."""

    def logits(self, batch: Batch) -> Tensor:
        """Return the model's logits (B, C), float32."""
        return self.logits_of(batch.images)

    @torch.no_grad()
    def logits_of(self, images: Tensor, *, whole_image: bool = False) -> Tensor:
        """Return the model's logits (B, C), float32, of images (B, 3, H, W) in 0..1; of `whole_image`, their edges included."""
        with autocast(self._device, self.precision):
            logits: Tensor = self._model(images, whole_image=whole_image)
        return logits.float()

    def describe(self) -> str:
        """Return the model's card in one line."""
        return self._model.card.describe()

    def identity(self) -> dict[str, Any]:
        """Return the card, the digest of the weights, and the arithmetic."""
        return asdict(self._model.card) | {"weights": self._model.digest(), "precision": self.precision}


def check_classes(teacher: Teacher, class_names: Sequence[str], data_set: str) -> None:
    """Raise `ConfigError` unless the teacher's logits are of the data set's classes, in its order."""
    names, theirs = tuple(class_names), teacher.class_names
    if names == theirs:
        return
    if sorted(names) == sorted(theirs):
        place = next(index for index, (name, their) in enumerate(zip(names, theirs, strict=True)) if name != their)
        raise ConfigError(
            "ancestry",
            f"has the classes of {data_set} in another order: class {place} is {theirs[place]!r} there, {names[place]!r} here",
        )
    raise ConfigError("ancestry", f"has other classes ({len(theirs)}) than {data_set} ({len(names)})")
