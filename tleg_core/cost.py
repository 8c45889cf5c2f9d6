"""What a network costs, by arithmetic on its configuration: no model is built.

MACs count the matrix products and the patch convolution; norms, softmax, GELU and additions are left out, as in the papers.
FLOPs are twice the MACs. Memory is the peak of an eager forward pass with fused attention and no gradients, in timm, or in the
package's own network where widths change.

Shape legend: B images, T tokens, D embed_dim, M MLP width, L depth, C in_chans, P patch_size, S img_size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.stack import Stack, stitch_shapes
from tleg_core.vit import VitConfig, block_shapes, num_elements, stem_shapes, tail_shapes

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


@lru_cache(maxsize=256)
def stack_cost(stack: Stack, *, dtype: DType = DType.FLOAT32, batch_size: int = 1) -> Cost:
    """Return the costs of a network.

    Args:
        stack: The network.
        dtype: Element type of weights and activations, for the two byte counts.
        batch_size: Images B in one forward pass, for `memory_bytes`.

    Raises:
        ConfigError: `batch_size` is outside its limits.
    """
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ConfigError("batch_size", f"must be from 1 to {MAX_BATCH_SIZE}, not {batch_size}")
    params = num_elements(stem_shapes(stack.first)) + num_elements(tail_shapes(stack.config))
    params += sum(stage.depth * _block_params(stage.config) for stage in stack.stages)
    params += sum(num_elements(stitch_shapes(before.config, after.config)) for before, after in pairwise(stack.stages))
    weights_bytes = params * dtype.itemsize
    activations = batch_size * _peak_activations(stack)
    return Cost(
        params=params,
        macs=_macs(stack),
        weights_bytes=weights_bytes,
        memory_bytes=weights_bytes + activations * dtype.itemsize,
    )


def cost(config: VitConfig, depth: int, *, dtype: DType = DType.FLOAT32, batch_size: int = 1) -> Cost:
    """Return the costs of the plain depth-`depth` network, as `stack_cost` does; raises `ConfigError` for a wrong depth too."""
    return stack_cost(Stack.plain(config, depth), dtype=dtype, batch_size=batch_size)


@lru_cache(maxsize=256)
def _block_params(config: VitConfig) -> int:
    """Return the parameters of one block."""
    return num_elements(block_shapes(config))


def _macs(stack: Stack) -> int:
    """Return the MACs for one image: a block's are T (4 D^2 + 2 D M) for its linear layers and 2 T^2 D for attention.

    A stitch's are T D_before D_after.
    """
    first, last, t = stack.first, stack.config, stack.config.num_tokens
    total = first.grid_size**2 * first.embed_dim * first.in_chans * first.patch_size**2 + last.embed_dim * last.num_classes
    for stage in stack.stages:
        d, m = stage.config.embed_dim, stage.config.mlp_width
        total += stage.depth * (t * (4 * d * d + 2 * d * m) + 2 * t * t * d)
    for before, after in pairwise(stack.stages):
        total += t * before.config.embed_dim * after.config.embed_dim
    return total


def _peak_activations(stack: Stack) -> int:
    """Return the most elements alive at once for one image, the input included.

    Beside what a block needs itself, timm's ViT holds the embedding in every block but the first, whose input it is. The
    stitched one does not; it holds the tokens before a stitch in the block after it. Embedding the image holds three times the
    tokens at most, a stitch those before and after it, and neither ever is the peak. The head competes with the blocks: it
    holds the normed tokens, their mean, the logits; in the stitched network the mean takes the tokens' place.
    """
    last, t = stack.config, stack.config.num_tokens
    tokens, mean = t * last.embed_dim, last.embed_dim if last.global_pool == "avg" else 0
    if stack.is_plain:
        head = tokens + mean + last.num_classes
        held = [tokens if stack.depth > 1 else 0]
    else:
        head = (mean or tokens) + last.num_classes
        held = [0, *(t * stage.config.embed_dim for stage in stack.stages[:-1])]
    blocks = [_peak_of_block(stage.config) + beside for stage, beside in zip(stack.stages, held, strict=True)]
    return stack.first.in_chans * stack.first.img_size**2 + max(head, *blocks)


def _peak_of_block(config: VitConfig) -> int:
    """Return the most elements alive at once within a block for one image.

    Two moments compete. Attention: the block's input, its norm, queries, keys and values, the mixed values, the projection.
    MLP: the block's input, the residual stream, its norm, and the hidden layer before and after GELU.
    """
    t, d, m = config.num_tokens, config.embed_dim, config.mlp_width
    return max(7 * t * d, 3 * t * d + 2 * t * m)
