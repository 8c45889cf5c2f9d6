"""Checkpoints of a training run: one safetensors file each, published whole or not at all.

Tensors (model, optimiser, EMA, generator states) stand under prefixed names; everything else is one JSON object in the file's
metadata. Nothing is pickled. Which tensors there are is the loop's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tleg_core.atomic_file import atomic_file
from tleg_core.errors import CheckpointError

FORMAT_VERSION = 1
_METADATA_KEY = "tleg.checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, and facts as JSON."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below `prefix.`, without it."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}

    def write(self, path: Path) -> None:
        """Write whole or not at all: `path` is the old checkpoint or the new one.

        Raises:
            CheckpointError: It cannot be written.
        """
        text = json.dumps({"format": FORMAT_VERSION, "facts": self.facts}, allow_nan=False)
        publish_tensors(path, self.tensors, {_METADATA_KEY: text})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint that `write` made.

        Raises:
            CheckpointError: There is none, or it is broken or of another version.
        """
        tensors, metadata = read_tensors(path)
        try:
            value = json.loads(metadata[_METADATA_KEY])
            version, facts = value["format"], value["facts"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no checkpoint of tleg") from error
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{path} is of version {version}; this tleg reads version {FORMAT_VERSION}")
        return cls(tensors=tensors, facts=facts)


def publish_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically and durably.

    Raises:
        CheckpointError: It cannot be written.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(save(content, dict(metadata)))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: There is no such file, or it is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
