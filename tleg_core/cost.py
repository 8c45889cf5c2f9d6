"""What a network costs, by arithmetic on its configuration: no model is built.

MACs count the matrix products and the patch convolution; norms, softmax, GELU and additions are left out, as in the papers.
FLOPs are twice the MACs. Memory is the peak of an eager forward pass in timm with fused attention and no gradients.

Shape legend: B images, T tokens, D embed_dim, M MLP width, L depth, C in_chans, P patch_size, S img_size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.vit import VitConfig, block_shapes, check_depth, num_elements, stem_shapes, tail_shapes

MAX_BATCH_SIZE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The costs of one network: parameters, multiply-accumulates for one image, bytes of weights, peak bytes at inference."""

    params: int
    macs: int
    weights_bytes: int
    memory_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations for one image: 2 x MACs."""
        return 2 * self.macs


@lru_cache(maxsize=4096)
def cost(config: VitConfig, depth: int, *, dtype: DType = DType.FLOAT32, batch_size: int = 1) -> Cost:
    """Return the costs of the depth-`depth` network.

    Args:
        config: The network.
        depth: Its number of blocks L.
        dtype: Element type of weights and activations, for the two byte counts.
        batch_size: Images B in one forward pass, for `memory_bytes`.

    Raises:
        ConfigError: `depth` or `batch_size` is outside its limits.
    """
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ConfigError("batch_size", f"must be from 1 to {MAX_BATCH_SIZE}, not {batch_size}")
    check_depth(depth)
    outside = num_elements(stem_shapes(config)) + num_elements(tail_shapes(config))
    params = outside + depth * num_elements(block_shapes(config))
    weights_bytes = params * dtype.itemsize
    activations = batch_size * _peak_activations(config, depth)
    return Cost(
        params=params,
        macs=_macs(config, depth),
        weights_bytes=weights_bytes,
        memory_bytes=weights_bytes + activations * dtype.itemsize,
    )


def _macs(config: VitConfig, depth: int) -> int:
    """Return the MACs for one image; a block's are T (4 D^2 + 2 D M) for its linear layers and 2 T^2 D for attention."""
    t, d, m = config.num_tokens, config.embed_dim, config.mlp_width
    patches = config.grid_size**2 * d * config.in_chans * config.patch_size**2
    block = t * (4 * d * d + 2 * d * m) + 2 * t * t * d
    return patches + depth * block + d * config.num_classes


def _peak_activations(config: VitConfig, depth: int) -> int:
    """Return the most elements alive at once for one image, the input included.

    Three moments compete. Attention: the embedding, the block's input, its norm, queries, keys and values, the mixed values,
    the projection. MLP: the embedding, the block's input, the residual stream, its norm, and the hidden layer before and after
    GELU. Head: the normed tokens, their mean, the logits. In the first block its input is the embedding itself; embedding the
    image holds three times the tokens at most, and never is the peak.
    """
    t, d, m = config.num_tokens, config.embed_dim, config.mlp_width
    image = config.in_chans * config.img_size**2
    behind_first = depth > 1
    attention = (7 + behind_first) * t * d
    mlp = (3 + behind_first) * t * d + 2 * t * m
    head = t * d + (config.global_pool == "avg") * d + config.num_classes
    return image + max(attention, mlp, head)
