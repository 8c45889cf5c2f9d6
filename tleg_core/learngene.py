"""The learngene: its description, its tensors, and its file.

A learngene's file is one safetensors file. Its tensors are float32: the basis, `basis.<part>` of shape (K, ...) for each tensor
of a block, and the tensors outside the blocks under timm's names. Its metadata holds one JSON description. Reading checks
everything (names, shapes, finite values, digest); a file is read into memory, so that what was checked is what is served.

The digest covers what decides a descendant's weights (format, method, schedule, configuration, tensors), and so not the
provenance and the measured accuracy, which may be added later without changing any model's id.

Shape legend: K components.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tleg_core.canonical import Json, canonical_json, sha256_hex
from tleg_core.errors import ConfigError, LearngeneDigestError, LearngeneFileError
from tleg_core.schedule import Polynomial, Schedule, Stagewise, schedule_from_json
from tleg_core.tensorfile import DType, Header, encode_header, parse_header
from tleg_core.vit import MAX_DEPTH, Shape, VitConfig, block_shapes, stem_shapes, tail_shapes

FORMAT_VERSION = 1
MAX_LEARNGENE_BYTES = 8 * 1024**3
"""Upper limit of a learngene's file: far above ViT-L with K = 64."""

Array: TypeAlias = NDArray[np.float32]

_METADATA_KEY = "tleg.learngene"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?!-)){0,61}[a-z0-9]")
"""Names become part of a Hub repository's name, which forbids `--` and a hyphen at either end."""


