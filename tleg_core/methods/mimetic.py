"""Mimetic initialisation: attention layers that look like those of a trained Transformer.

Source: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers" (ICML 2023). Of the conventions found in copies
of their code, this is the one that makes both products exact in the layout of timm's weights, where a layer computes x W^T:

    W_q,h^T W_k,h = best approximation of rank D/H of  0.7 Z + 0.7 I     for each head h      (D, D)
    W_proj W_v    =                                    0.4 Z - 0.4 I     over all heads       (D, D)

with a new Z for each product, its entries normal with variance 1/D. Some copies exchange the factors of W_proj and W_v, which
makes another product. The position embedding is two-dimensional sines and cosines. All else stays as it was drawn.

Shape legend: D embed_dim, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tleg_core.tensor_source import Array
from tleg_core.vit import VitConfig

ALPHA_QK, BETA_QK = 0.7, 0.7
"""Weights of noise and identity in W_q^T W_k; the paper's for ViT-Ti on CIFAR-10."""

ALPHA_V, BETA_V = 0.4, 0.4
"""Weights of noise and (negative) identity in W_proj W_v, likewise."""

_TEMPERATURE = 10_000.0  # of the sines' wavelengths, as in "Attention Is All You Need"


def initialise(fresh: Mapping[str, Array], config: VitConfig, depth: int, *, seed: int) -> dict[str, Array]:
    """Return `fresh` with its attention weights and position embedding replaced, those of `depth` layers.

    Args:
        fresh: Weights of a network from scratch, in timm's names; they are not changed.
        config: The network.
        depth: Its number of blocks.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    weights = dict(fresh)
    width = config.embed_dim
    for layer in range(depth):
        heads = [_query_and_key(config, generator) for _ in range(config.num_heads)]
        queries, keys = (np.concatenate(parts) for parts in zip(*heads, strict=True))  # (D, D) each
        left, right = _factors(_target(width, ALPHA_V, -BETA_V, generator), width)
        weights[f"blocks.{layer}.attn.qkv.weight"] = np.concatenate([queries, keys, right.T]).astype(np.float32)  # (3D, D)
        weights[f"blocks.{layer}.attn.proj.weight"] = left.astype(np.float32)  # (D, D)
    weights["pos_embed"] = sinusoidal_positions(config)
    return weights


def sinusoidal_positions(config: VitConfig) -> Array:
    """Return sines and cosines of each patch's row and column, a quarter of the width each, (1, T, D).

    Channels left over where 4 does not divide D are zero, and so is a class token's position.
    """
    quarter = config.embed_dim // 4
    places = np.arange(config.grid_size, dtype=np.float64)
    rows, columns = (axis.reshape(-1, 1) for axis in np.meshgrid(places, places, indexing="ij"))  # (T, 1)
    rates = _TEMPERATURE ** (-np.arange(quarter) / max(quarter, 1))
    waves = [wave(axis * rates) for axis in (rows, columns) for wave in (np.sin, np.cos)]  # four of (T, D/4)
    positions = np.zeros((1, config.num_tokens, config.embed_dim), dtype=np.float32)
    positions[0, int(config.class_token) :, : 4 * quarter] = np.concatenate(waves, axis=1)
    return positions


def _query_and_key(config: VitConfig, generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return W_q and W_k of one head, (D/H, D) each."""
    left, right = _factors(_target(config.embed_dim, ALPHA_QK, BETA_QK, generator), config.embed_dim // config.num_heads)
    return left.T, right.T


def _target(width: int, alpha: float, beta: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return `alpha Z + beta I`, (D, D), with Z normal of variance 1/D."""
    noise = generator.standard_normal((width, width)) / np.sqrt(width)
    product: NDArray[np.float64] = alpha * noise + beta * np.eye(width)
    return product


def _factors(product: NDArray[np.float64], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return L and R, (D, rank) each, with L R^T the best approximation of `product` of that rank, both equally large."""
    left, scales, right = np.linalg.svd(product)
    root = np.sqrt(scales[:rank])
    return left[:, :rank] * root, right[:rank].T * root
