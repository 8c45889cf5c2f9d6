"""An ancestry model as a plain ViT: its configuration, its depth, and its weights under a descendant's names.

What a `VitConfig` cannot say is refused by name. Two things that it cannot say are folded into the weights without changing the
function: layer scale (DINOv2, DeiT-III) multiplies the rows of the layer before it, and a class token without a position
(`no_embed_class`) has one of zeros.

Shape legend: T tokens, D width, L depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from timm.layers.attention import Attention
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from tleg_core.description import Preprocessing
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.training.ancestry import AncestryModel
from tleg_core.training.network import Network
from tleg_core.vit import VitConfig, inventory, timm_architecture, timm_model_args

_EPS = 1e-6  # timm's LayerNorm, which descendants are built with
_TOLERANCE = 1e-3  # of the largest logit: float32 through two orders of the same operations
_FOLDED = {"ls1": "attn.proj", "ls2": "mlp.fc2"}


def vit_of(ancestry: AncestryModel) -> tuple[VitConfig, int]:
    """Return the configuration of a plain ViT that computes what the ancestry model does, and its depth.

    Raises:
        ConfigError: It is no such network; what differs is named.
    """
    if type(ancestry.network) is not VisionTransformer:  # a subclass computes something else
        name = type(ancestry.network).__name__
        raise ConfigError("ancestry", f"must be a plain vision Transformer of timm; {ancestry.card.architecture} is a {name}")
    network: Any = ancestry.network
    differing = _differing(network)
    if differing:
        raise ConfigError("ancestry", f"{ancestry.card.architecture} is no plain ViT: {'; '.join(differing)}")
    first = network.blocks[0]
    width, hidden = int(network.embed_dim), int(first.mlp.fc1.out_features)
    ratio = hidden / width
    config = VitConfig(
        embed_dim=width,
        num_heads=int(first.attn.num_heads),
        img_size=int(network.patch_embed.img_size[0]),
        patch_size=int(network.patch_embed.patch_size[0]),
        in_chans=int(network.patch_embed.proj.in_channels),
        num_classes=int(network.num_classes),
        mlp_ratio=ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        class_token=bool(network.has_class_token),
        global_pool=network.global_pool,
    )
    return config, len(network.blocks)


@torch.no_grad()
def vit_weights(ancestry: AncestryModel) -> dict[str, Tensor]:
    """Return a copy of the ancestry model's weights, float32, by the names and in the order of `vit_of`'s network.

    The network is built with them and compared with the ancestry model, so that nothing is overlooked.

    Raises:
        ConfigError: It is no plain ViT, or computes something else than one with its tensors.
    """
    config, depth = vit_of(ancestry)
    network: Any = ancestry.network
    found: dict[str, Tensor] = {name: tensor.detach().float() for name, tensor in network.state_dict().items()}
    for layer, block in enumerate(network.blocks):
        for scale, target in _FOLDED.items():
            if isinstance(getattr(block, scale), LayerScale):
                gamma = found.pop(f"blocks.{layer}.{scale}.gamma")  # (D,)
                weight, bias = f"blocks.{layer}.{target}.weight", f"blocks.{layer}.{target}.bias"
                found[weight], found[bias] = gamma[:, None] * found[weight], gamma * found[bias]
    if network.no_embed_class and config.class_token:
        found["pos_embed"] = nn.functional.pad(found["pos_embed"], (0, 0, 1, 0))  # (1, T, D)
    specs = inventory(config, depth)
    wrong = sorted(found.keys() ^ {spec.name for spec in specs})
    if wrong:
        raise ConfigError("ancestry", f"{ancestry.card.architecture} is no plain ViT: it differs in {', '.join(wrong[:5])}")
    weights = {spec.name: found[spec.name].clone(memory_format=torch.contiguous_format) for spec in specs}
    _check_same(ancestry, config, depth, weights)
    return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestryVit:
    """A plain ViT that computes what an ancestry model does, and how its input is made.

    Args:
        config: The network without its depth.
        depth: L.
        weights: By the names of `vit.inventory`, float32.
        preprocessing: What its input is resized and normalised by.
        class_names: What its head tells apart, in order; may be empty.
        identity: What tells it from another one, as JSON.
    """

    config: VitConfig
    depth: int
    weights: Mapping[str, Tensor]
    preprocessing: Preprocessing
    identity: str
    class_names: tuple[str, ...] = ()

    def body(self) -> dict[str, Tensor]:
        """Return its weights without the head's."""
        return {name: tensor for name, tensor in self.weights.items() if not name.startswith("head.")}

    @classmethod
    def of(cls, ancestry: AncestryModel) -> Self:
        """Return an ancestry model as a plain ViT, on the CPU; raises `ConfigError` where it is none."""
        weights = {name: tensor.cpu() for name, tensor in vit_weights(ancestry).items()}
        config, depth = vit_of(ancestry)
        return cls(
            config=config,
            depth=depth,
            weights=weights,
            preprocessing=ancestry.card.preprocessing,
            identity=ancestry.digest(),
            class_names=ancestry.card.class_names,
        )


