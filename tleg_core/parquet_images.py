"""Images in parquet files in the Hugging Face Hub's image-classification convention, read by row group. Torch-free.

One file, or a folder's shards (`train-00000-of-00010.parquet`, …, in it or in its `data`). A row group can only be read whole:
those that were read last are kept, up to a bound, and a larger set says where its groups begin, so that it is read in an order
that suits them.

Shape legend: N images.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tleg_core.errors import ConfigError, PictureError
from tleg_core.image_source import check_labels, index_digest

KEPT_BYTES: Final = 256 * 1024**2
"""Row groups that are kept, in bytes, by each process that reads. A set that is not larger is read in any order."""

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_UNREADABLE = (OSError, KeyError, TypeError, ValueError, IndexError, pa.ArrowException)


class ParquetImages:
    """Parquet files, in the order given.

    Args:
        paths: The files; all of the same classes.
        name: What the data set is called.
        kept_bytes: Row groups that are kept, in bytes; one is, however large.

    Raises:
        ConfigError: A file is broken or not in the convention, or two of them have other classes.
    """

    def __init__(self, paths: Sequence[Path], name: str, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._paths, self.name, self._kept_bytes = tuple(paths), name, kept_bytes
        shards = [_Shard(path) for path in self._paths]
        self.class_names = shards[0].class_names
        for shard in shards:
            if shard.class_names != self.class_names:
                raise ConfigError("data", f"{shard.path} has other classes than {shards[0].path}")
        self.labels: npt.NDArray[np.int64] = np.concatenate([shard.labels for shard in shards])  # (N,)
        check_labels(name, self.labels, self.class_names)
        self._groups = [(number, group) for number, shard in enumerate(shards) for group in range(len(shard.group_rows))]
        rows = np.concatenate([shard.group_rows for shard in shards])
        self._starts = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)  # (groups,)
        self._sizes = np.concatenate([shard.group_bytes for shard in shards])  # (groups,)
        self._footers = b"".join(shard.footer for shard in shards)
        self.run_starts = self._starts if self._sizes.sum() > kept_bytes and len(self._groups) > 1 else None
        self._prepare_reading()

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_kept", "_reading", "_files")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare_reading()

    def encoded(self, row: int) -> memoryview:
        """Return one image as it was encoded; raises `PictureError` where its file has none."""
        group, place = self._place(row)
        content = self._contents(group)[place]
        if not content.is_valid:
            raise PictureError(self.picture_name(row), "has no bytes: references to other files are not followed")
        return memoryview(content.as_buffer())

    def picture_name(self, row: int) -> str:
        """Return the file, and the image's row in it."""
        shard, _ = self._groups[self._place(row)[0]]
        first = next(index for index, (number, _) in enumerate(self._groups) if number == shard)
        return f"{self._paths[shard]}, row {row - int(self._starts[first])}"

    def digest(self) -> str:
        """Return a sha256 over the classes, the labels and the files' footers: sizes, places and statistics of all pages."""
        return index_digest(self.class_names, self._footers, self.labels)

    def _prepare_reading(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._files: dict[int, Any] = {}
        self._reading = threading.Lock()

    def _place(self, row: int) -> tuple[int, int]:
        """Return the group of an image, and its row there."""
        if not 0 <= row < len(self):
            raise IndexError(f"image {row} of {len(self)}")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, int(row - self._starts[group])

    def _contents(self, group: int) -> Any:
        """Return a group's images, a chunked array of bytes."""
        with self._reading:
            contents = self._kept.get(group)
            if contents is None:
                self._kept[group] = contents = self._read(group)
                while len(self._kept) > 1 and sum(int(self._sizes[kept]) for kept in self._kept) > self._kept_bytes:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return contents

    def _read(self, group: int) -> Any:
        shard, number = self._groups[group]
        try:
            if shard not in self._files:
                self._files.clear()  # a set may have more files than a process may open
                self._files[shard] = pq.ParquetFile(self._paths[shard], memory_map=True)
            file = self._files[shard]
            column = _column(file.schema_arrow, _IMAGE_COLUMNS)
            images = file.read_row_group(number, columns=[column], use_threads=False).column(column)
            return _bytes_of(images)
        except _UNREADABLE as error:
            raise ConfigError("data", f"{self._paths[shard]} cannot be read: {error}") from error


class _Shard:
    """What is known of a file before an image is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = pq.ParquetFile(path, memory_map=True)
            schema, metadata = file.schema_arrow, file.metadata
            image, label = _column(schema, _IMAGE_COLUMNS), _column(schema, _LABEL_COLUMNS)
            names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
            self.class_names = tuple(str(name) for name in names)
            labels = file.read(columns=[label], use_threads=False)[label].to_numpy()
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            self.group_rows = np.array([group.num_rows for group in groups], dtype=np.int64)
            self.group_bytes = np.array([_image_bytes(group, image) for group in groups], dtype=np.int64)
            self.footer = _footer(path)
        except _UNREADABLE as error:
            raise ConfigError(
                "data", f"{path} is no parquet file in the Hub's convention (image, label, class names): {error}"
            ) from error
        if labels.dtype != np.int64:
            raise ConfigError("data", f"{path}: `{label}` must be int64 without gaps, not {labels.dtype}")
        self.labels: npt.NDArray[np.int64] = labels.copy()


def parquet_shards(folder: Path, splits: Sequence[str]) -> list[Path]:
    """Return the parquet files of a folder, or of its `data`, that belong to the first of `splits` that has any.

    A file belongs to a split whose name its own begins with, before a hyphen, a point or its end.
    """
    for place in (folder, folder / "data"):
        files = sorted(place.glob("*.parquet"))
        for split in splits:
            own = [file for file in files if file.name.startswith((f"{split}-", f"{split}."))]
            if own:
                return own
    return []


def _column(schema: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise ValueError(f"it has no column {' or '.join(names)}, but {', '.join(schema.names[:20])}")


def _bytes_of(images: Any) -> Any:
    """Return a column of images as a chunked array of bytes."""
    if pa.types.is_struct(images.type):
        fields = [field.name for field in images.type]
        images = images.flatten()[fields.index("bytes")]
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise ValueError(f"its images are {str(images.type)[:200]}, and not bytes")
    return images


def _image_bytes(group: Any, column: str) -> int:
    """Return the unpacked size of a row group's image column."""
    parts = (group.column(index) for index in range(group.num_columns))
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] == column)


def _footer(path: Path) -> bytes:
    """Return a parquet file's footer: its length stands before the last 4 bytes (https://parquet.apache.org/docs/file-format/)."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        return file.read(length)
