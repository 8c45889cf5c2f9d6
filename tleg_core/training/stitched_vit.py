"""The stitched vision Transformer: blocks in stages of one width each, with a linear layer, the stitch, between two stages.

An ordinary `torch.nn.Module` out of timm's own parts: its patch embedding, its blocks, and the order of its ViT with the final
norm before the pooling (`fc_norm=False`). Importing this module makes it known to timm, so that
`timm.create_model("tleg_stitched_vit", stages=[...])` and `hf-hub:` loading build it. Its tensors are those of
`tleg_core.stack.Stack.inventory`, in that order.

Source: SN-Net, arXiv 2302.06586, section 3; Learngene Pool, arXiv 2312.05743.

Shape legend: B images, N tokens, D_s width of stage s, C classes, L depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from timm.layers import LayerNorm, PatchEmbed, resample_abs_pos_embed  # type: ignore[attr-defined]
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tleg_core.errors import ConfigError
from tleg_core.fresh import INIT_STD
from tleg_core.stack import STITCHED_VIT, Stack

_CLASS_TOKEN_STD = 1e-6  # timm's

Pool: TypeAlias = Literal["avg", "token", ""]


class StitchedVit(nn.Module):
    """A ViT whose blocks come in stages.

    Args:
        img_size: Side of the square input image, in pixels; timm hands over a pair of equal ones.
        patch_size: Side of a patch, in pixels.
        in_chans: Channels of the image.
        num_classes: Outputs of the head; 0 for no head.
        class_token: Whether a class token is prepended.
        global_pool: How tokens become one vector, after the norm: their mean, the class token, or '' for all tokens.
        stages: Each stage's `embed_dim`, `num_heads`, `mlp_ratio` and `depth`, the one nearest to the image first.
        drop_rate: Dropout before the head, 0..1.
        drop_path_rate: Stochastic depth: of the last block, and linearly less before it, as timm's.

    Raises:
        ConfigError: A value is missing, outside its limits, or contradicts another.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Mapping[str, Any]],
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        class_token: bool = False,
        global_pool: Pool = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        stack = _checked(
            num_classes,
            img_size=_side(img_size),
            patch_size=patch_size,
            in_chans=in_chans,
            class_token=class_token,
            global_pool=global_pool,
            stages=stages,
        )
        first, last = stack.first, stack.config
        self.num_classes, self.in_chans = num_classes, in_chans
        self.global_pool: Pool = global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = last.embed_dim
        self.num_prefix_tokens = int(class_token)
        self.has_class_token = class_token
        self.grad_checkpointing = False

        self.cls_token = nn.Parameter(torch.empty(1, 1, first.embed_dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, first.num_tokens, first.embed_dim))
        self.patch_embed = PatchEmbed(first.img_size, patch_size, in_chans, first.embed_dim)
        rates = [drop_path_rate * layer / max(stack.depth - 1, 1) for layer in range(stack.depth)]
        self.blocks = nn.ModuleList()
        self.stitches = nn.ModuleList()
        self._stitched: dict[int, int] = {}  # by the block that a stitch stands before
        self.feature_info: list[dict[str, Any]] = []
        for stage in stack.stages:
            config = stage.config
            if len(self.blocks):
                self._stitched[len(self.blocks)] = len(self.stitches)
                self.stitches.append(nn.Linear(self.feature_info[-1]["num_chs"], config.embed_dim))
            for _ in range(stage.depth):
                self.feature_info.append(
                    {"module": f"blocks.{len(self.blocks)}", "num_chs": config.embed_dim, "reduction": patch_size}
                )
                self.blocks.append(
                    Block(
                        config.embed_dim,
                        config.num_heads,
                        mlp_ratio=config.mlp_ratio,
                        qkv_bias=True,
                        drop_path=rates[len(self.blocks)],
                        norm_layer=LayerNorm,
                    )
                )
        self.norm: nn.Module = LayerNorm(last.embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(last.embed_dim, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """Draw fresh weights as timm's ViT does: linear layers normal with standard deviation 0.02, their biases zero."""
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=_CLASS_TOKEN_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, D_0) that the first block sees."""
        tokens: Tensor = self.patch_embed(images)  # (B, N, D_0), the class token aside
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens + self.pos_embed

    def _layer(self, index: int, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, D_s) after block `index`, and the stitch before it where there is one."""
        if index in self._stitched:
            tokens = self.stitches[self._stitched[index]](tokens)
        block = self.blocks[index]
        checkpointed = self.grad_checkpointing and torch.is_grad_enabled()
        out: Tensor = checkpoint(block, tokens, use_reentrant=False) if checkpointed else block(tokens)
        return out

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the normed tokens (B, N, D) of the last stage for `images` (B, in_chans, img_size, img_size)."""
        tokens = self.embed(images)
        for index in range(len(self.blocks)):
            tokens = self._layer(index, tokens)
        out: Tensor = self.norm(tokens)
        return out

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, C), or with `pre_logits` what the head is given (B, D), of the normed tokens (B, N, D)."""
        if self.global_pool == "avg":
            tokens = tokens[:, self.num_prefix_tokens :].mean(dim=1)  # (B, D)
        elif self.global_pool == "token":
            tokens = tokens[:, 0]  # (B, D)
        tokens = self.head_drop(tokens)
        if pre_logits:
            return tokens
        out: Tensor = self.head(tokens)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of normalised `images` (B, in_chans, img_size, img_size)."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the normed tokens and what blocks put out, as timm's `forward_intermediates`; each has its stage's width.

        Args:
            x: The images (B, in_chans, img_size, img_size).
            indices: Which blocks: the last n, those named, or None for all.
            norm: Whether the final norm is applied to them, which only fits blocks of the last stage's width.
            stop_early: Whether blocks after the last one asked for are left out.
            output_fmt: `NCHW` for maps (B, D_s, rows, columns), `NLC` for tokens; neither has the class token.
            intermediates_only: Whether only what the blocks put out is returned.
        """
        take, last = feature_take_indices(len(self.blocks), indices)
        tokens = self.embed(x)
        taken: list[Tensor] = []
        for index in range(last + 1 if stop_early else len(self.blocks)):
            tokens = self._layer(index, tokens)
            if index in take:
                taken.append((self.norm(tokens) if norm else tokens)[:, self.num_prefix_tokens :])
        if output_fmt == "NCHW":
            rows, columns = self.patch_embed.grid_size
            taken = [item.transpose(1, 2).reshape(item.shape[0], -1, rows, columns) for item in taken]
        return taken if intermediates_only else (self.norm(tokens), taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks after the last one of `indices` and, if asked, norm and head; return the indices."""
        take, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        self._stitched = {block: stitch for block, stitch in self._stitched.items() if block <= last}
        self.stitches = self.stitches[: len(self._stitched)]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return list(take)

    def stitches_from(self, block: int) -> list[nn.Module]:
        """Return the stitches that lead to block `block` or to a later one."""
        return [self.stitches[stitch] for place, stitch in self._stitched.items() if place >= block]

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: Pool | None = None) -> None:
        """Put a fresh head for `num_classes` in the head's place; 0 for none.

        Raises:
            ConfigError: There is no such pooling here.
        """
        if global_pool is not None:
            _check_pool(global_pool, self.has_class_token)
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = self.pos_embed
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head.to(device=like.device, dtype=like.dtype).train(self.training)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's optimiser factory must not decay beyond those it knows by itself."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - timm asks so
        """Return the patterns by which timm groups parameters into layers; a stitch goes with the block that it leads to."""
        stitches = [(rf"^stitches\.{stitch}\.", (block,)) for block, stitch in self._stitched.items()]
        blocks = [(r"^blocks\.(\d+)", None), *stitches, (r"^norm", (99999,))]
        return {"stem": r"^cls_token|pos_embed|patch_embed", "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute a block's activations again in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable


def _side(img_size: int | Sequence[int]) -> int:
    """Return the side of timm's `img_size` argument, an int or a pair of equal ones."""
    sides = {img_size} if isinstance(img_size, int) else set(img_size)
    if len(sides) != 1:
        raise ConfigError("img_size", f"must be one whole number or two equal ones, not {img_size!r}")
    return sides.pop()


def _check_pool(global_pool: str, class_token: bool) -> None:
    if global_pool not in ("avg", "token", "") or (global_pool == "token" and not class_token):
        raise ConfigError("global_pool", f"must be 'avg', '' or, with class_token, 'token', not {global_pool!r}")


def _checked(num_classes: int, **model_args: Any) -> Stack:
    """Return the description of the network."""
    _check_pool(model_args["global_pool"], model_args["class_token"])
    try:
        # no pooling is timm's way to ask for features, and has no place in a stack
        return Stack.of(STITCHED_VIT, model_args | {"global_pool": model_args["global_pool"] or "avg"}, num_classes)
    except (KeyError, TypeError) as error:
        raise ConfigError("stages", f"must each have embed_dim, num_heads, mlp_ratio and depth: {error}") from error


def _fit_position(weights: dict[str, Tensor], model: StitchedVit) -> dict[str, Tensor]:
    """Return loaded weights with the position embedding resampled to the network's image size, as timm's ViT does."""
    position = weights.get("pos_embed")
    if position is not None and position.shape[1] != model.pos_embed.shape[1]:
        weights["pos_embed"] = resample_abs_pos_embed(
            position, new_size=list(model.patch_embed.grid_size), num_prefix_tokens=model.num_prefix_tokens
        )
    return weights


default_cfgs = generate_default_cfgs(
    {
        STITCHED_VIT: {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": None,
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


@register_model
def tleg_stitched_vit(pretrained: bool = False, **kwargs: Any) -> StitchedVit:
    """Return a stitched ViT, as timm's entry points do; `stages` says which one.

    Raises:
        ConfigError: `stages` or another value is missing or wrong.
    """
    if "stages" not in kwargs:
        raise ConfigError("stages", "is missing: a stitched ViT has no size of its own")
    return build_model_with_cfg(
        StitchedVit,
        STITCHED_VIT,
        pretrained,
        pretrained_filter_fn=_fit_position,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **kwargs,
    )
