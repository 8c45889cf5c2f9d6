"""What a pool will say of itself, from the configuration that makes it. Torch-free, so it is checked before training."""

from __future__ import annotations

from collections.abc import Collection

from tleg_core.amount import amount
from tleg_core.anchor_config import AnchorRule
from tleg_core.description import Description, Provenance
from tleg_core.learngene_config import Distillation
from tleg_core.pool_config import PoolConfig


def describe_pool(name: str, config: PoolConfig, provenance: Provenance, class_names: tuple[str, ...]) -> Description:
    """Return the description of the pool that `config` makes; raises `ConfigError` where something is not valid."""
    return Description(
        name=name,
        method=config.pool.method,
        design=config.design(len(class_names)),
        provenance=provenance,
        preprocessing=config.preprocessing,
        class_names=class_names,
    )


def pool_summary(config: PoolConfig, given: Collection[str] = ()) -> str:
    """Return how a pool came about, in words, for its provenance; `given` are anchors that were there already."""
    parts = [f"anchors {', '.join(f'{anchor.name} (depth {anchor.depth})' for anchor in config.anchors)}"]
    trained = [anchor.name for anchor in config.anchors if anchor.name not in given]
    if given:
        parts.append(f"{', '.join(given)} as given")
    if trained:
        parts.append(f"{', '.join(trained)} {_learned(config)}; {_run(config)}")
    if config.stitched:
        parts.append(_stitches(config))
    joint = config.joint
    if joint.epochs:
        run = config.joint_config
        parts.append(
            f"trained together for {amount(joint.epochs, 'epoch')} of batch {run.batch_size}, lr {run.lr}, "
            f"paths drawn {joint.sampling}, {_loss(joint.distillation)}"
        )
    elif config.stitched:
        parts.append("not trained together")
    return "; ".join((*parts, f"seed {config.training.seed}"))


def _learned(config: PoolConfig) -> str:
    learning = config.anchor_training
    if learning.rule is AnchorRule.ALONE:
        return f"trained alone, {_loss(learning.distillation)}"
    return (
        f"distilled ({learning.terms}; labels' share {1.0 - learning.distillation.alpha:g}, soft CE / {learning.normalisation})"
    )


def _loss(loss: Distillation) -> str:
    if loss.alpha == 0.0:
        return "from labels"
    return f"{loss.kind} distillation of alpha {loss.alpha:g}, temperature {loss.temperature:g}, KD / {loss.normalisation}"


def _run(config: PoolConfig) -> str:
    training, augmentation = config.training, config.training.augmentation
    return (
        f"AdamW lr {training.lr}, weight decay {training.weight_decay}, {amount(training.epochs, 'epoch')} of batch "
        f"{training.batch_size}; augmentation: flip {augmentation.flip}, shift {augmentation.shift} px, mixup "
        f"{augmentation.mixup_alpha}, cutmix {augmentation.cutmix_alpha}"
    )


def _stitches(config: PoolConfig) -> str:
    stitching = config.stitching
    windows = "both ways" if stitching.both_ways else f"windows of {stitching.kernel}, stride {stitching.stride}"
    rank = "" if stitching.rank is None or not config.joint.epochs else f", updated at rank {stitching.rank}"
    return f"stitches: {stitching.init}, {windows}{rank}"
