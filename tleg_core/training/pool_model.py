"""The pool as a trainable network: its anchors, timm's ViTs, its stitches, and the logits along any path.

A path runs the first anchor's embedding, its segments' blocks with a stitch between two segments, and the last anchor's norm
and head. Only what stands on the path is computed, and gets gradients. Stitches are trained whole, or by a low-rank update of
frozen weights (SN-Netv2). Nothing is distilled, sampled or fitted here.

Sources: SN-Net, arXiv 2302.06586, section 3; SN-Netv2, arXiv 2307.00154, section 3; Learngene Pool, arXiv 2312.05743.

Shape legend: B images, N tokens, D_a width of anchor a, D_s and D_t widths before and after a stitch, R its rank, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tleg_core.designs.pool import Pool
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.fresh import INIT_STD
from tleg_core.path import Path
from tleg_core.vit import timm_architecture, timm_model_args


class LinearStitch(nn.Module):
    """A stitch that is trained whole: tokens (B, N, D_s) to (B, N, D_t)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(after, before))
        self.bias = nn.Parameter(torch.zeros(after))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens in the width behind the stitch."""
        return functional.linear(tokens, self.weight, self.bias)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Return weight (D_t, D_s) and bias (D_t,)."""
        return self.weight.detach(), self.bias.detach()

    @torch.no_grad()
    def assign(self, weight: Tensor, bias: Tensor) -> None:
        """Copy weight (D_t, D_s) and bias (D_t,)."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)


class LowRankStitch(nn.Module):
    """A stitch whose weight W_0 is frozen and updated by a product of low rank: `y = (W_0 + B A) x + b`.

    A (R, D_s), B (D_t, R) and b (D_t,) are trained; B starts at zero, so that the first update starts from W_0. There is no
    factor before B A, which the learning rate would undo.

    Source: SN-Netv2, arXiv 2307.00154, section 3; A is drawn as in LoRA, arXiv 2106.09685.

    Args:
        before: D_s.
        after: D_t.
        rank: R, at most the smaller of both.

    Raises:
        ConfigError: The rank is outside its limits.
    """

    def __init__(self, before: int, after: int, *, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= min(before, after):
            raise ConfigError("stitch_rank", f"must be from 1 to {min(before, after)}, the smaller width, not {rank}")
        self.weight: Tensor
        self.register_buffer("weight", nn.init.trunc_normal_(torch.empty(after, before), std=INIT_STD))
        self.down = nn.Parameter(torch.empty(rank, before))  # A
        self.up = nn.Parameter(torch.zeros(after, rank))  # B
        self.bias = nn.Parameter(torch.zeros(after))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens in the width behind the stitch."""
        return functional.linear(tokens, self.weight, self.bias) + functional.linear(
            functional.linear(tokens, self.down), self.up
        )

    @torch.no_grad()
    def merged(self) -> tuple[Tensor, Tensor]:
        """Return weight W_0 + B A (D_t, D_s) and bias (D_t,)."""
        return self.weight + self.up @ self.down, self.bias.detach()

    @torch.no_grad()
    def assign(self, weight: Tensor, bias: Tensor) -> None:
        """Copy weight (D_t, D_s) and bias (D_t,), and forget the update."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.up.zero_()


AnyStitch: TypeAlias = LinearStitch | LowRankStitch


class PoolModel(nn.Module):
    """The anchors and stitches of a pool.

    Args:
        pool: Which ones, and where the stitches stand.
        drop_path_rate: timm's stochastic depth, 0..1: of an anchor's last block, and linearly less before it.
        stitch_rank: R of a low-rank update of the stitches; None trains them whole.
        seed: Seed of the initial weights.

    Raises:
        ConfigError: The rank is above a stitch's smaller width.
    """

    def __init__(self, pool: Pool, drop_path_rate: float = 0.0, stitch_rank: int | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.pool = pool
        self.grad_checkpointing = False
        self.anchors = nn.ModuleList()
        self.stitches = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for anchor in pool.anchors:
                self.anchors.append(
                    timm.create_model(
                        timm_architecture(anchor.config),
                        num_classes=anchor.config.num_classes,
                        drop_path_rate=drop_path_rate,
                        **timm_model_args(anchor.config, anchor.depth),
                    )
                )
            for stitch in pool.stitches:
                before, after = (pool.anchors[index].config.embed_dim for index in (stitch.source, stitch.target))
                self.stitches.append(
                    LinearStitch(before, after) if stitch_rank is None else LowRankStitch(before, after, rank=stitch_rank)
                )

    def forward(self, images: Tensor, path: Path) -> Tensor:
        """Return the logits (B, C) of normalised `images` (B, in_chans, img_size, img_size) along `path`.

        Raises:
            ConfigError: No stitch stands where the path needs one.
        """
        stitches = [self.stitches[self.pool.stitch_between(before, after)] for before, after in path.joins]
        tokens = self.embed(images, path.segments[0].anchor)
        for index, segment in enumerate(path.segments):
            if index:
                tokens = stitches[index - 1](tokens)  # (B, N, D_t)
            for block in self._anchor(segment.anchor).blocks[segment.first : segment.last + 1]:
                tokens = self._run(block, tokens)
        last = self._anchor(path.segments[-1].anchor)
        logits: Tensor = last.forward_head(last.norm(tokens))
        return logits

    def embed(self, images: Tensor, anchor: int) -> Tensor:
        """Return the tokens (B, N, D_a) that the first block of `anchor` sees."""
        own = self._anchor(anchor)
        tokens: Tensor = own.norm_pre(own._pos_embed(own.patch_embed(images)))
        return tokens

    def states(self, images: Tensor, anchor: int) -> Iterator[Tensor]:
        """Yield the inputs (B, N, D_a) of an anchor's blocks 0..L-1, the embedding first, and then the last block's output.

        So item k is the input of block k, and item j + 1 the output of block j.
        """
        tokens = self.embed(images, anchor)
        yield tokens
        for block in self._anchor(anchor).blocks:
            tokens = self._run(block, tokens)
            yield tokens

    def _anchor(self, index: int) -> Any:  # timm's ViT, which has no types
        return self.anchors[index]

    def _run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        checkpointed = self.grad_checkpointing and torch.is_grad_enabled()
        out: Tensor = checkpoint(block, tokens, use_reentrant=False) if checkpointed else block(tokens)
        return out

    def pool_tensors(self) -> dict[str, Tensor]:
        """Return the weights, detached, under the names of a pool's file and in its order; low-rank updates are merged.

        All others are views of the parameters: copy what must outlive the next update.
        """
        tensors = {f"anchors.{name}": tensor.detach() for name, tensor in self.anchors.state_dict().items()}
        for index, stitch in enumerate(self._stitches()):
            weight, bias = stitch.merged()
            tensors |= {f"stitches.{index}.weight": weight, f"stitches.{index}.bias": bias}
        return tensors

    @torch.no_grad()
    def load_pool_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a pool's tensors into the network; the stitches' low-rank updates start anew.

        Raises:
            CheckpointError: Names are missing or unexpected (all of them are named), or a shape differs.
        """
        own = self.pool_tensors()
        missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        wrong = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
        if missing or unexpected or wrong:
            raise CheckpointError(
                f"the tensors do not fit the pool: missing {missing}, unexpected {unexpected}, of another shape {wrong}"
            )
        for name, tensor in self.anchors.state_dict().items():
            tensor.copy_(tensors[f"anchors.{name}"])
        for index, stitch in enumerate(self._stitches()):
            stitch.assign(tensors[f"stitches.{index}.weight"], tensors[f"stitches.{index}.bias"])

    def _stitches(self) -> Iterator[AnyStitch]:
        for stitch in self.stitches:
            assert isinstance(stitch, LinearStitch | LowRankStitch)  # noqa: S101 - a ModuleList forgets what it holds
            yield stitch

    def assign_stitch(self, index: int, weight: Tensor, bias: Tensor) -> None:
        """Copy weight (D_t, D_s) and bias (D_t,) into a stitch; its low-rank update starts anew."""
        list(self._stitches())[index].assign(weight, bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute a block's activations again in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's optimiser factory must not decay beyond those it knows by itself."""
        return {f"anchors.{index}.{name}" for index in range(len(self.anchors)) for name in ("pos_embed", "cls_token")}
