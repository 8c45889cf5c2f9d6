"""From an ancestry model to a learngene of some of its layers: the rule chooses, the learngene carries them.

The blocks are those of the chosen layers; patch and position embedding, class token and final norm come along, and the
ancestry's head. By Heur-LG's rule they are, unless the configuration says otherwise, the collective model's: the ancestry as it
is after the last task, as in the paper; its head has not seen those tasks. By the other rules they are the ancestry's own.
Descendants of any depth have the other layers fresh, and so want a fine-tune.

Sources: Heur-LG (arXiv 2106.06788), Auto-LG (arXiv 2305.02279). How the rules measure is `layer_stability`'s and
`layer_transfer`'s business.

Shape legend: K inherited layers, L layers of the ancestry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tleg_core import __version__
from tleg_core.description import Provenance
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet
from tleg_core.inheritance_config import CarriedWeights, InheritanceConfig
from tleg_core.inheritance_description import describe_inheritance, summary
from tleg_core.layer_choice import GIVEN_RULE, STABILITY_RULE, TRANSFER_RULE, highest, stability_scores
from tleg_core.learngene import Learngene
from tleg_core.selection import Selection
from tleg_core.training.ancestry import AncestryModel
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.decoded import InputShape
from tleg_core.training.keeper import FolderKeeper, Keeper
from tleg_core.training.layer_stability import measure_stability
from tleg_core.training.layer_transfer import measure_transfer
from tleg_core.training.loop import Wish
from tleg_core.training.observer import Observer
from tleg_core.training.processes import Processes
from tleg_core.training.source_pixels import training_pixels, whole_pixels
from tleg_core.training_config import Crop
from tleg_core.vit import block_shapes, stem_shapes, tail_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What is inherited.

    Args:
        selection: The chosen layers, and the evidence.
        weights: The whole network that they are of, by the names of `vit.inventory`, float32 on the CPU.
    """

    selection: Selection
    weights: Mapping[str, Tensor]


def choose_layers(
    config: InheritanceConfig,
    ancestry: AncestryVit,
    data: ImageSource | None,
    *,
    keeper: Keeper,
    observer: Observer,
    device: torch.device,
    wish: Callable[[], Wish] | None = None,
    resume: bool = False,
    workers: int | None = None,
) -> Inheritance:
    """Apply a configuration's rule to an ancestry.

    Args:
        config: The rule, and the training that it looks at.
        ancestry: Whose layers they are.
        data: The images that it is trained on; None where the layers are given.
        keeper: Keeps the training's checkpoint.
        observer: Is told how it goes.
        device: Where it computes.
        wish: As the training loop's.
        resume: Go on from the kept checkpoint; where the layers are given there is nothing to go on with.
        workers: As in `Batches.of_images`.

    Raises:
        ConfigError: The ancestry has too few layers, or the rule needs images that are not there.
        TrainingInterruptedError: It was asked to stop; the checkpoint is kept.
    """
    config.check_ancestry(ancestry.depth)
    choice, training = config.selection, config.training
    if choice.layers is not None:
        scores = tuple(float(layer in choice.layers) for layer in range(ancestry.depth))
        return Inheritance(
            selection=Selection(rule=GIVEN_RULE, scores=scores, chosen=choice.layers), weights=dict(ancestry.weights)
        )
    if data is None:
        raise ConfigError("data", f"is needed by rule {choice.rule}")
    side = data.images.shape[1] if isinstance(data, ImageSet) else ancestry.config.img_size
    shape = InputShape.of(side, 3, ancestry.preprocessing)
    pixels = training_pixels(
        data,
        training,
        shape=shape,
        preprocessing=ancestry.preprocessing,
        device=device,
        processes=Processes(),
        workers=workers,
    )
    with ExitStack() as closing_all:
        closing_all.callback(pixels.close)
        plain = pixels
        if training.augmentation.crop is Crop.RANDOM_RESIZED:
            plain = whole_pixels(data, shape, device=device, batch_size=training.batch_size)
            closing_all.callback(plain.close)
        if config.transfer is not None:
            transfer = measure_transfer(
                ancestry,
                data,
                pixels,
                config.transfer,
                training,
                plain=plain,
                keeper=keeper,
                observer=observer,
                device=device,
                wish=wish,
                resume=resume,
            )
            chosen = highest(transfer.scores, choice.count)
            selection = Selection(rule=TRANSFER_RULE, scores=transfer.scores, chosen=chosen, details=transfer.details())
            inheritance = Inheritance(selection=selection, weights=dict(ancestry.weights))
        elif config.stability is not None:
            stability = measure_stability(
                ancestry,
                data,
                pixels,
                config.stability,
                training,
                plain=plain,
                keeper=keeper,
                observer=observer,
                device=device,
                wish=wish,
                resume=resume,
            )
            scores = stability_scores(stability.rates)
            details = stability.details() | {"sign": config.stability.sign.value, "weights": config.stability.weights.value}
            selection = Selection(rule=STABILITY_RULE, scores=scores, chosen=highest(scores, choice.count), details=details)
            carried = stability.weights if config.stability.weights is CarriedWeights.COLLECTIVE else {}
            inheritance = Inheritance(selection=selection, weights={**ancestry.weights, **carried})
        else:
            raise ConfigError("selection.rule", f"{choice.rule} has no section")
    selection = inheritance.selection
    observer.note(
        f"inherited: layers {', '.join(map(str, selection.chosen))} of {ancestry.depth}; scores "
        f"{', '.join(f'{score:.4g}' for score in selection.scores)}"
    )
    return inheritance


