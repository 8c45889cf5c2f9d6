"""Learngene Pool's distillation: an anchor learns an ancestry ViT's logits, and what its blocks and attentions put out.

At each position p learned matrices bring the ancestry model's features to the anchor's width, and the anchor is to have those
features itself:

    loss = (1 - alpha) CE + alpha (softCE + sum_p MSE(H_p, T_map_p H'_p) + sum_p MSE(A_p, T_att_p A'_p))

H is the output of a block, A that of its attention before it is added; primes are the ancestry model's. The matrices are
parameters of the module that is trained, as the paper means them; the authors' PyTorch code leaves them out of its optimiser.
Their alpha is the labels' share, 0.1; ours is the rest, as in every other loss here. Behind blocks only features are compared,
so the anchor may be of any width and depth, but must have as many tokens.

Source: Learngene Pool, arXiv 2312.05743, section 3.2; terms and scales as in the authors' code (Yuanmou, b3e20a0).

Shape legend: B images, N tokens, D width of an anchor, E width of the ancestry model, C classes; D_s and D_t widths before and
after a stitch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from tleg_core.anchor_config import AnchorTraining, Positions, Terms
from tleg_core.description import Preprocessing
from tleg_core.designs.pool import Pool
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import Distillation, KdNormalisation
from tleg_core.training.batches import Batch
from tleg_core.training.loop import Outcome
from tleg_core.training.preprocessing import prepare
from tleg_core.training.teacher import AncestryTeacher, Teacher
from tleg_core.vit import VitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a ViT makes of images: logits (B, C); by block, the outputs (B, N, D) of blocks and of their attentions."""

    logits: Tensor
    outputs: Mapping[int, Tensor] = field(default_factory=dict)
    attentions: Mapping[int, Tensor] = field(default_factory=dict)


def features_of(network: nn.Module, blocks: Sequence[int], forward: Callable[[], Tensor]) -> Features:
    """Return the logits that `forward` computes through a timm ViT, and what it has behind some blocks (from 0) on the way."""
    outputs: dict[int, Tensor] = {}
    attentions: dict[int, Tensor] = {}

    def keep(found: dict[int, Tensor], block: int) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[block] = output

        return hook

    handles = []
    try:
        for number in blocks:
            block: Any = cast("Any", network).blocks[number]
            handles += [
                block.register_forward_hook(keep(outputs, number)),
                block.attn.register_forward_hook(keep(attentions, number)),
            ]
        return Features(logits=forward(), outputs=outputs, attentions=attentions)
    finally:
        for handle in handles:
            handle.remove()


class AncestryVit:
    """The ancestry model, asked for its features.

    Args:
        teacher: Of the same classes; a model, not stored logits.

    Raises:
        ConfigError: It is no ViT of timm's.
    """

    def __init__(self, teacher: Teacher | None) -> None:
        if not isinstance(teacher, AncestryTeacher):
            what = "is needed" if teacher is None else "must be a model's file, not stored logits"
            raise ConfigError("ancestry", f"{what}: distilled anchors learn what its blocks put out")
        self._teacher = teacher
        network: Any = teacher.model.network
        if not isinstance(network, VisionTransformer):
            raise ConfigError(
                "ancestry",
                f"must be a ViT for distilled anchors, timm's VisionTransformer; {teacher.card.architecture} is a "
                f"{type(network).__name__} (anchor_training.rule = 'alone' learns logits from any model)",
            )
        self._network = network
        self.width, self.depth = int(network.embed_dim), len(network.blocks)

    def check(self, config: VitConfig) -> None:
        """Raise `ConfigError` unless its tokens stand for the same parts of an image as those of `config`'s network."""
        patches, prefix = int(self._network.patch_embed.num_patches), int(self._network.num_prefix_tokens)
        own = config.num_tokens - config.class_token
        if patches != own:
            raise ConfigError("ancestry", f"has {patches} patches, the anchors {own}: choose img_size and patch_size alike")
        if prefix != config.class_token:
            raise ConfigError(
                "ancestry",
                f"has {prefix} tokens beside its patches, the anchors {int(config.class_token)} (network.class_token)",
            )

    @torch.no_grad()
    def features(self, images: Tensor, blocks: Sequence[int]) -> Features:
        """Return its features of `images` (B, 3, H, W) in 0..1, edges included: each token stands for what an anchor's does."""
        return features_of(self._network, blocks, lambda: self._teacher.logits_of(images, whole_image=True))