class Method(StrEnum):
    """The methods whose learngenes are a basis with a schedule."""

    TLEG = "tleg"
    POLYNOMIAL = "polynomial"
    STAGEWISE = "stagewise"

    def allows(self, schedule: Schedule) -> bool:
        """Whether `schedule` is one of this method's."""
        match self:
            case Method.TLEG:
                return schedule == Polynomial(num_components=2)
            case Method.POLYNOMIAL:
                return isinstance(schedule, Polynomial)
            case Method.STAGEWISE:
                return isinstance(schedule, Stagewise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a learngene comes from, in words: enough to make it again, and to know what one may do with it."""

    data_set: str
    ancestry: str
    command: str
    version: str
    licence: str
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input: scaled to 0..1, then `(x - mean) / std` for each channel."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The top-1 accuracy, a fraction, of the member of one depth on so many images of one data set."""

    depth: int
    data_set: str
    top1: float
    images: int

    def __post_init__(self) -> None:
        if not (_is_number(self.top1) and 0.0 <= self.top1 <= 1.0):
            raise ConfigError("accuracy.top1", f"must be a fraction from 0 to 1, not {self.top1!r}")
        if not isinstance(self.images, int) or self.images < 1:
            raise ConfigError("accuracy.images", f"must be at least 1, not {self.images!r}")
        if not isinstance(self.depth, int) or not isinstance(self.data_set, str):
            raise ConfigError("accuracy", "needs a whole depth and the name of a data set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Everything that a learngene's file says of itself beside its tensors.

    Args:
        name: The learngene's id: lower-case letters, digits and single hyphens, 2 to 63 characters.
        method: The method that made it.
        schedule: The rule that gives each layer its coefficients.
        config: The network without its depth.
        min_depth: The smallest depth offered.
        max_depth: The largest depth offered.
        trained_depth: The depth of the auxiliary model, or None where nothing was trained.
        provenance: Data, ancestry model, command, version, licence.
        preprocessing: What the network expects of its input.
        class_names: The labels of the head, in order; may be empty.
        accuracy: The measured accuracy of members.
    """

    name: str
    method: Method
    schedule: Schedule
    config: VitConfig
    min_depth: int = 1
    max_depth: int = 12
    trained_depth: int | None
    provenance: Provenance
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    accuracy: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                "name", f"must be 2 to 63 lower-case letters, digits and single inner hyphens, not {str(self.name)[:80]!r}"
            )
        if not self.method.allows(self.schedule):
            raise ConfigError("schedule", f"{self.schedule} is not one of method {self.method}")
        low = self.schedule.min_depth
        if not (_is_whole(self.min_depth) and _is_whole(self.max_depth) and low <= self.min_depth <= self.max_depth <= MAX_DEPTH):
            raise ConfigError(
                "depths", f"{self.min_depth!r}..{self.max_depth!r} must lie within {low}..{MAX_DEPTH}, the smaller first"
            )
        if self.trained_depth is not None and not (_is_whole(self.trained_depth) and 1 <= self.trained_depth <= MAX_DEPTH):
            raise ConfigError("trained_depth", f"must be from 1 to {MAX_DEPTH}, not {self.trained_depth!r}")
        if self.class_names and len(self.class_names) != self.config.num_classes:
            raise ConfigError("class_names", f"{len(self.class_names)} names for {self.config.num_classes} classes")
        if any(not isinstance(text, str) for text in (*self.class_names, *asdict(self.provenance).values())):
            raise ConfigError("provenance", "its values and the class names must be strings")
        prep = self.preprocessing
        numbers = (*prep.mean, *prep.std, prep.crop_pct)
        if any(not _is_number(number) for number in numbers) or any(number <= 0 for number in (*prep.std, prep.crop_pct)):
            raise ConfigError("preprocessing", "needs finite numbers, std and crop_pct above 0")
        if not len(prep.mean) == len(prep.std) == self.config.in_chans:
            raise ConfigError("preprocessing", f"needs {self.config.in_chans} means and stds, one for each channel")
        if len({(entry.depth, entry.data_set) for entry in self.accuracy}) != len(self.accuracy):
            raise ConfigError("accuracy", "names a member and a data set twice")

    def core_json(self) -> dict[str, Json]:
        """Return the part that decides descendants' weights, which the digest covers."""
        return {
            "format": FORMAT_VERSION,
            "method": self.method.value,
            "schedule": self.schedule.to_json(),
            "config": self.config.to_json(),
        }

    def to_json(self, digest: str) -> dict[str, Json]:
        """Return the whole description as it stands in the file."""
        return self.core_json() | {
            "name": self.name,
            "depths": {"min": self.min_depth, "max": self.max_depth},
            "trained_depth": self.trained_depth,
            "provenance": asdict(self.provenance),
            "preprocessing": asdict(self.preprocessing),
            "class_names": list(self.class_names),
            "accuracy": [asdict(entry) for entry in self.accuracy],
            "digest": digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; a missing, extra or wrong field raises `ConfigError` naming it."""
        known = {"format", "method", "schedule", "config", "name", "depths", "trained_depth", "provenance", "preprocessing"}
        known |= {"class_names", "accuracy", "digest"}
        for name in value.keys() ^ known:
            raise ConfigError(str(name)[:80], "is missing" if name in known else "is not a known field")
        if value["format"] != FORMAT_VERSION:
            raise ConfigError("format", f"is version {value['format']!r}; this version of tleg reads {FORMAT_VERSION}")
        if value["method"] not in set(Method):
            raise ConfigError("method", f"{str(value['method'])[:80]!r} is not one of {', '.join(Method)}")
        depths = _object(value["depths"], "depths", {"min", "max"})
        preprocessing = _object(value["preprocessing"], "preprocessing", {item.name for item in fields(Preprocessing)})
        measured = {item.name for item in fields(Measurement)}
        return cls(
            name=value["name"],
            method=Method(value["method"]),
            schedule=schedule_from_json(value["schedule"]),
            config=VitConfig.from_json(value["config"]),
            min_depth=depths["min"],
            max_depth=depths["max"],
            trained_depth=value["trained_depth"],
            provenance=Provenance(**_object(value["provenance"], "provenance", {item.name for item in fields(Provenance)})),
            preprocessing=Preprocessing(
                mean=tuple(_list(preprocessing["mean"], "preprocessing.mean")),
                std=tuple(_list(preprocessing["std"], "preprocessing.std")),
                interpolation=str(preprocessing["interpolation"]),
                crop_pct=preprocessing["crop_pct"],
            ),
            class_names=tuple(_list(value["class_names"], "class_names")),
            accuracy=tuple(
                Measurement(**_object(entry, "accuracy", measured)) for entry in _list(value["accuracy"], "accuracy")
            ),
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _object(value: object, name: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise ConfigError(name, f"must be an object with exactly {', '.join(sorted(keys))}")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(name, "must be a list")
    return value


def learngene_shapes(config: VitConfig, num_components: int) -> dict[str, Shape]:
    """Return every tensor of a learngene's file with its shape, in the file's order."""
    basis = {f"basis.{part}": (num_components, *shape) for part, shape in block_shapes(config).items()}
    return stem_shapes(config) | basis | tail_shapes(config)


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
        """Return the K components of a block tensor, shape (K, ...)."""
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
        shapes = learngene_shapes(description.config, description.schedule.num_components)
        found = {name: tensor.shape for name, tensor in tensors.items()}
        _check_tensors(description.name, shapes, found)
        arrays = {name: np.ascontiguousarray(tensors[name], dtype="<f4") for name in shapes}
        _check_finite(description.name, arrays)
        data = b"".join(memoryview(array).cast("B") for array in arrays.values())
        digest = _digest(description, memoryview(data))
        text = canonical_json(description.to_json(digest)).decode()
        header = encode_header(shapes.items(), DType.FLOAT32, {"format": "pt", _METADATA_KEY: text})
        return cls.from_bytes(description.name, header + data)

    @classmethod
    def from_bytes(cls, source: str, content: bytes) -> Learngene:
        """Read a learngene from its file's bytes; `source` names it in errors.

        Raises:
            LearngeneFileError: Anything about it is not as it must be.
        """
        view = memoryview(content)
        header = parse_header(source, view)
        description, claimed = _read_description(source, header)
        shapes = learngene_shapes(description.config, description.schedule.num_components)
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
        """Write the file whole or not at all: to a temporary neighbour, flushed to the disk, then renamed.

        Raises:
            LearngeneFileError: It cannot be written.
        """
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                temporary = Path(file.name)
                file.write(self.content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise LearngeneFileError(str(path), f"cannot be written: {error.strerror}") from None


def _read_description(source: str, header: Header) -> tuple[Description, object]:
    """Return the description and the digest that it claims."""
    text = header.metadata.get(_METADATA_KEY)
    if text is None:
        raise LearngeneFileError(source, "is a safetensors file but no learngene: its metadata has no description")
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ConfigError("description", "must be an object")
        return Description.from_json(value), value["digest"]
    except (ValueError, RecursionError) as error:
        raise LearngeneFileError(source, f"its description is not valid JSON: {error}") from None
    except (ConfigError, TypeError) as error:
        raise LearngeneFileError(source, f"its description is not valid: {error}") from None


def _check_tensors(source: str, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raise unless `found` has exactly the expected names and shapes."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        parts = [f"{word} {', '.join(names[:5])}" for word, names in (("misses", missing), ("has the unknown", extra)) if names]
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