def inherited_learngene(
    name: str, config: InheritanceConfig, ancestry: AncestryVit, inheritance: Inheritance, provenance: Provenance
) -> Learngene:
    """Return the learngene of the chosen layers, its head that of the ancestry.

    Raises:
        ConfigError: Something about it is not valid, such as its name.
    """
    chosen = inheritance.selection.chosen
    description = describe_inheritance(
        name,
        config,
        provenance,
        ancestry.class_names,
        network=ancestry.config,
        depth=ancestry.depth,
        preprocessing=ancestry.preprocessing,
        selection=inheritance.selection,
    )
    weights = inheritance.weights
    tensors = {part: weights[part] for part in stem_shapes(ancestry.config) | tail_shapes(ancestry.config)}
    for part in block_shapes(ancestry.config):
        tensors[f"basis.{part}"] = torch.stack([weights[f"blocks.{layer}.{part}"] for layer in chosen])  # (K, …)
    return Learngene.create(description, {part: tensor.float().cpu().numpy() for part, tensor in tensors.items()})


def inherit_layers(
    name: str,
    config: InheritanceConfig,
    ancestry: AncestryModel,
    data: ImageSource | None,
    *,
    folder: Path,
    command: str,
    licence: str,
    journal: Observer,
    device: torch.device,
    test_data: ImageSource | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    workers: int | None = None,
) -> Learngene:
    """Choose layers of an ancestry model and return the learngene that carries them, without measured accuracy.

    Args:
        name: The learngene's id.
        config: The rule, and the training that it looks at.
        ancestry: A plain ViT of timm's, as `ancestry_vit` says.
        data: Training images; None where the layers are given.
        folder: Where the checkpoint lies.
        command: The command line, for the provenance.
        licence: The licence that the learngene is given.
        journal: Where progress is told.
        device: Where it computes.
        test_data: Images that members will be measured on; nothing is measured here.
        resume: Go on from the checkpoint in `folder`.
        processes: Those that share the run: this one alone.
        workers: Processes that decode and augment; 0 for threads; None to choose.

    Raises:
        ConfigError: The ancestry is no plain ViT, or does not fit the configuration; the test images are of other classes;
            there are several processes.
        TrainingInterruptedError: It was asked to stop; the checkpoint is kept.
    """
    if processes is not None and processes.count > 1:
        raise ConfigError("processes", f"must be one: a rule looks at the gradients of whole batches, not {processes.count}")
    if test_data is not None and test_data.class_names != ancestry.card.class_names:
        raise ConfigError("test_data", f"the classes of {test_data.name} are not those of the ancestry model")
    vit = AncestryVit.of(ancestry)
    provenance = Provenance(
        data_set="none: the layers were given" if data is None else f"{data.name} ({len(data):,} images)",
        ancestry=ancestry.card.describe(),
        command=command,
        version=__version__,
        licence=licence,
        notes=summary(config),
    )
    inheritance = choose_layers(
        config,
        vit,
        data,
        keeper=FolderKeeper(folder, config.training.checkpoint_every_steps),
        observer=journal,
        device=device,
        resume=resume,
        workers=workers,
    )
    return inherited_learngene(name, config, vit, inheritance, provenance)