class AnchorModel(nn.Module):
    """An anchor in training: timm's ViT, and the matrices to which it compares itself, if there are some.

    Args:
        network: The anchor.
        seed: Seed of the matrices, drawn as PyTorch draws linear layers.
        ancestry_width: E; None without matrices.
        width: D.
        positions: How many pairs of matrices.
        terms: Which of them.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        seed: int = 0,
        ancestry_width: int | None = None,
        width: int = 0,
        positions: int = 0,
        terms: Terms = Terms.LOGITS,
    ) -> None:
        super().__init__()
        self.network = network
        self.output_maps = nn.ModuleList()
        self.attention_maps = nn.ModuleList()
        if ancestry_width is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if terms is not Terms.LOGITS:
                    self.output_maps.extend(nn.Linear(ancestry_width, width) for _ in range(positions))
                if terms is Terms.ALL:
                    self.attention_maps.extend(nn.Linear(ancestry_width, width) for _ in range(positions))

    def forward(self, images: Tensor) -> Tensor:
        """Return the anchor's logits (B, C) of normalised `images` (B, in_chans, img_size, img_size)."""
        logits: Tensor = self.network(images)
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's optimiser factory must not decay beyond those it knows by itself."""
        return {"network.pos_embed", "network.cls_token"}


class PoolDistillation:
    """The loss of an update of a distilled anchor.

    Args:
        model: The anchor, with a matrix for each position.
        depth: Its number of blocks.
        positions: Where it is compared.
        config: How the terms are weighed.
        ancestry: What it learns from.
        img_size: Side of its input, in pixels.
        preprocessing: How its input is normalised.
    """

    def __init__(
        self,
        model: AnchorModel,
        *,
        depth: int,
        positions: Positions,
        config: AnchorTraining,
        ancestry: AncestryVit,
        img_size: int,
        preprocessing: Preprocessing,
    ) -> None:
        self._model, self._loss, self._ancestry = model, config.distillation, ancestry
        self._img_size, self._preprocessing = img_size, preprocessing
        wanted = config.terms is not Terms.LOGITS
        self._blocks = positions.blocks(depth) if wanted else ()
        self._theirs = positions.blocks(ancestry.depth) if wanted else ()

    def __call__(self, batch: Batch) -> Outcome:
        """Return the loss and the anchor's logits."""
        images = prepare(batch.images, self._img_size, self._preprocessing)
        theirs = self._ancestry.features(batch.images, self._theirs)
        network = self._model.network
        own = features_of(network, self._blocks, lambda: network(images))
        learned = soft_cross_entropy(own.logits, theirs.logits, self._loss)
        for maps, ours, their in (
            (self._model.output_maps, own.outputs, theirs.outputs),
            (self._model.attention_maps, own.attentions, theirs.attentions),
        ):
            for linear, block, their_block in zip(maps, self._blocks, self._theirs, strict=False):  # none, where not learned
                features = their[their_block].float()  # a teacher of its own precision gives bfloat16
                learned = learned + functional.mse_loss(ours[block].float(), linear(features).float())
        alpha = self._loss.alpha
        if alpha == 1.0:
            return Outcome(loss=learned, logits=own.logits)
        labels = functional.cross_entropy(own.logits.float(), batch.targets)
        return Outcome(loss=(1.0 - alpha) * labels + alpha * learned, logits=own.logits)


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, distillation: Distillation) -> Tensor:
    """Return `-T^2 * sum_{b,c} p_t log p_s / n`, p = softmax(logits / T), a scalar; logits are (B, C).

    n is B or B * C, as the normalisation says (the authors': B * C). It is the divergence of the other distillations and,
    beside it, the teacher's entropy, which has no gradient.
    """
    temperature = distillation.temperature
    target = functional.softmax(teacher_logits.float() / temperature, dim=1)
    total = -(target * functional.log_softmax(logits.float() / temperature, dim=1)).sum()
    by_batch = distillation.normalisation is KdNormalisation.BATCHMEAN
    return total * (temperature**2 / (logits.shape[0] if by_batch else logits.numel()))


def mean_map(model: AnchorModel) -> Tensor:
    """Return the mean of an anchor's output matrices, (D, E), float32."""
    return torch.stack([cast("nn.Linear", linear).weight.detach().float() for linear in model.output_maps]).mean(0)


def learned_stitches(pool: Pool, maps: Mapping[int, Tensor], ancestry_width: int) -> list[tuple[Tensor, Tensor]]:
    """Return weight (D_t, D_s) and bias (D_t,) of every stitch, from what the distillation learned.

    An anchor's mean matrix T leads from the ancestry model's width to its own, so its transpose leads back: the stitch from s
    to t is `T_t T_s^T`, the same wherever it stands, without bias. An anchor as wide as the ancestry model needs no matrix: for
    it the stitch is `T_s^T`, which is the paper's. The other case is our reading of it.

    Args:
        pool: The stitches.
        maps: By anchor, its mean matrix (D, E).
        ancestry_width: E.

    Raises:
        ConfigError: An anchor of another width has no matrix.
    """
    found = []
    for stitch in pool.stitches:
        to_width = []
        for index in (stitch.source, stitch.target):
            width = pool.anchors[index].config.embed_dim
            if width != ancestry_width and index not in maps:
                raise ConfigError(
                    "stitching.init",
                    f"learned needs the matrices of anchor {pool.anchors[index].name}, which was not distilled here",
                )
            to_width.append(torch.eye(width) if width == ancestry_width else maps[index].cpu())
        source, target = to_width
        found.append((target @ source.T, torch.zeros(len(target))))
    return found
