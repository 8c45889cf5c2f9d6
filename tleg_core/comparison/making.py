"""What it costs to make that which a row starts from, in images and multiply-accumulates, by arithmetic alone.

Counted are the matrix products of the passes of training, in the very order in which updates draw depths and paths; measuring,
expanding and optimising are left out. A teacher that is a file is left out as well, an ancestry network that the comparison
trains itself is counted wherever it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tleg_core.anchor_config import AnchorRule, Terms
from tleg_core.cost import cost, stack_cost
from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import InheritanceConfig, SelectionRule
from tleg_core.learngene_config import DepthRule, LearngeneConfig
from tleg_core.pool_config import PoolConfig, StitchInit
from tleg_core.training_config import TrainingConfig
from tleg_core.vit import VitConfig

_SECOND_ORDER = 3  # a step that is differentiated costs thrice: itself, and twice itself for the gradient through it


@dataclass(frozen=True, slots=True)
class Work:
    """Work that is done.

    Args:
        images: Training images seen, repetitions counted.
        macs: Multiply-accumulates of forward passes that have a backward one.
        extra_macs: Those of forward passes that have none.
    """

    images: int = 0
    macs: int = 0
    extra_macs: int = 0

    def __add__(self, other: Work) -> Work:
        """Return both together."""
        return Work(self.images + other.images, self.macs + other.macs, self.extra_macs + other.extra_macs)

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 for a multiply-accumulate, a backward pass twice the forward pass."""
        return 6 * self.macs + 2 * self.extra_macs


def images_seen(training: TrainingConfig, images: int, name: str) -> int:
    """Return the images that a run sees of so many; raises `ConfigError` where they are fewer than a batch."""
    steps = images // training.batch_size
    if not steps:
        raise ConfigError("batch_size", f"{training.batch_size} is more than the {images} training images of {name}")
    return training.epochs * steps * training.batch_size


def decisive(training: TrainingConfig) -> dict[str, Any]:
    """Return a run's settings that decide its result."""
    return training.decisive()


def learngene_macs(config: LearngeneConfig, vit: VitConfig, images: int) -> tuple[int, int]:
    """Return the forward MACs of a learngene's training, and those of its passes without a backward one.

    The depths are those that its updates draw: a function of the seed and the update's number. The expansion is left out.
    """
    depths, training = config.depths, config.training
    if depths.rule is DepthRule.FIXED:
        steps = training.epochs * (images // training.batch_size)
        return steps * training.batch_size * cost(vit, depths.train).macs, 0
    from tleg_core.training.learngene_run import depths_of  # noqa: PLC0415 (torch, whose generator draws the depths)

    macs = extra = 0
    for step in range(training.epochs * (images // training.batch_size)):
        trained = depths_of(depths, training.seed, step)
        macs += sum(cost(vit, depth).macs for depth in trained)
        if depths.self_distillation and depths.rule is DepthRule.UNIFORM and trained[0] != depths.train:
            extra += cost(vit, depths.train).macs
    return macs * training.batch_size, extra * training.batch_size


def anchors_work(config: PoolConfig, ancestry: VitConfig, ancestry_depth: int, images: int, name: str) -> Work:
    """Return what the anchors of a pool cost, one trained after the other; with the matrices, where they are distilled."""
    learning, work = config.anchor_training, Work()
    taught = cost(ancestry, ancestry_depth).macs if learning.distillation.alpha else 0
    kinds = {Terms.LOGITS: 0, Terms.OUTPUTS: 1, Terms.ALL: 2}[learning.terms] if learning.rule is AnchorRule.DISTILLED else 0
    for anchor in config.anchors:
        vit = anchor.vit(config.network, ancestry.num_classes)
        seen = images_seen(config.anchor_config(anchor), images, name)
        matrices = kinds * len(anchor.positions.blocks(anchor.depth)) * vit.num_tokens * vit.embed_dim * ancestry.embed_dim
        work += Work(seen, seen * (cost(vit, anchor.depth).macs + matrices), seen * taught)
    return work


def joint_work(config: PoolConfig, ancestry: VitConfig, ancestry_depth: int, images: int, name: str) -> Work:
    """Return what the stitches and the joint training of a pool cost: of each update the path that it draws."""
    work = Work()
    if config.stitched and config.stitching.init is StitchInit.LEAST_SQUARES:
        anchors = [cost(anchor.vit(config.network, ancestry.num_classes), anchor.depth).macs for anchor in config.anchors]
        work += Work(extra_macs=min(config.stitching.images, images) * sum(anchors))
    if not config.joint.epochs:
        return work
    training = config.joint_config
    seen = images_seen(training, images, name)
    taught = cost(ancestry, ancestry_depth).macs if config.joint.alpha else 0
    from tleg_core.training.path_sampling import PathSampler  # noqa: PLC0415 (torch, whose generator draws the paths)

    design = config.design(ancestry.num_classes)
    sampler = PathSampler.of(design, config.joint, training.seed)
    macs = {member.path: stack_cost(design.stack(member)).macs for member in design.members}
    drawn = sum(macs[sampler.path(step)] for step in range(seen // training.batch_size))
    return work + Work(seen, drawn * training.batch_size, seen * taught)


def inheritance_work(config: InheritanceConfig, ancestry: VitConfig, depth: int, images: int, name: str) -> Work:
    """Return what the choice of layers costs; the tasks' classes are taken to have equally many images."""
    training, own = config.training, cost(ancestry, depth).macs
    match config.selection.rule:
        case SelectionRule.STABILITY:
            assert config.stability is not None  # noqa: S101 (the config is checked for it)
            stability = config.stability
            of_task = images * min(stability.classes_per_task, ancestry.num_classes) // ancestry.num_classes
            seen = stability.num_tasks * images_seen(training, of_task, f"a task of {name}")
            held = (stability.num_tasks - 1) * min(stability.fisher_images, of_task) if stability.ewc_lambda else 0
            return Work(seen, (seen + held) * own)
        case SelectionRule.TRANSFER:
            assert config.transfer is not None  # noqa: S101 (the config is checked for it)
            transfer = config.transfer
            seen = images_seen(training, images, name)
            small = cost(ancestry, transfer.depth).macs
            looked = seen // training.batch_size * min(transfer.meta_images, images) * transfer.inner_steps * _SECOND_ORDER
            scored = min(transfer.score_images, images)
            return Work(seen, (2 * seen + looked) * small, (seen + scored) * own)
        case SelectionRule.GIVEN:
            return Work()
