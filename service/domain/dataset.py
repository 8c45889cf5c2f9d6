"""The data set: an image classification set as the service records it.

It is content-addressed: the id follows from class names, labels, split and image bytes, not from the container that they came
in. The images lie in the object store as one Arrow IPC file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from service.domain.errors import UnreadableRecordError

RECORD_VERSION = 1
_DATASET_ID = re.compile(r"ds-[0-9a-f]{32}")


def is_dataset_id(text: str) -> bool:
    """Whether `text` has the form of a data set's id."""
    return _DATASET_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One data set.

    Args:
        id: `ds-` and 32 hex digits of the content's sha256.
        name: What the user calls it; for display only.
        class_names: The classes, in label order.
        train_counts: Training images of each class.
        test_counts: Images of each class in the upload's own test split; all 0 where it has none.
        size_bytes: Bytes of all images.
        min_side: Smallest side of an image, in pixels.
        max_side: Largest side of an image, in pixels.
        formats: Images by format: `JPEG`, `PNG`, `WEBP`.
        refused: Images that were left out, by reason.
        refused_examples: A few of them, as (name, reason).
        object_key: Where the Arrow file lies.
    """

    id: str
    name: str
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    size_bytes: int
    min_side: int
    max_side: int
    formats: Mapping[str, int]
    refused: Mapping[str, int]
    refused_examples: tuple[tuple[str, str], ...]
    object_key: str

    @property
    def num_train(self) -> int:
        """Training images."""
        return sum(self.train_counts)

    @property
    def num_test(self) -> int:
        """Images of the upload's own test split."""
        return sum(self.test_counts)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is stored."""
        return asdict(self) | {"version": RECORD_VERSION}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read a stored record; raises `UnreadableRecordError` where it is damaged or of another version."""
        try:
            fields = dict(value)
            version = fields.pop("version")
            if version != RECORD_VERSION:
                raise UnreadableRecordError(f"it is of version {version}")
            for name in ("class_names", "train_counts", "test_counts"):
                fields[name] = tuple(fields[name])
            fields["refused_examples"] = tuple((str(name), str(reason)) for name, reason in fields["refused_examples"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableRecordError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDataset:
    """A data set as it stands in the store: with its time of creation."""

    dataset: Dataset
    created_at: datetime
