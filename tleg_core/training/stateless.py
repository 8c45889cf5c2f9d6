"""timm's ViT without weights of its own: logits as a pure function of images, the layers' weights and drop path's draws.

Every layer runs through one and the same block of timm's, on the meta device, whose tensors are handed over for the call by
`torch.func.functional_call`. Nothing is remembered from one call to the next. So a block's activations can be computed again in
the backward pass (the authors' code keeps the layer's number on the modules, and recomputes all layers as the last one), and
the block is compiled once for all layers and depths.

Shape legend: B images, N tokens, D width, C classes, L depth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import timm
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tleg_core.errors import ConfigError
from tleg_core.training.attention import fuses_attention, use_plain_attention
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

Weights: TypeAlias = Mapping[str, Tensor]

INDUCTOR = "inductor"
"""torch.compile's own backend."""


class StatelessVit:
    """A ViT of any depth.

    Args:
        config: The network without its depth.
        compiler: torch.compile's backend for the block, where gradients are computed; None for PyTorch's eager operators.
        grad_checkpointing: Whether a block keeps its input only, and the backward pass computes its activations again.
    """

    def __init__(
        self, config: VitConfig, *, compiler: str | Callable[..., Any] | None = None, grad_checkpointing: bool = False
    ) -> None:
        with torch.device("meta"):
            network: Any = timm.create_model(
                timm_architecture(config), num_classes=config.num_classes, **timm_model_args(config, depth=1)
            )
        network.eval()  # drop path, the only layer that trains otherwise, is ours
        self._blocks = {
            (fused, dropping): _variant(network.blocks[0], fused=fused, dropping=dropping)
            for fused in (True, False)
            for dropping in (True, False)
        }
        self._ends = _Ends(network)
        self._grad_checkpointing = grad_checkpointing
        self._compiled: Any = None if compiler is None else torch.compile(_block, backend=compiler)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return this object: it holds nothing that a copy could change, and the EMA's copy need not compile again."""
        return self

    def __call__(self, images: Tensor, ends: Weights, layers: Sequence[Weights], *, drop_path: float = 0.0) -> Tensor:
        """Return the logits (B, C) of normalised `images` (B, in_chans, img_size, img_size).

        Args:
            images: The network's input.
            ends: What lies before and after the blocks, by timm's names.
            layers: Each layer's tensors, by their names within a block.
            drop_path: Stochastic depth: the share of images that skip a branch of the last layer, less before it (timm's rule).
        """

        def through_layers(tokens: Tensor) -> Tensor:
            block = self._blocks[
                fuses_attention(tokens.device, half=torch.is_autocast_enabled(tokens.device.type)), drop_path > 0.0
            ]
            if not drop_path:
                for weights in layers:
                    tokens = self._layer(block, tokens, weights)
                return tokens
            for weights, (attention, mlp) in zip(layers, _draw_scales(len(layers), tokens, drop_path), strict=True):
                scales = {"drop_path1.scale": attention, "drop_path2.scale": mlp}
                tokens = self._layer(block, tokens, {**weights, **scales})
            return tokens

        own = {f"network.{name}": tensor for name, tensor in ends.items()}
        logits: Tensor = functional_call(self._ends, own, (images, through_layers), strict=True)
        return logits

    def _layer(self, block: nn.Module, tokens: Tensor, weights: Weights) -> Tensor:
        if not torch.is_grad_enabled():
            return _block(block, tokens, weights)
        run = _block if self._compiled is None else self._compiled
        try:
            if self._grad_checkpointing:  # nothing random is left within the block, so no generator's state has to be kept
                out: Tensor = checkpoint(run, block, tokens, weights, use_reentrant=False, preserve_rng_state=False)
                return out
            return run(block, tokens, weights)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise ConfigError("training.compile", f"this machine cannot compile the network: {reason}") from error


def _variant(block: nn.Module, *, fused: bool, dropping: bool) -> nn.Module:
    """Return a copy of a timm block, with fused attention (timm chooses) or without, and with factors in drop path's place."""
    variant: Any = copy.deepcopy(block)
    if not fused:
        use_plain_attention(variant)
    if dropping:
        variant.drop_path1, variant.drop_path2 = _Scale(), _Scale()
    return variant  # type: ignore[no-any-return]


def _block(block: nn.Module, tokens: Tensor, weights: Weights) -> Tensor:
    """Return the tokens (B, N, D) after one layer."""
    out: Tensor = functional_call(block, dict(weights), (tokens,), strict=True)
    return out


def _draw_scales(depth: int, tokens: Tensor, rate: float) -> Tensor:
    """Return what each branch of each image is multiplied by, (L, 2, B, 1, 1): 0 where dropped, else 1 / (share kept).

    Layer i of L drops the share rate * i / (L - 1), as timm and the authors do. Draws are from the device's generator.
    """
    kept = 1.0 - torch.linspace(0, rate, depth, device=tokens.device).view(-1, 1, 1, 1, 1)
    draws = torch.rand((depth, 2, len(tokens), 1, 1), device=tokens.device)
    return (draws < kept) / kept


class _Scale(nn.Module):
    """In drop path's place: multiplies a branch (B, N, D) by `scale` (B, 1, 1), which each call is given."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.empty(1, 1, 1, device="meta"))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.scale.to(branch.dtype)


class _Ends(nn.Module):
    """All of a timm ViT but its blocks."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.blocks = nn.Identity()
        self.network = network

    def forward(self, images: Tensor, through_layers: Callable[[Tensor], Tensor]) -> Tensor:
        network: Any = self.network
        tokens = network.patch_drop(network._pos_embed(network.patch_embed(images)))  # (B, N, D)
        tokens = through_layers(network.norm_pre(tokens))
        logits: Tensor = network.forward_head(network.norm(tokens))  # (B, C)
        return logits
