"""What a learngene will say of itself, from the configuration that trains it. Torch-free, so it is checked before training."""

from __future__ import annotations

from tleg_core.amount import amount
from tleg_core.description import Description, Preprocessing, Provenance
from tleg_core.designs.basis import Basis
from tleg_core.learngene_config import DepthRule, LearngeneConfig


def describe_learngene(
    name: str, config: LearngeneConfig, provenance: Provenance, class_names: tuple[str, ...], preprocessing: Preprocessing
) -> Description:
    """Return the description of the learngene that `config` trains; raises `ConfigError` where something is not valid."""
    schedule, depths = config.schedule.build(), config.depths
    return Description(
        name=name,
        method=config.schedule.method,
        design=Basis(
            schedule=schedule,
            config=config.network.vit(len(class_names)),
            min_depth=max(depths.offer_min, schedule.min_depth),
            max_depth=depths.offer_max,
            trained_depth=depths.train,
        ),
        provenance=provenance,
        preprocessing=preprocessing,
        class_names=class_names,
    )


def summary(config: LearngeneConfig) -> str:
    """Return how a learngene was trained, in words, for its provenance."""
    training, loss, depths, augmentation = config.training, config.distillation, config.depths, config.training.augmentation
    trained = (
        f"at depth {depths.train}"
        if depths.rule is DepthRule.FIXED
        else f"at depths {depths.train_min} to {depths.train} ({depths.rule}, self-distillation {depths.self_distillation})"
    )
    learned = (
        "from labels"
        if loss.alpha == 0.0
        else f"by {loss.kind} distillation, alpha {loss.alpha}, temperature {loss.temperature}, KD / {loss.normalisation}"
    )
    return (
        f"{config.schedule.build()}; trained {trained} {learned}; AdamW lr {training.lr}, weight decay "
        f"{training.weight_decay}, {amount(training.epochs, 'epoch')} of batch {training.batch_size}; augmentation: flip "
        f"{augmentation.flip}, shift {augmentation.shift} px, mixup {augmentation.mixup_alpha}, cutmix "
        f"{augmentation.cutmix_alpha}; seed {training.seed}"
    )
