"""A model of the service as the teacher of a learngene: frozen, asked at each update.

Shape legend: B images of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from service.domain.model import Model
from service.worker.workbench import Workbench
from tleg_core.training.ancestry import AncestryCard, AncestryModel
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.loop import autocast
from tleg_core.training.network import Network
from tleg_core.training.preprocessing import prepare
from tleg_core.training.teacher import AncestryTeacher
from tleg_core.training_config import Precision, TrainingConfig


class ModelTeacher:
    """A model's logits of a batch's images, brought to the size that it expects.

    Args:
        model: The model; it has the classes of the data set, in its order.
        class_names: Those classes.
        bench: Gives its weights.

    Raises:
        LearngeneNotLoadedError: It is to be expanded from a learngene that is not here.
        ObjectStoreError: Its file cannot be fetched, or is damaged.
        CheckpointError: The weights are not the network's.
    """

    def __init__(self, model: Model, class_names: tuple[str, ...], bench: Workbench) -> None:
        self._model, self._class_names, self._device = model, class_names, bench.device
        self._preprocessing = bench.preprocessing(model)
        self._img_size = int(model.model_args["img_size"])
        network = Network(architecture=model.architecture, model_args=model.model_args, num_classes=len(class_names))
        self._network = network.load(bench.weights(model), drop_path=0.0, device=bench.device).eval()
        self._network.requires_grad_(False)

    def ancestry(self) -> AncestryTeacher:
        """Return it as a teacher whose network's features can be looked at; raises `ConfigError` where it cannot be one."""
        card = AncestryCard(
            architecture=self._model.architecture,
            img_size=self._img_size,
            class_names=self._class_names,
            data_set="",
            origin=f"model {self._model.id}",
            licence="",
            model_args=self._model.model_args,
            preprocessing=replace(self._preprocessing, crop_pct=1.0),  # images are as the learner sees them
        )
        ancestry = AncestryModel(card)
        ancestry.network.load_state_dict(self._network.state_dict(), strict=True)
        return AncestryTeacher(ancestry, self._device)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the logits, in order."""
        return self._class_names

    def check(self, batches: Batches, config: TrainingConfig) -> None:
        """Do nothing: it can look at any image."""

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return the model's logits (B, C), float32 whatever the learngene's arithmetic is."""
        with autocast(self._device, Precision.FLOAT32):
            logits: Tensor = self._network(prepare(batch.images, self._img_size, self._preprocessing))
        return logits

    def describe(self) -> str:
        """Return what it is, in one line."""
        return f"model {self._model.id}"

    def identity(self) -> dict[str, Any]:
        """Return what decides its logits."""
        return {"model": self._model.id}
