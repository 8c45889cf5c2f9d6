"""Weight selection: a subset of a wider trained network's weights, its first blocks, evenly spaced along each axis.

Source: Xu et al., "Initializing Models with Larger Ones" (ICLR 2024). Along an axis of t elements of which s are wanted, the
elements are `arange(s) * t / s` where s divides t, else `round(linspace(0, t - 1, s))`. The authors apply that to the 3D rows
of the joint qkv weight, which mixes heads, and q with k and v where s does not divide t. Here heads are chosen by the rule, and
then elements within each head, the same ones for q, k, v and the input of the projection. As in the paper the head is not
taken: it is zero.

Shape legend: D embed_dim, H heads, M MLP width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tleg_core.errors import ConfigError
from tleg_core.tensor_source import Array
from tleg_core.vit import VitConfig, inventory

Indices = NDArray[np.int64]


def evenly_spaced(source: int, wanted: int) -> Indices:
    """Return which `wanted` of `source` elements are taken, ascending.

    Raises:
        ConfigError: More are wanted than there are.
    """
    if wanted > source:
        raise ConfigError("weight_selection", f"the source has {source} of what {wanted} are wanted of")
    if source % wanted == 0:
        return np.arange(wanted, dtype=np.int64) * (source // wanted)
    return np.round(np.linspace(0, source - 1, wanted)).astype(np.int64)


def attention_indices(source: VitConfig, config: VitConfig) -> Indices:
    """Return which of the source's D channels of q (of k, of v) are taken: evenly spaced heads, and channels within each."""
    source_width, width = source.embed_dim // source.num_heads, config.embed_dim // config.num_heads
    heads = evenly_spaced(source.num_heads, config.num_heads)  # (H,)
    within = evenly_spaced(source_width, width)  # (D/H,)
    return (heads[:, None] * source_width + within).reshape(-1)


def initialise(weights: Mapping[str, Array], source: VitConfig, config: VitConfig, depth: int) -> dict[str, Array]:
    """Return the selected weights of the depth-`depth` network.

    Args:
        weights: The source's, in timm's names.
        source: Its configuration: the same image, patches, class token and pooling, and at least as many of all else.
        config: The network that is initialised.
        depth: Its number of blocks, at most the source's.

    Raises:
        ConfigError: The source is narrower, shallower, or differs in what is not selected.
    """
    for name in ("img_size", "patch_size", "in_chans", "class_token", "global_pool"):
        if getattr(source, name) != getattr(config, name):
            raise ConfigError("weight_selection", f"the source's {name} is {getattr(source, name)}")
    channels = evenly_spaced(source.embed_dim, config.embed_dim)  # (D,)
    attention = attention_indices(source, config)  # (D,)
    hidden = evenly_spaced(source.mlp_width, config.mlp_width)  # (M,)
    rows: dict[str, Indices] = {
        "attn.qkv": np.concatenate([part * source.embed_dim + attention for part in range(3)]),  # (3D,)
        "mlp.fc1": hidden,
    }
    columns: dict[str, Indices] = {"attn.proj": attention, "mlp.fc2": hidden}
    selected: dict[str, Array] = {}
    for spec in inventory(config, depth):
        module, _, kind = spec.part.rpartition(".")
        if module == "head":
            selected[spec.name] = np.zeros(spec.shape, dtype=np.float32)
            continue
        tensor = weights.get(spec.name)
        if tensor is None:
            raise ConfigError("weight_selection", f"the source has no {spec.name}: it is shallower than {depth}")
        if spec.part in ("pos_embed", "cls_token"):
            tensor = tensor[..., channels]  # (1, T, D)
        else:
            tensor = tensor[rows.get(module, channels)]
            if kind == "weight" and spec.layer is not None and not module.startswith("norm"):
                tensor = tensor[:, columns.get(module, channels)]
        selected[spec.name] = np.ascontiguousarray(tensor)
    return selected
