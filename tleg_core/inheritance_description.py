"""What a learngene of inherited layers will say of itself. Torch-free, so it is checked before anything is trained."""

from __future__ import annotations

from tleg_core.amount import amount
from tleg_core.description import Description, Method, Preprocessing, Provenance
from tleg_core.designs.basis import Basis
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.schedule import Inherited
from tleg_core.selection import Selection
from tleg_core.vit import VitConfig


def describe_inheritance(
    name: str,
    config: InheritanceConfig,
    provenance: Provenance,
    class_names: tuple[str, ...],
    *,
    network: VitConfig,
    depth: int,
    preprocessing: Preprocessing,
    selection: Selection,
) -> Description:
    """Return the description of a learngene that inherits the selected layers.

    Args:
        name: The learngene's id.
        config: How they were chosen.
        provenance: Where it comes from.
        class_names: The ancestry model's.
        network: Its configuration.
        depth: Its number of layers.
        preprocessing: What its input is normalised by.
        selection: The chosen layers.

    Raises:
        ConfigError: Something is not valid.
    """
    return Description(
        name=name,
        method=Method.LEARNGENE,
        design=Basis(
            schedule=Inherited(layers=selection.chosen, of=depth),
            config=network,
            min_depth=config.min_depth,
            max_depth=config.depths.offer_max,
            trained_depth=None,
        ),
        provenance=provenance,
        preprocessing=preprocessing,
        class_names=class_names,
        selection=selection,
    )


def summary(config: InheritanceConfig) -> str:
    """Return how the layers were chosen, in words, for a learngene's provenance."""
    training = config.training
    trained = (
        f"AdamW lr {training.lr}, weight decay {training.weight_decay}, {amount(training.epochs, 'epoch')} of batch "
        f"{training.batch_size}, seed {training.seed}"
    )
    if config.stability is not None:
        tasks = config.stability
        threshold = f"{tasks.threshold:g}" if tasks.threshold is not None else f"their {tasks.threshold_quantile:g} quantile"
        return (
            f"{amount(config.selection.count, 'layer')} by the stability of gradients ({tasks.sign}, above {threshold}) over "
            f"{tasks.num_tasks} tasks of {tasks.classes_per_task} classes, each from the {tasks.start} weights with EWC "
            f"{tasks.ewc_lambda:g} and {trained}; the {tasks.weights} weights"
        )
    if config.transfer is not None:
        meta = config.transfer
        return (
            f"{amount(config.selection.count, 'layer')} by meta-learned transfer to a pseudo-descendant "
            f"of {meta.depth} layers: "
            f"{meta.inner_steps} inner steps of {meta.inner_lr:g}, {meta.criterion} matching weighted {meta.match_weight:g}, "
            f"lambda nets at {meta.meta_lr:g}; {trained}"
        )
    return f"layers {', '.join(map(str, config.selection.layers or ()))}, named by hand"
