"""A small training run that other tests start, stop and kill: `python -m tests.training.run_in_child FOLDER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tleg_core.errors import TlegError
from tleg_core.images import ImageSet
from tleg_core.schedule import Polynomial
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.journal import Journal
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.loop import Outcome, Trainer
from tleg_core.training_config import Augmentation, Precision, TrainingConfig
from tleg_core.vit import VitConfig

NETWORK = VitConfig(embed_dim=16, num_heads=2, img_size=8, patch_size=4, num_classes=3)

CONFIG = TrainingConfig(
    epochs=2,
    batch_size=8,
    warmup_epochs=1,
    ema_decay=0.9,
    precision=Precision.BFLOAT16,
    augmentation=Augmentation(mixup_alpha=0.4),
    checkpoint_every_steps=1,
)


def image_set(count: int = 330) -> ImageSet:
    """Return images of noise: nothing to learn, everything to reproduce. 330 is no multiple of the batch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return ImageSet(name="noise", images=images, labels=np.arange(count) % 3, class_names=("a", "b", "c"))


def trainer(folder: Path, config: TrainingConfig = CONFIG, seed: int = 0, drop_path: float = 0.2) -> Trainer[AuxiliaryModel]:
    """Return a run that uses every source of randomness: order, augmentation, mixup and stochastic depth."""
    model = AuxiliaryModel(NETWORK, Polynomial(num_components=2), depth=3, seed=seed, drop_path_rate=drop_path)

    def objective(batch: Batch) -> Outcome:
        logits = model(batch.images)
        return Outcome(loss=torch.nn.functional.cross_entropy(logits.float(), batch.targets), logits=logits)

    return Trainer(
        model,
        objective,
        Batches.of_image_set(image_set(), config, torch.device("cpu")),
        config,
        identity={"network": NETWORK.to_json()},
        keeper=FolderKeeper(folder, config.checkpoint_every_steps),
        observer=Journal(folder / "journal.jsonl"),
        device=torch.device("cpu"),
    )


if __name__ == "__main__":
    try:
        trainer(Path(sys.argv[1]), replace(CONFIG, epochs=1000)).run()
    except TlegError as error:
        sys.exit(str(error))
