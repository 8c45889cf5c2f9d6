"""Truncation: the first blocks of a trained network of the same width, and all that is not a block."""

from __future__ import annotations

from collections.abc import Mapping

from tleg_core.errors import ConfigError
from tleg_core.tensor_source import Array
from tleg_core.vit import VitConfig, inventory


def initialise(source: Mapping[str, Array], config: VitConfig, depth: int) -> dict[str, Array]:
    """Return the weights of the first `depth` blocks of `source`, which has the same configuration and at least that depth.

    The final norm and the head, which were trained behind the last block, now stand behind an earlier one.

    Raises:
        ConfigError: The source is shallower, or of another configuration.
    """
    weights = {}
    for spec in inventory(config, depth):
        tensor = source.get(spec.name)
        if tensor is None:
            raise ConfigError("depth", f"the source network has no {spec.name}: it is shallower than {depth}")
        if tensor.shape != spec.shape:
            raise ConfigError("network", f"the source's {spec.name} is {tensor.shape}, not {spec.shape}")
        weights[spec.name] = tensor
    return weights
