"""A parquet file in the Hub's image-classification convention: a column of images and one of labels.

Read by few rows at a time, whatever the size of its row groups.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from service.domain.errors import DatasetRefusedError
from service.ingest.archive_path import check_class_names
from service.ingest.candidate import HEAD_BYTES, Candidate, Placement, printable
from service.ingest.limits import MAX_CLASSES, Limits
from service.ingest.picture import Reason
from tleg_core.image_file import TRAIN

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_BATCH_BYTES = 16 * 1024**2
_MAX_BATCH_ROWS = 256
_BUFFER_BYTES: Final = 1024**2
_NONE: Final = -1


class HubParquet:
    """A parquet file in the Hub's convention; all of it is the training split."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._limits = limits
        self._size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, self._size - 4))
            if self._size < 12 or file.read() != b"PAR1":
                raise DatasetRefusedError("the parquet is cut short: its end is not there")
        self._groups: dict[int | str, int] = {}
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES, memory_map=False)
            schema = self._file.schema_arrow
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise _unreadable(error) from error
        self._image, self._label = _column(schema, _IMAGE_COLUMNS), _column(schema, _LABEL_COLUMNS)
        self._check_types(schema)
        self._class_names = _class_names(schema, self._label)
        self._check_size()

    def candidates(self) -> Iterator[Candidate]:
        """Yield what may be images, in the file's order."""
        metadata = self._file.metadata
        row_bytes = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
        rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes // max(1, metadata.num_rows))))
        columns = [self._image, self._label]
        try:
            row, unpacked = 0, 0
            for batch in self._file.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                batch.validate(full=True)
                contents, paths = _contents(batch.column(self._image))
                labels = batch.column(self._label)
                labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
                for content, path, label in zip(contents, paths, labels, strict=True):
                    candidate = self._candidate(row, content.as_buffer() if content.is_valid else None, path, label.as_py())
                    unpacked += candidate.size_bytes
                    self._check_unpacked(unpacked)
                    yield candidate
                    row += 1
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise _unreadable(error) from error

    def placement(self, groups: Collection[int]) -> Placement:
        """Return the classes: those that the file names, or else the labels that have images."""
        labels = {number: label for label, number in self._groups.items() if number in groups}
        if self._class_names is not None:
            places = {number: (int(label), TRAIN) for number, label in labels.items()}
            return Placement(class_names=self._class_names, places=places)
        order = sorted(labels.values())
        names = check_class_names([str(label) for label in order])
        positions = {label: position for position, label in enumerate(order)}
        return Placement(class_names=names, places={number: (positions[label], TRAIN) for number, label in labels.items()})

    def close(self) -> None:
        """Let go of the file."""
        self._file.close(force=True)

    def _candidate(self, row: int, content: Any, path: Any, label: Any) -> Candidate:
        named = str(path) if path else f"row {row}"
        head = b"" if content is None else bytes(memoryview(content)[:HEAD_BYTES])
        missing = Reason.NO_IMAGE if content is None else Reason.NO_LABEL if label in (None, _NONE) else None
        return Candidate(
            name=printable(named),
            group=-1 if missing is Reason.NO_LABEL or label in (None, _NONE) else self._group(row, label),
            size_bytes=0 if content is None else content.size,
            head=head,
            read=lambda: bytes(memoryview(content)),
            missing=missing,
        )

    def _group(self, row: int, label: int | str) -> int:
        if self._class_names is not None and not (isinstance(label, int) and 0 <= label < len(self._class_names)):
            raise DatasetRefusedError(f"row {row:,} has the label {label!r}, and there are {len(self._class_names):,} classes")
        number = self._groups.setdefault(label, len(self._groups))
        if number >= MAX_CLASSES:
            raise DatasetRefusedError(f"there are more than {MAX_CLASSES:,} classes", limit=MAX_CLASSES)
        return number

    def _check_types(self, schema: Any) -> None:
        image, label = schema.field(self._image).type, schema.field(self._label).type
        held = image.field("bytes").type if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 else image
        if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
            raise DatasetRefusedError(f"the column {self._image!r} must be a struct of bytes and path, not {str(image)[:200]}")
        value = label.value_type if pa.types.is_dictionary(label) else label
        if not (pa.types.is_integer(value) or pa.types.is_string(value) or pa.types.is_large_string(value)):
            raise DatasetRefusedError(f"the column {self._label!r} must hold integers or texts, not {str(label)[:200]}")

    def _check_size(self) -> None:
        metadata, limits = self._file.metadata, self._limits
        if metadata.num_rows > limits.max_images:
            raise DatasetRefusedError(
                f"the parquet has {metadata.num_rows:,} rows; at most {limits.max_images:,} images can be",
                limit=limits.max_images,
            )
        if metadata.num_rows == 0:
            raise DatasetRefusedError("the parquet is empty")
        self._check_unpacked(sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)))

    def _check_unpacked(self, unpacked: int) -> None:
        limit = self._limits.max_unpacked_bytes
        if unpacked > limit:
            raise DatasetRefusedError(f"the parquet holds more than {limit:,} bytes, unpacked", limit=limit)
        if self._limits.is_bomb(unpacked, self._size):
            raise DatasetRefusedError(
                f"the parquet of {self._size:,} bytes becomes {unpacked:,} or more; images cannot be packed so small"
            )


def _column(schema: Any, names: tuple[str, ...]) -> str:
    found = [name for name in names if len(schema.get_all_field_indices(name)) == 1]
    if not found:
        columns = ", ".join(printable(name, 50) for name in schema.names[:20])
        raise DatasetRefusedError(f"the parquet has no column {' or '.join(map(repr, names))}; it has {columns or 'none'}")
    return found[0]


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Return the names that the Hub's metadata gives the labels, or None where it gives none."""
    if not pa.types.is_integer(schema.field(label).type):
        return None
    try:
        feature = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"][label]
        names = feature["names"] if isinstance(feature, Mapping) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetRefusedError("the parquet's class names are no list of texts")
    return check_class_names(names)


def _contents(column: Any) -> tuple[Any, list[str | None]]:
    """Return the images' bytes and paths, null where there are none."""
    nameless: list[str | None] = [None] * len(column)
    if not pa.types.is_struct(column.type):
        return column, nameless
    parts = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    path = parts.get("path")
    return parts["bytes"], path.to_pylist() if path is not None and pa.types.is_string(path.type) else nameless


def _unreadable(error: BaseException) -> DatasetRefusedError:
    return DatasetRefusedError(f"the parquet is damaged: {printable(str(error), 300)}")
