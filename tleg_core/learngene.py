"""The learngene: its tensors, its digest and its file.

A learngene's file is one safetensors file. Its tensors are float32 and those of its design: of a basis `basis.<part>`, shape
(K, ...) for each tensor of a block, and what is outside the blocks under timm's names; of a pool its anchors and stitches.
Its metadata holds one JSON `description`. Reading checks everything (names, shapes, finite values, digest); a file is read into
memory, so that what was checked is what is served.

The digest covers what decides a descendant's weights (format, method, design, tensors), and so not the
provenance and the measured accuracy, which may be added later without changing any model's id.

Shape legend: K components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tleg_core.atomic_file import atomic_file
from tleg_core.canonical import canonical_json, sha256_hex, strict_json
from tleg_core.description import Description
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError, LearngeneDigestError, LearngeneFileError
from tleg_core.tensor_source import Array
from tleg_core.tensorfile import Header, encode_header, parse_header
from tleg_core.vit import Shape

MAX_LEARNGENE_BYTES = 8 * 1024**3
"""Upper limit of a learngene's file: far above ViT-L with K = 64."""

_METADATA_KEY = "tleg.learngene"
_MESSAGE_CHARS = 300  # of what a file says, as an error repeats it: names and values in a broken file may be megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Learngene:
    """A learngene in memory: a description, its tensors by the file's names, and the digest of both."""

    description: Description
    tensors: Mapping[str, Array]
    digest: str
    content: memoryview
    """The bytes of the file."""

    @property
    def name(self) -> str:
        """The learngene's id."""
        return self.description.name

    @property
    def num_params(self) -> int:
        """Parameters stored: what the whole family costs to keep."""
        return sum(tensor.size for tensor in self.tensors.values())

    def basis(self, part: str) -> Array:
        """Return the K components of a block tensor of a basis, shape (K, ...)."""
        return self.tensors[f"basis.{part}"]

    def with_description(self, **changes: Any) -> Learngene:
        """Return this learngene with other provenance, accuracy or name; the digest follows what it covers."""
        return Learngene.create(replace(self.description, **changes), self.tensors)

    @classmethod
    def create(cls, description: Description, tensors: Mapping[str, Array]) -> Learngene:
        """Build a learngene and its file's bytes from tensors.

        Raises:
            LearngeneFileError: A tensor is missing, extra, of another shape or type, or not finite.
        """
        shapes = description.design.tensor_shapes()
        found = {name: tensor.shape for name, tensor in tensors.items()}
        _check_tensors(description.name, shapes, found)
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32:
                raise LearngeneFileError(description.name, f"tensor {name} is {tensor.dtype}, a learngene holds float32 only")
        arrays = {name: np.ascontiguousarray(tensors[name], dtype="<f4") for name in shapes}
        _check_finite(description.name, arrays)
        data = b"".join(array.tobytes() for array in arrays.values())
        digest = _digest(description, memoryview(data))
        text = canonical_json(description.to_json(digest)).decode()
        header = encode_header(shapes.items(), DType.FLOAT32, {"format": "pt", _METADATA_KEY: text})
        return cls.from_bytes(description.name, header + data)

    @classmethod
    def from_bytes(cls, source: str, content: bytes | memoryview) -> Learngene:
        """Read a learngene from its file's bytes; `source` names it in errors.

        Raises:
            LearngeneFileError: Anything about it is not as it must be.
        """
        view = memoryview(content)
        header = parse_header(source, view)
        description, claimed = _read_description(source, header)
        shapes = description.design.tensor_shapes()
        _check_tensors(source, shapes, {name: entry.shape for name, entry in header.entries.items()})
        tensors: dict[str, Array] = {}
        position = 0
        for name, shape in shapes.items():
            entry = header.entries[name]
            if entry.code != DType.FLOAT32.code:
                raise LearngeneFileError(source, f"tensor {name} is {entry.code}, a learngene holds F32 only")
            if entry.start != position:
                raise LearngeneFileError(source, f"tensor {name} is not in a learngene's order")
            position = entry.stop
            start = header.data_start + entry.start
            tensors[name] = np.frombuffer(view, dtype="<f4", count=(entry.stop - entry.start) // 4, offset=start).reshape(shape)
        _check_finite(source, tensors)
        digest = _digest(description, view[header.data_start :])
        if digest != claimed:
            raise LearngeneDigestError(source, f"its content has the digest {digest}, its description says {str(claimed)[:80]}")
        return cls(description=description, tensors=tensors, digest=digest, content=view)

    @classmethod
    def open(cls, path: Path) -> Learngene:
        """Read and check a learngene's file.

        Raises:
            LearngeneFileError: The file cannot be read, or anything about it is not as it must be.
        """
        try:
            if path.stat().st_size > MAX_LEARNGENE_BYTES:
                raise LearngeneFileError(str(path), f"is larger than the limit of {MAX_LEARNGENE_BYTES:,} bytes")
            content = path.read_bytes()
        except OSError as error:
            raise LearngeneFileError(str(path), f"cannot be read: {error.strerror}") from None
        return cls.from_bytes(str(path), content)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            LearngeneFileError: It cannot be written.
        """
        try:
            with atomic_file(path) as file:
                file.write(self.content)
        except OSError as error:
            raise LearngeneFileError(str(path), f"cannot be written: {error.strerror}") from None


def _read_description(source: str, header: Header) -> tuple[Description, object]:
    """Return the description and the digest that it claims."""
    text = header.metadata.get(_METADATA_KEY)
    if "tleg.recipe" in header.metadata:
        raise LearngeneFileError(source, "holds the weights of a descendant; it is no learngene")
    if text is None:
        raise LearngeneFileError(source, "is a safetensors file but no learngene: its metadata has no description")
    try:
        value = strict_json(text)
        if not isinstance(value, dict):
            raise ConfigError("description", "must be an object")
        return Description.from_json(value), value["digest"]
    except ValueError as error:
        raise LearngeneFileError(source, f"its description is not valid JSON: {error}") from None
    except (ConfigError, TypeError) as error:
        raise LearngeneFileError(source, f"its description is not valid: {str(error)[:_MESSAGE_CHARS]}") from None


def _check_tensors(source: str, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raise unless `found` has exactly the expected names and shapes."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        parts = [
            f"{word} {', '.join(names[:5])[:_MESSAGE_CHARS]}"
            for word, names in (("misses", missing), ("has the unknown", extra))
            if names
        ]
        raise LearngeneFileError(source, " and ".join(parts))
    for name, shape in expected.items():
        if found[name] != shape:
            raise LearngeneFileError(source, f"tensor {name} has the shape {found[name]}, not {shape}")


def _check_finite(source: str, tensors: Mapping[str, Array]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise LearngeneFileError(source, f"tensor {name} holds NaN or an infinity")


def _digest(description: Description, data: memoryview) -> str:
    return sha256_hex(canonical_json(description.core_json()), b"\n", data)
