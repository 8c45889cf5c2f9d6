"""The ancestry network that a comparison trains itself, and what is inherited from it whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tleg_core import __version__
from tleg_core.comparison.unit import Unit
from tleg_core.description import Preprocessing, Provenance
from tleg_core.images import ImageSet
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.inheritance_description import summary
from tleg_core.learngene import Learngene
from tleg_core.stack import Stack
from tleg_core.training.ancestry import AncestryCard, AncestryModel, Fit
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.inheritance_run import choose_layers, inherited_learngene
from tleg_core.training.keeper import CHECKPOINT_NAME, FolderKeeper
from tleg_core.training.loop import Wish
from tleg_core.training.observer import Observer
from tleg_core.vit import VitConfig

_LICENCE = "as the data set's"


def ancestor_model(file: Path, asked: Mapping[str, Any], data: ImageSet) -> AncestryModel:
    """Return the ancestry network in a unit's file, as an ancestry model.

    Args:
        file: The network's weights.
        asked: Its `network` and `depth`.
        data: What it was trained on.
    """
    stack = Stack.plain(VitConfig.from_json(asked["network"]), asked["depth"])
    card = AncestryCard(
        architecture=stack.architecture,
        img_size=stack.config.img_size,
        class_names=data.class_names,
        data_set=data.name,
        origin="trained in the comparison",
        licence=_LICENCE,
        model_args=stack.model_args,
        preprocessing=Preprocessing(),
        fit=Fit.SCRATCH,
    )
    model = AncestryModel(card)
    model.load_weights(file, with_head=True)
    return model.freeze()


def inherit(
    unit: Unit, data: ImageSet, model: AncestryModel, *, file: Path, work: Path, observer: Observer, device: torch.device
) -> Learngene:
    """Choose layers of the ancestry network, going on from a checkpoint if there is one, and write them.

    Args:
        unit: Which rule, and what it looks at.
        data: The training images.
        model: The ancestry network.
        file: Where the learngene goes.
        work: The folder of the checkpoint.
        observer: Is told how it goes.
        device: Where it computes.
    """
    config, ancestry = InheritanceConfig.from_json(unit.settings["config"]), AncestryVit.of(model)
    inheritance = choose_layers(
        config,
        ancestry,
        data,
        keeper=FolderKeeper(work, config.training.checkpoint_every_steps),
        observer=observer,
        device=device,
        wish=lambda: Wish.GO_ON,
        resume=(work / CHECKPOINT_NAME).exists(),
        workers=0,
    )
    provenance = Provenance(
        data_set=f"{data.name} ({len(data):,} images)",
        ancestry=model.card.describe(),
        command=f"tleg compare, unit {unit.id} ({unit.label})",
        version=__version__,
        licence=_LICENCE,
        notes=summary(config),
    )
    learngene = inherited_learngene(f"learngene-{unit.id}", config, ancestry, inheritance, provenance)
    learngene.write(file)
    shutil.rmtree(work, ignore_errors=True)
    return learngene
