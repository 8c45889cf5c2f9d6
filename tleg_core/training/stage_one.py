"""TLEG's stage 1: an auxiliary model distils an ancestry model into its learngene.

Source: TLEG, arXiv 2312.05614. Stage 2, a descendant's fine-tuning, is `fine_tune`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tleg_core import __version__
from tleg_core.description import Description, Method, Preprocessing, Provenance
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.learngene import Learngene
from tleg_core.schedule import Polynomial
from tleg_core.training.ancestry import AncestryModel
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.batches import Batches
from tleg_core.training.config import TrainingConfig
from tleg_core.training.distillation import Distillation, distillation_loss
from tleg_core.training.evaluate import measure_top1
from tleg_core.training.journal import Journal
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.loop import Outcome, Trainer
from tleg_core.training.preprocessing import prepare
from tleg_core.vit import VitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOne:
    """What is trained, and how.

    Args:
        name: The learngene's id.
        config: The network without its depth.
        depth: Depth of the auxiliary model; 12 as published.
        training: How long and how fast.
        distillation: The loss.
        drop_path_rate: Stochastic depth; the authors' two recipes say 0.0 and 0.1.
        preprocessing: How the network's input is normalised.
    """

    name: str
    config: VitConfig
    depth: int = 12
    training: TrainingConfig
    distillation: Distillation = field(default_factory=Distillation)
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def describe(self, provenance: Provenance, class_names: tuple[str, ...]) -> Description:
        """Return the description of the learngene that this makes; raises `ConfigError` where something is not valid."""
        return Description(
            name=self.name,
            method=Method.TLEG,
            schedule=Polynomial(num_components=2),
            config=self.config,
            max_depth=max(self.depth, 12),
            trained_depth=self.depth,
            provenance=provenance,
            preprocessing=self.preprocessing,
            class_names=class_names,
        )


def train_learngene(
    stage: StageOne,
    ancestry: AncestryModel,
    data: ImageSet,
    *,
    test_data: ImageSet | None,
    folder: Path,
    command: str,
    licence: str,
    journal: Journal,
    device: torch.device,
    resume: bool = False,
) -> Learngene:
    """Train an auxiliary model and return its learngene, without measured accuracy.

    Args:
        stage: What is trained, and how.
        ancestry: The frozen ancestry model, of the same classes as `data`.
        data: Training images.
        test_data: Images to measure on after each epoch, or None.
        folder: Where checkpoints lie.
        command: The command line, for the provenance.
        licence: The licence that the learngene is given.
        journal: Where progress is told.
        device: Where it computes.
        resume: Go on from the checkpoint in `folder`.

    Raises:
        ConfigError: The classes of data, test data, ancestry model and network are not the same.
    """
    classes = {data.class_names, ancestry.card.class_names, *([test_data.class_names] if test_data else [])}
    if len(classes) != 1 or data.num_classes != stage.config.num_classes:
        raise ConfigError("data", "has other classes than the ancestry model, the test images or the network")
    provenance = Provenance(
        data_set=f"{data.name} ({len(data):,} images)",
        ancestry=ancestry.card.describe(),
        command=command,
        version=__version__,
        licence=licence,
        notes=_recipe_notes(stage),
    )
    description = stage.describe(provenance, data.class_names)
    model = AuxiliaryModel(
        stage.config, description.schedule, depth=stage.depth, seed=stage.training.seed, drop_path_rate=stage.drop_path_rate
    ).to(device)
    ancestry = ancestry.to(device)

    def logits_of(module: AuxiliaryModel, images: Tensor) -> Tensor:
        logits: Tensor = module(prepare(images, stage.config.img_size, stage.preprocessing))
        return logits

    def objective(images: Tensor, targets: Tensor) -> Outcome:
        with torch.no_grad():
            teacher_logits = ancestry(images)
        logits = logits_of(model, images)
        return Outcome(loss=distillation_loss(logits, teacher_logits, targets, stage.distillation), logits=logits)

    def measure(module: AuxiliaryModel, data: ImageSet) -> dict[str, float]:
        top1 = measure_top1(lambda images: logits_of(module, images), data, device=device, autocast=stage.training.autocast)
        return top1.metrics()

    trainer = Trainer(
        model,
        objective,
        Batches.of_image_set(data, stage.training, device),
        stage.training,
        identity={
            "network": stage.config.to_json() | {"depth": stage.depth, "drop_path_rate": stage.drop_path_rate},
            "preprocessing": asdict(stage.preprocessing),
            "distillation": asdict(stage.distillation),
            "ancestry": asdict(ancestry.card) | {"weights": ancestry.digest()},
        },
        keeper=FolderKeeper(folder, stage.training.checkpoint_every_steps),
        observer=journal,
        device=device,
        measure=None if test_data is None else partial(measure, data=test_data),
    )
    if resume:
        trainer.load()
    result = trainer.run()
    tensors = {name: tensor.float().cpu().numpy() for name, tensor in result.learngene_tensors().items()}
    return Learngene.create(description, tensors)


def _recipe_notes(stage: StageOne) -> str:
    training, loss = stage.training, stage.distillation
    return (
        f"TLEG stage 1 as published in loss and expansion: auxiliary depth {stage.depth}, alpha {loss.alpha}, "
        f"temperature {loss.temperature}, KD / {loss.normalisation}; AdamW lr {training.lr}, weight decay "
        f"{training.weight_decay}, {training.epochs} epochs of batch {training.batch_size}; light augmentation (flip "
        f"{training.augmentation.flip}, shift {training.augmentation.shift} px, mixup {training.augmentation.mixup_alpha})"
    )
