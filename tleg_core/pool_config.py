"""How a pool of anchors comes about: the anchors, their training, the stitches, and the joint training of all of them.

One TOML file or JSON object, as `learngene_config`; what it says is done by `training.pool_run`. Torch-free. Sources: Learngene
Pool (arXiv 2312.05743), SN-Net (arXiv 2302.06586), SN-Netv2 (arXiv 2307.00154).

Shape legend: B images of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, Self

from tleg_core.anchor_config import AnchorConfig, AnchorRule, AnchorTraining, PoolNetwork, Terms
from tleg_core.config_section import Sectioned, check_sections, read_section
from tleg_core.cost import cost
from tleg_core.description import Method, Preprocessing
from tleg_core.designs.pool import Anchor, Pool
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import Distillation, DistillationKind, KdNormalisation, check_channels, read_training
from tleg_core.methods.stitching import KERNEL, STRIDE, Stitching, both_ways_stitching, nearest_stitching
from tleg_core.path import MAX_ANCHORS
from tleg_core.training_config import MAX_EPOCHS, TrainingConfig, within

_METHODS = (Method.POOL, Method.SN_NET, Method.PRETRAINED)


class StitchInit(StrEnum):
    """How the stitches start."""

    LEAST_SQUARES = "least-squares"
    """Each as the best affine map on some images (SN-Net)."""
    LEARNED = "learned"
    """As the transposed matrices that the distillation learned (Learngene Pool)."""


class Sampling(StrEnum):
    """How an update of the joint training draws its path."""

    UNIFORM = "uniform"
    """Any path alike (SN-Net, Learngene Pool)."""
    BY_COST = "by-cost"
    """A range of costs, then a path within it (SN-Netv2)."""
    BY_COST_RISING = "by-cost-rising"
    """The same, the g-th cheapest range g times as often as the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolChoice:
    """The method, as the learngene will name it.

    Args:
        method: Learngene Pool, SN-Net, or pretrained: whole networks without stitches.
    """

    method: Method = Method.POOL

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigError("method", f"must be one of {', '.join(_METHODS)}, not {self.method}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StitchingConfig:
    """The stitches.

    Args:
        init: How they start.
        kernel: Blocks of a sliding window.
        stride: Blocks from a window to the next.
        both_ways: Whether paths also lead from large to small, and there and back (SN-Netv2), without windows.
        images: Training images that least squares are taken over; they are held as float32, so there is a limit of 5,000.
        rank: The joint training keeps the stitches' weights and learns an update of this rank (SN-Netv2); None trains them.
    """

    init: StitchInit = StitchInit.LEAST_SQUARES
    kernel: int = KERNEL
    stride: int = STRIDE
    both_ways: bool = False
    images: int = 100
    rank: int | None = None

    def __post_init__(self) -> None:
        within("kernel", self.kernel, 1, 1000)
        within("stride", self.stride, 1, 1000)
        within("images", self.images, 1, 5_000)
        if self.rank is not None:
            within("rank", self.rank, 1, 16_384)
        if self.both_ways and (self.kernel, self.stride) != (KERNEL, STRIDE):
            raise ConfigError("both_ways", "has no windows: leave kernel and stride out")

    def between(self, depths: tuple[int, ...]) -> Stitching:
        """Return the stitches and paths between anchors of these depths."""
        if self.both_ways:
            return both_ways_stitching(depths)
        return nearest_stitching(depths, kernel=self.kernel, stride=self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTraining:
    """The training of anchors and stitches together, a path an update; where a field is None, the anchors' training has it.

    Args:
        epochs: Passes over the images; 0 for none: stitches of least squares work as they are.
        sampling: How paths are drawn; whole anchors are paths too.
        group_macs: Width, in MACs, of a range of costs that `sampling` draws; None for a tenth of all.
        alpha: Share, 0..1, of what is learned from the ancestry model's logits.
        temperature: As in a distillation, with the next two.
        normalisation: See `KdNormalisation`.
        kind: Soft (Learngene Pool), or hard (SN-Net).
        mix: Whether mixup and cutmix of the augmentation are on.
        batch_size: Images for one update.
        lr: Peak learning rate.
        min_lr: Learning rate at the end.
        warmup_lr: Learning rate at the start.
        warmup_epochs: Epochs of linear warm-up.
        weight_decay: AdamW's.
        drop_path: Stochastic depth, the rate of each anchor's last block.
    """

    epochs: int = 0
    sampling: Sampling = Sampling.UNIFORM
    group_macs: int | None = None
    alpha: float = 0.5
    temperature: float = 1.0
    normalisation: KdNormalisation = KdNormalisation.NUMEL
    kind: DistillationKind = DistillationKind.SOFT
    mix: bool = True
    batch_size: int | None = None
    lr: float | None = None
    min_lr: float | None = None
    warmup_lr: float | None = None
    warmup_epochs: int = 0
    weight_decay: float | None = None
    drop_path: float | None = None

    def __post_init__(self) -> None:
        within("epochs", self.epochs, 0, MAX_EPOCHS)
        if self.group_macs is not None:
            if self.sampling is Sampling.UNIFORM:
                raise ConfigError("group_macs", "is for sampling by cost")
            within("group_macs", self.group_macs, 1, 1e18)
        _ = self.distillation

    @property
    def distillation(self) -> Distillation:
        """How labels and logits are weighed."""
        return Distillation(alpha=self.alpha, temperature=self.temperature, normalisation=self.normalisation, kind=self.kind)


_OF_TRAINING = ("batch_size", "lr", "min_lr", "warmup_lr", "weight_decay", "drop_path")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig(Sectioned):
    """How a pool comes about. The sections of its TOML file are its fields, and `augmentation` that of `training`.

    Args:
        anchors: The whole networks, from small to large.
        training: How long and how fast each anchor is trained.
        pool: The method.
        network: What the anchors share.
        anchor_training: What they learn.
        stitching: The stitches; of no meaning with pretrained networks.
        joint: The training of all of it together.
        preprocessing: How an image becomes input.
    """

    anchors: tuple[AnchorConfig, ...]
    training: TrainingConfig
    pool: PoolChoice = field(default_factory=PoolChoice)
    network: PoolNetwork = field(default_factory=PoolNetwork)
    anchor_training: AnchorTraining = field(default_factory=AnchorTraining)
    stitching: StitchingConfig = field(default_factory=StitchingConfig)
    joint: JointTraining = field(default_factory=JointTraining)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        check_channels(self.preprocessing)
        for name in ("compile", "grad_checkpointing"):
            if getattr(self.training, name):
                raise ConfigError(f"training.{name}", "is not to be had in the training of a pool")
        if self.training.layer_decay != 1.0:
            raise ConfigError("training.layer_decay", "must be 1 in the training of a pool")
        self._check_anchors()
        if not self.stitched:
            if self.joint.epochs:
                raise ConfigError("joint.epochs", "must be 0 for pretrained networks, which nothing joins")
        elif self.stitching.init is StitchInit.LEARNED and (
            self.anchor_training.rule is not AnchorRule.DISTILLED or self.anchor_training.terms is Terms.LOGITS
        ):
            raise ConfigError(
                "stitching.init", "learned needs distilled anchors that learn the blocks' outputs: no matrix else"
            )
        narrowest = min(anchor.vit(self.network, 1).embed_dim for anchor in self.anchors)
        if self.stitched and self.stitching.rank is not None and self.stitching.rank > narrowest:
            raise ConfigError("stitching.rank", f"must be at most {narrowest}, the smallest width, not {self.stitching.rank}")
        if self.joint.epochs:
            _ = self.joint_config

    def _check_anchors(self) -> None:
        fewest = 1 + self.stitched
        if not fewest <= len(self.anchors) <= MAX_ANCHORS:
            raise ConfigError("anchors", f"must be at least {fewest} and at most {MAX_ANCHORS}, not {len(self.anchors)}")
        for anchor in self.anchors:
            try:
                anchor.vit(self.network, num_classes=1)
            except ConfigError as error:
                own = error.field in ("embed_dim", "num_heads")
                raise ConfigError(
                    f"anchors.{anchor.name}.{error.field}" if own else f"network.{error.field}", error.reason
                ) from error
            if anchor.lr is not None:
                _placed(f"anchors.{anchor.name}", self.training, lr=anchor.lr)
        sizes = [cost(anchor.vit(self.network, 1), anchor.depth).params for anchor in self.anchors]
        if any(before > after for before, after in pairwise(sizes)):
            raise ConfigError("anchors", "must stand in order, the one with the fewest parameters first")
        self.design(num_classes=1)

    @property
    def stitched(self) -> bool:
        """Whether there are stitches."""
        return self.pool.method is not Method.PRETRAINED

    @property
    def joint_config(self) -> TrainingConfig:
        """How long and how fast the joint training is; it must have epochs."""
        joint = self.joint
        changes = {name: getattr(joint, name) for name in _OF_TRAINING if getattr(joint, name) is not None}
        augmentation = self.training.augmentation
        if not joint.mix:
            augmentation = replace(augmentation, mixup_alpha=0.0, cutmix_alpha=0.0)
        return _placed(
            "joint",
            self.training,
            **changes,
            epochs=joint.epochs,
            warmup_epochs=joint.warmup_epochs,
            augmentation=augmentation,
        )

    def anchor_config(self, anchor: AnchorConfig) -> TrainingConfig:
        """Return how long and how fast an anchor is trained."""
        return self.training if anchor.lr is None else replace(self.training, lr=anchor.lr)

    def design(self, num_classes: int) -> Pool:
        """Return the pool that it makes, for so many classes."""
        anchors = tuple(
            Anchor(name=anchor.name, config=anchor.vit(self.network, num_classes), depth=anchor.depth)
            for anchor in self.anchors
        )
        if not self.stitched:
            return Pool(anchors=anchors)
        stitching = self.stitching.between(tuple(anchor.depth for anchor in anchors))
        return Pool(anchors=anchors, stitches=stitching.stitches, paths=stitching.paths)

    def learns_from_ancestry(self, given: Collection[str] = ()) -> bool:
        """Whether an ancestry model is needed, where the anchors named in `given` are there already."""
        anchors = self.anchor_training.alpha != 0.0 and any(anchor.name not in given for anchor in self.anchors)
        return anchors or (self.joint.epochs > 0 and self.joint.alpha > 0.0)

    def total_epochs(self, given: Collection[str] = ()) -> int:
        """Return the epochs of all phases, where the anchors named in `given` are there already."""
        alone = sum(self.anchor_config(anchor).epochs for anchor in self.anchors if anchor.name not in given)
        return alone + self.joint.epochs

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; what is missing has its default. Raises as `from_toml` does."""
        check_sections(value, {item.name for item in fields(cls)} | {"augmentation"})
        anchors = value.get("anchors", [])
        if not isinstance(anchors, list):
            raise ConfigError("anchors", "must be a list of tables, [[anchors]]")
        return cls(
            anchors=tuple(read_section(AnchorConfig, f"anchors.{_place(item, at)}", item) for at, item in enumerate(anchors)),
            training=read_training(value),
            pool=read_section(PoolChoice, "pool", value.get("pool", {})),
            network=read_section(PoolNetwork, "network", value.get("network", {})),
            anchor_training=read_section(AnchorTraining, "anchor_training", value.get("anchor_training", {})),
            stitching=read_section(StitchingConfig, "stitching", value.get("stitching", {})),
            joint=read_section(JointTraining, "joint", value.get("joint", {})),
            preprocessing=read_section(Preprocessing, "preprocessing", value.get("preprocessing", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole configuration as a JSON object, defaults included."""
        value = asdict(self)
        value["anchors"] = list(value["anchors"])
        value["augmentation"] = value["training"].pop("augmentation")
        for name in ("mean", "std"):
            value["preprocessing"][name] = list(value["preprocessing"][name])
        return value

    def with_seed(self, seed: int) -> Self:
        """Return this configuration with another seed."""
        return replace(self, training=replace(self.training, seed=seed))

    def _changed(self, section: str, before: Any, values: Any) -> Any:
        """Return a section with fields replaced; of anchors, the whole list, or fields by `name.field`."""
        if section != "anchors":
            return Sectioned._changed(self, section, before, values)
        if not isinstance(values, Mapping):
            return values
        changed = {anchor["name"]: dict(anchor) for anchor in before}
        for place, value in values.items():
            name, _, field_name = str(place).partition(".")
            if name not in changed or not field_name:
                raise ConfigError(
                    f"anchors.{str(place)[:80]}", f"must be like {next(iter(changed))}.depth; there are {', '.join(changed)}"
                )
            changed[name][field_name] = value
        return list(changed.values())


def _place(item: object, at: int) -> str:
    """Return how an anchor is named in an error: by its name where it has one."""
    name = item.get("name") if isinstance(item, Mapping) else None
    return name[:32] if isinstance(name, str) and name else str(at)


def _placed(section: str, training: TrainingConfig, **changes: Any) -> TrainingConfig:
    """Return `training` with fields replaced; errors name the section that they come from."""
    try:
        return replace(training, **changes)
    except ConfigError as error:
        raise ConfigError(f"{section}.{error.field}", error.reason) from error
