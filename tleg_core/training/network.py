"""The network that is fine-tuned, by timm's architecture and arguments; and its weights, expanded where it computes.

It is timm's plain ViT, or a stitched one, which timm knows from `stitched_vit`.

A learngene's components are kept on the device, and a descendant is expanded there by the same equation as the served file, bit
for bit on a CPU.

Shape legend: K components.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tleg_core.dtype import DType
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.expansion import combine
from tleg_core.family import Family
from tleg_core.recipe import Recipe
from tleg_core.tensor_source import Combined, Copied
from tleg_core.tensorfile import encode_header
from tleg_core.training import stitched_vit as _registers_with_timm  # noqa: F401

_HALF = {DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What timm is asked for."""

    architecture: str
    model_args: Mapping[str, Any]
    num_classes: int

    def build(self, *, drop_path: float, seed: int | None) -> nn.Module:
        """Return the network on the CPU, initialised by timm with `seed`, or on the meta device without one.

        Raises:
            ConfigError: timm cannot build it.
        """
        options = dict(self.model_args) | {"num_classes": self.num_classes, "drop_path_rate": drop_path}
        try:
            if seed is None:
                with torch.device("meta"):
                    return timm.create_model(self.architecture, **options)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return timm.create_model(self.architecture, **options)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise ConfigError("model", f"timm cannot build {self.architecture!r}: {error}") from error

    def load(self, weights: Mapping[str, Tensor], *, drop_path: float, device: torch.device) -> nn.Module:
        """Return the network with a copy of `weights`, float32, on `device`.

        Raises:
            CheckpointError: They are not exactly the network's tensors.
        """
        network = self.build(drop_path=drop_path, seed=None)
        own = {name: tensor.to(device=device, dtype=torch.float32, copy=True) for name, tensor in weights.items()}
        try:
            network.load_state_dict(own, strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"the weights do not fit {self.architecture}: {error}") from error
        return network.requires_grad_(True)


class DeviceLearngene:
    """A learngene whose tensors are held on a device."""

    def __init__(self, family: Family, device: torch.device) -> None:
        self.family = family
        self._device = device
        self._tensors = {name: torch.from_numpy(array.copy()).to(device) for name, array in family.learngene.tensors.items()}

    def expand(self, recipe: Recipe) -> dict[str, Tensor]:
        """Return a descendant's weights by name, float32 on the device, rounded as the recipe's dtype rounds them.

        Raises:
            ConfigError: The recipe is of another learngene.
        """
        weights: dict[str, Tensor] = {}
        for spec, source in self.family.sources(recipe):
            if isinstance(source, Combined):
                value = combine(source.coefficients, list(self._tensors[source.name]))
            elif isinstance(source, Copied):
                value = self._tensors[source.name]
            else:  # resampled, constant or drawn: made as the file's are
                value = torch.from_numpy(source.read(0, spec.size).copy()).to(self._device)
            half = _HALF.get(recipe.dtype)
            value = value if half is None else value.to(half).float()
            weights[spec.name] = value.reshape(spec.shape)
        return weights


def with_head(weights: Mapping[str, Tensor], num_classes: int, *, keep: bool) -> dict[str, Tensor]:
    """Return the weights with the classifier kept, or with one of zeros for `num_classes`.

    Raises:
        ConfigError: It is to be kept, and has other classes or is not there.
    """
    head = weights.get("head.weight")
    if keep:
        if head is None or len(head) != num_classes:
            has = "no classifier" if head is None else f"{len(head)} classes"
            raise ConfigError("head", f"cannot be kept: the model has {has}, the data set {num_classes}")
        return dict(weights)
    norm = weights["norm.weight"]
    return dict(weights) | {
        "head.weight": torch.zeros((num_classes, len(norm)), device=norm.device),
        "head.bias": torch.zeros(num_classes, device=norm.device),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenWeights:
    """A file of weights."""

    sha256: str
    size_bytes: int


def write_weights(network: nn.Module, path: Path) -> WrittenWeights:
    """Write a network's weights in the one canonical form: timm's order, float32, nothing else in the header.

    Raises:
        OSError: It cannot be written.
    """
    tensors = network.state_dict()
    header = encode_header(((name, tuple(tensor.shape)) for name, tensor in tensors.items()), DType.FLOAT32, {"format": "pt"})
    digest = hashlib.sha256(header)
    size_bytes = len(header)
    with path.open("wb") as file:
        file.write(header)
        for tensor in tensors.values():
            content = memoryview(tensor.detach().to("cpu", torch.float32).contiguous().numpy()).cast("B")
            digest.update(content)
            size_bytes += len(content)
            file.write(content)
    return WrittenWeights(sha256=digest.hexdigest(), size_bytes=size_bytes)
