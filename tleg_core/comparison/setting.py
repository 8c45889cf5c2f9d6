"""What a report says of its comparison before any number: the network, the data, and how everything was trained."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from tleg_core import __version__
from tleg_core.amount import amount
from tleg_core.comparison.config import ComparisonConfig
from tleg_core.comparison.image_store import Parts
from tleg_core.comparison.plan import Plan
from tleg_core.comparison.rows import CHEAP, Method, Row
from tleg_core.learngene_config import DepthRule, LearngeneConfig
from tleg_core.pool_description import pool_summary


def setting(config: ComparisonConfig, parts: Mapping[str, Parts], plan: Plan) -> list[str]:
    """Return what was compared, how, in lines of Markdown."""
    vit = config.base.network.vit(parts[config.data.name].train.classes)
    training, tuned, seeds = config.base.training, config.fine_tuning, list(config.seeds)
    pretrained = "all of them" if config.pretraining_seeds == config.seeds else f"{list(config.pretraining_seeds)} in turn"
    schedules = "each with a cosine of its own" if tuned.own_schedules else "shorter ones read off the longest one's curve"
    sets = [
        f"{source.name} ({parts[source.name].train.images:,} training and {parts[source.name].test.images:,} test images, "
        f"{parts[source.name].train.classes} classes)"
        for source in (config.data, *config.transfer)
    ]
    return [
        f"- Network: width {vit.embed_dim}, {vit.num_heads} heads, {vit.img_size} px, patch {vit.patch_size}, no class token; "
        f"depths {', '.join(map(str, config.depths))}.",
        f"- Data: {config.data.name} to train on; {'; '.join(sets)}.",
        f"- Seeds of initialisation, order and augmentation: {seeds}; of learngenes and networks: {pretrained}.",
        f"- Learngenes and networks: {amount(training.epochs, 'epoch')} of batch {training.batch_size}, AdamW, "
        f"lr {training.lr:g}, learned from {_learned_from(config)}. Equal for all of them, and so are the images and "
        "their order.",
        *_ancestry(config),
        f"- Fine-tunes: batch {tuned.batch_size}, AdamW, cosine, labels only; lengths: {schedules}. All rows of a depth, a "
        "seed and a data set see the same images in the same order, augmented alike. On the training set a row keeps its "
        "trained head, if it has one; on transfer sets all heads are zero at first.",
        f"- Learning rate of fine-tunes: {_rate_choice(config)}.",
        "- FLOPs: 2 x multiply-accumulates of the network's matrix products, by arithmetic, x 3 for forward and backward pass, "
        "x images. Elastic training is counted at the very depths that its updates drew. Measurements, expansion, the "
        f"optimiser{_ancestry_left_out(config)} are left out; so is the choice of learning rates, which every row has.",
        f"- All units together: {len(plan.units)}, {plan.images:,} training images, {plan.flops:.3g} FLOPs.",
        f"- tleg {__version__}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores.",
        *(f"- {row.name}: {_in_words(row)}." for row in config.rows if row.method not in (*CHEAP, Method.ALONE)),
    ]


def _ancestry_left_out(config: ComparisonConfig) -> str:
    return " and the ancestry model" if config.ancestry.depth is None else ""


def _ancestry(config: ComparisonConfig) -> list[str]:
    """Return a line on the ancestry network that is trained here, if there is one."""
    ancestry = config.ancestry
    if ancestry.depth is None:
        return []
    epochs = ancestry.epochs or config.base.training.epochs
    return [
        f"- Ancestry: for each seed a network of this width, depth {ancestry.depth}, trained from labels for "
        f"{amount(epochs, 'epoch')}, the same for all rows that learn or inherit from one. What training it cost "
        "stands beside the rows; asking it is "
        "counted with them. Pools and inherited layers are made from it as said below."
    ]


def _learned_from(config: ComparisonConfig) -> str:
    loss = config.base.distillation
    if loss.alpha == 0.0:
        return "labels"
    return f"an ancestry model (alpha {loss.alpha:g}, temperature {loss.temperature:g}, {loss.kind})"


def _rate_choice(config: ComparisonConfig) -> str:
    tuned = config.fine_tuning
    if len(tuned.lrs) == 1:
        return f"{tuned.lrs[0]:g} for all rows"
    return (
        f"for each row and data set the best of {', '.join(f'{lr:g}' for lr in tuned.lrs)} in the longest run at depth "
        f"{config.tuning_depth}, seed {tuned.tuning_seed}, on {tuned.validation:.0%} of the training images, held back for "
        "that only; test images chose nothing"
    )


def _in_words(row: Row) -> str:
    """Return how what a row starts from is made."""
    if row.learngene is not None:
        return _schedule_and_depths(row.learngene)
    if row.pool is not None:
        given = () if row.anchors_of is None else [anchor.name for anchor in row.pool.anchors]
        others = "" if row.anchors_of is None else f"; the anchors are those of {row.anchors_of.name}"
        return pool_summary(row.pool, given).rpartition("; seed")[0] + others
    if row.inheritance is None:
        return str(row.method)
    choice, training = row.inheritance.selection, row.inheritance.training
    return f"{amount(choice.count, 'layer')} of the ancestry network by rule {choice.rule}, {amount(training.epochs, 'epoch')}"


def _schedule_and_depths(learngene: LearngeneConfig) -> str:
    depths = learngene.depths
    trained = f"at depth {depths.train}"
    if depths.rule is not DepthRule.FIXED:
        trained = (
            f"at depths {depths.train_min} to {depths.train} ({depths.rule}, self-distillation {depths.self_distillation:g})"
        )
    return f"{learngene.schedule.build()}, trained {trained}"
