"""Accepted images on the disk until all are known, and then in their order: by split, label and sha256.

Shape legend: N images.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from service.ingest.candidate import Placement
from service.ingest.picture import Picture
from tleg_core.image_file import TRAIN, ImageFileWriter

_DIGEST_BYTES = 32
_DIGEST_VERSION = "tleg-dataset-1"
_BUFFER_BYTES = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written of the images in the spool.

    Args:
        digest: sha256 of the content, in hex.
        train_counts: Training images of each class.
        test_counts: Test images of each class.
        size_bytes: Bytes of the images.
        min_side: Smallest side, in pixels.
        max_side: Largest side, in pixels.
        formats: Images by format.
        without_class: Images that have no class and were left out.
        examples: Names of a few of those.
    """

    digest: str
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    size_bytes: int
    min_side: int
    max_side: int
    formats: dict[str, int]
    without_class: int
    examples: tuple[str, ...]


class Spool:
    """Accepted images, one after the other in a file; a context manager, which deletes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b", buffering=_BUFFER_BYTES)
        self._end = 0
        self._digests = bytearray()  # (N, 32)
        self._groups = array("q")  # (N,)
        self._offsets = array("q")  # (N,)
        self._sizes = array("q")  # (N,) of the image; its name follows it
        self._name_sizes = array("H")  # (N,)
        self._sides = array("I")  # (N, 2) smaller, larger
        self._formats: list[str] = []
        self._format_of = array("B")  # (N,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, picture: Picture, name: str, group: int) -> None:
        """Append an image."""
        encoded = name.encode()
        self._file.write(picture.content)
        self._file.write(encoded)
        self._digests += hashlib.sha256(picture.content).digest()
        self._groups.append(group)
        self._offsets.append(self._end)
        self._sizes.append(len(picture.content))
        self._name_sizes.append(len(encoded))
        self._sides.extend(sorted((picture.width, picture.height)))
        if picture.format not in self._formats:
            self._formats.append(picture.format)
        self._format_of.append(self._formats.index(picture.format))
        self._end += len(picture.content) + len(encoded)

    def groups(self) -> frozenset[int]:
        """Return the groups that have images."""
        return frozenset(np.unique(np.asarray(self._groups)).tolist())

    def train_classes(self, placement: Placement) -> list[str]:
        """Return the names of the classes that have training images."""
        labels, splits = self._places(placement)
        return [placement.class_names[label] for label in np.unique(labels[(labels >= 0) & (splits == TRAIN)])]

    def write(self, target: Path, placement: Placement, *, shown: int) -> Written:
        """Write the data set file, and return what is in it; raises OSError."""
        labels, splits = self._places(placement)
        kept = np.flatnonzero(labels >= 0)
        digests = np.frombuffer(bytes(self._digests), dtype=">u8").reshape(-1, _DIGEST_BYTES // 8)  # (N, 4)
        keys = (*(digests[kept, column] for column in (3, 2, 1, 0)), labels[kept], splits[kept])  # the last decides first
        order = kept[np.lexsort(keys)]
        content = hashlib.sha256(f"{_DIGEST_VERSION}\n{json.dumps(placement.class_names)}\n".encode())
        self._file.flush()
        with ImageFileWriter(target, placement.class_names) as writer:
            for index, image, name in self._read(order):
                label, split = int(labels[index]), int(splits[index])
                writer.add(image, name, label, split)
                content.update(label.to_bytes(4, "little") + bytes([split]))
                content.update(self._digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES])
        sides = np.asarray(self._sides).reshape(-1, 2)[order]
        counted = Counter(np.asarray(self._format_of)[order].tolist())
        left_out = np.flatnonzero(labels < 0)
        return Written(
            digest=content.hexdigest(),
            train_counts=_counts(labels, splits == TRAIN, len(placement.class_names)),
            test_counts=_counts(labels, splits != TRAIN, len(placement.class_names)),
            size_bytes=int(np.asarray(self._sizes)[order].sum()),
            min_side=int(sides[:, 0].min(initial=np.iinfo(np.int32).max)) if len(sides) else 0,
            max_side=int(sides[:, 1].max(initial=0)),
            formats={self._formats[number]: count for number, count in sorted(counted.items())},
            without_class=len(left_out),
            examples=tuple(name for _, _, name in self._read(left_out[:shown])),
        )

    def _places(self, placement: Placement) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Return labels (N,), -1 for none, and splits (N,)."""
        groups = np.asarray(self._groups, dtype=np.int64)
        known, positions = np.unique(groups, return_inverse=True)
        places = [placement.places.get(group, (-1, TRAIN)) for group in known.tolist()]
        labels = np.asarray([label for label, _ in places], dtype=np.int64)[positions]
        splits = np.asarray([split for _, split in places], dtype=np.int8)[positions]
        return labels, splits

    def _read(self, order: npt.NDArray[np.int64]) -> Iterator[tuple[int, bytes, str]]:
        """Yield index, image and name."""
        descriptor = self._file.fileno()
        for index in order.tolist():
            size = self._sizes[index]
            content = os.pread(descriptor, size + self._name_sizes[index], self._offsets[index])
            yield index, content[:size], content[size:].decode()


def _counts(labels: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_], classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels[chosen & (labels >= 0)], minlength=classes).tolist())
