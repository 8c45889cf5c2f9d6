"""The anchors of a pool, as configured: their networks, and what each of them learns before anything is stitched.

Torch-free. Source: Learngene Pool (arXiv 2312.05743), section 3; the positions are the authors' code's.

Shape legend: L blocks of a network, B images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tleg_core.errors import ConfigError
from tleg_core.learngene_config import Distillation, DistillationKind, KdNormalisation
from tleg_core.vit import VIT_SIZES, VitConfig, check_depth

_THIRDS = 3


class Positions(StrEnum):
    """Behind which blocks an anchor is compared with the ancestry model (Learngene Pool)."""

    END = "end"
    """Behind the last."""
    MID_END = "mid-end"
    """Behind two thirds, and the last."""
    FRONT_END = "front-end"
    """Behind one third, two thirds, and the last."""

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Return the blocks, from 0, of a network of L = `depth`; those of the ancestry model follow from its own depth.

        Raises:
            ConfigError: It has not as many blocks as there are positions.
        """
        count = {Positions.END: 1, Positions.MID_END: 2, Positions.FRONT_END: 3}[self]
        if count > 1 and depth < _THIRDS:
            raise ConfigError("positions", f"{self} needs at least {_THIRDS} blocks, not {depth}")
        return tuple(round(third * depth / _THIRDS) - 1 for third in range(_THIRDS + 1 - count, _THIRDS + 1))


class AnchorRule(StrEnum):
    """How the anchors learn."""

    DISTILLED = "distilled"
    """From one ancestry ViT: its logits, and through learned matrices the outputs of its blocks and attentions."""
    ALONE = "alone"
    """From labels, and from any ancestry model's logits if that is wanted."""


class Terms(StrEnum):
    """What a distilled anchor learns beside the labels: the paper's ablation."""

    LOGITS = "logits"
    OUTPUTS = "logits+outputs"
    """The blocks' outputs as well."""
    ALL = "all"
    """The attentions' outputs as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNetwork:
    """What all anchors share.

    Args:
        img_size: Side of the input, in pixels.
        patch_size: Side of a patch, in pixels.
        class_token: Whether there is a class token, which then is what the head sees, as in DeiT; else the mean of the tokens.
    """

    img_size: int = 224
    patch_size: int = 16
    class_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorConfig:
    """One anchor.

    Args:
        name: A short word, for file names and messages.
        depth: Blocks.
        size: Width and heads by name.
        embed_dim: Width, instead of the size's.
        num_heads: Attention heads, instead of the size's.
        positions: Where it is compared with the ancestry model; with distilled anchors.
        lr: Peak learning rate, instead of the training's.
    """

    name: str
    depth: int = 12
    size: str = "tiny"
    embed_dim: int | None = None
    num_heads: int | None = None
    positions: Positions = Positions.END
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.size not in VIT_SIZES:
            raise ConfigError("size", f"must be one of {', '.join(VIT_SIZES)}, not {self.size!r}")
        check_depth(self.depth)
        self.positions.blocks(self.depth)

    def vit(self, network: PoolNetwork, num_classes: int) -> VitConfig:
        """Return its configuration for so many classes."""
        named = VIT_SIZES[self.size]
        return VitConfig(
            embed_dim=named.embed_dim if self.embed_dim is None else self.embed_dim,
            num_heads=named.num_heads if self.num_heads is None else self.num_heads,
            img_size=network.img_size,
            patch_size=network.patch_size,
            num_classes=num_classes,
            class_token=network.class_token,
            global_pool="token" if network.class_token else "avg",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorTraining:
    """What the anchors learn, one after the other.

    Args:
        rule: How they learn.
        alpha: Share, 0..1, of what is learned from the ancestry model; the rest is the labels'. None: 0.9 for distilled anchors
            (Learngene Pool, whose alpha of 0.1 is the labels' share), 0 for others.
        temperature: Both sides' logits are divided by it.
        normalisation: What the sum over the logits is divided by; `numel`, B * C, as published.
        kind: Soft, or hard; hard with anchors trained alone only.
        terms: What is learned; with distilled anchors.
    """

    rule: AnchorRule = AnchorRule.ALONE
    alpha: float | None = None
    temperature: float = 1.0
    normalisation: KdNormalisation = KdNormalisation.NUMEL
    kind: DistillationKind = DistillationKind.SOFT
    terms: Terms = Terms.ALL

    def __post_init__(self) -> None:
        if self.alpha is None:
            object.__setattr__(self, "alpha", 0.9 if self.rule is AnchorRule.DISTILLED else 0.0)
        if self.rule is AnchorRule.DISTILLED and self.distillation.alpha == 0.0:
            raise ConfigError(
                "alpha", "must be above 0 for distilled anchors: nothing else would be learned from the ancestry model"
            )
        if self.rule is AnchorRule.DISTILLED and self.kind is DistillationKind.HARD:
            raise ConfigError("kind", "must be soft for distilled anchors")

    @property
    def distillation(self) -> Distillation:
        """How labels and logits are weighed."""
        return Distillation(
            alpha=0.0 if self.alpha is None else self.alpha,
            temperature=self.temperature,
            normalisation=self.normalisation,
            kind=self.kind,
        )