def _differing(network: Any) -> list[str]:
    """Return what a plain ViT does not have, each in words."""
    patch, block = network.patch_embed, network.blocks[0]
    attention, mlp = block.attn, block.mlp
    checks = [
        (network.global_pool not in ("avg", "token"), f"global_pool is {network.global_pool!r}, not 'avg' or 'token'"),
        (not isinstance(network.fc_norm, nn.Identity), "the norm comes after the pooling (give it fc_norm=False)"),
        (not isinstance(network.norm, nn.LayerNorm) and isinstance(network.fc_norm, nn.Identity), "no LayerNorm at its end"),
        (not isinstance(network.norm_pre, nn.Identity), "a norm before the blocks (pre_norm)"),
        (bool(network.num_reg_tokens), f"{network.num_reg_tokens} register tokens"),
        (network.pos_embed is None, "no position embedding"),
        (network.pool_include_prefix and network.has_class_token, "the class token is pooled (pool_include_prefix)"),
        (len(set(patch.img_size)) > 1 or len(set(patch.patch_size)) > 1, "images or patches that are not square"),
        (
            not isinstance(patch.norm, nn.Identity) or patch.proj.bias is None,
            "a patch embedding with a norm, or without a bias",
        ),
        (any(type(other) is not Block for other in network.blocks), f"blocks of the kind {type(block).__name__}"),
        (not isinstance(network.head, nn.Linear), "no linear head"),
    ]
    if type(block) is Block:
        checks += [
            (type(attention) is not Attention, f"attention of the kind {type(attention).__name__}"),
            (not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity), "normalised queries and keys (qk_norm)"),
            (
                not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity),
                "a norm within attention (scale_attn_norm)",
            ),
            (getattr(attention, "gate", None) is not None, "gated attention"),
            (type(mlp) is not Mlp, f"an MLP of the kind {type(mlp).__name__}"),
            (not isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity), "a norm within the MLP (scale_mlp_norm)"),
            (not _is_gelu(getattr(mlp, "act", None)), "an activation other than the exact GELU"),
            (not isinstance(block.norm1, nn.LayerNorm), f"norms of the kind {type(block.norm1).__name__}"),
            (getattr(block.norm1, "eps", _EPS) != _EPS, f"LayerNorm's eps is not {_EPS:g}"),
            (
                any(getattr(layer, "bias", None) is None for layer in (attention.qkv, attention.proj)),
                "linear layers without bias (qkv_bias, proj_bias)",
            ),
        ]
    return [words for differs, words in checks if differs]


def _is_gelu(activation: object) -> bool:
    return isinstance(activation, nn.GELU) and cast("Any", activation).approximate == "none"


def _check_same(ancestry: AncestryModel, config: VitConfig, depth: int, weights: dict[str, Tensor]) -> None:
    """Raise `ConfigError` unless a plain ViT with these weights computes the ancestry network's logits."""
    device = weights["pos_embed"].device
    plain = Network(
        architecture=timm_architecture(config), model_args=timm_model_args(config, depth), num_classes=config.num_classes
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((2, config.in_chans, config.img_size, config.img_size), generator=generator).to(device)
    was_training = ancestry.network.training
    try:
        ours = plain.load(weights, drop_path=0.0, device=device).eval()(images)
        theirs = ancestry.network.eval()(images)
    except CheckpointError as error:
        raise ConfigError("ancestry", f"{ancestry.card.architecture} is no plain ViT: {error}") from error
    finally:
        ancestry.network.train(was_training)
    if not torch.allclose(ours, theirs, rtol=0.0, atol=_TOLERANCE * max(1.0, float(theirs.abs().max()))):
        raise ConfigError(
            "ancestry", f"{ancestry.card.architecture} computes something else than a plain ViT with its tensors does"
        )
