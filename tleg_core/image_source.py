"""Image sources: labelled images that are read when they are asked for, whatever they are kept in. Torch-free.

This is the port; folders, parquet, the data set file and sets in memory implement it. A source is pickled to the processes that
decode for a training run, and opens its files again there.

Shape legend: N images.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tleg_core.errors import ConfigError, PictureError
from tleg_core.image_file import decode_image

_UNREADABLE = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)  # what Pillow raises


class ImageSource(Protocol):
    """Labelled images by row."""

    @property
    def name(self) -> str:
        """The data set's name, as reports print it."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in label order."""
        ...

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of each image, (N,)."""
        ...

    @property
    def run_starts(self) -> npt.NDArray[np.int64] | None:
        """First rows of the runs that can only be read whole, ascending from 0; None where any row is read alone."""
        ...

    def __len__(self) -> int: ...

    def encoded(self, row: int) -> bytes | memoryview:
        """Return one image as it was encoded; raises `PictureError` where it cannot be read."""
        ...

    def picture_name(self, row: int) -> str:
        """Return what an error calls the image."""
        ...

    def digest(self) -> str:
        """Return a sha256, in hex, that identifies the data: a run goes on only with the same."""
        ...


class ImagePart:
    """Some rows of a source, as a source of their own.

    Args:
        source: Where they are.
        rows: Which ones, int64 (N,).
        name: What the part is called.
    """

    def __init__(self, source: ImageSource, rows: npt.NDArray[np.int64], name: str) -> None:
        self._source, self._rows = source, rows
        self.name = name
        self.class_names = source.class_names
        self.labels = source.labels[rows]
        self.run_starts: npt.NDArray[np.int64] | None = None
        if source.run_starts is not None:
            runs = np.searchsorted(source.run_starts, rows, side="right")
            self.run_starts = np.flatnonzero(np.diff(runs, prepend=-1)).astype(np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, row: int) -> bytes | memoryview:
        """Return one image as it was encoded."""
        return self._source.encoded(int(self._rows[row]))

    def picture_name(self, row: int) -> str:
        """Return what the source calls the image."""
        return self._source.picture_name(int(self._rows[row]))

    def digest(self) -> str:
        """Return a sha256 over the source's digest and the rows."""
        return index_digest(self.class_names, self._source.digest().encode(), self._rows)


def read_picture(source: ImageSource, row: int) -> Image.Image:
    """Return an image as RGB, upright as `decode_image` makes it.

    Raises:
        PictureError: It is damaged.
    """
    try:
        return decode_image(source.encoded(row))
    except _UNREADABLE as error:
        raise PictureError(source.picture_name(row), f"is no readable picture: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return what Pillow says, without the address of a buffer in memory."""
    return "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error)


def common_size(source: ImageSource) -> tuple[int, int] | None:
    """Return the width and height that all images have, read from their headers, or None where two differ.

    Raises:
        PictureError: An image is damaged.
    """
    sizes = set()
    for row in range(len(source)):
        try:
            with Image.open(io.BytesIO(source.encoded(row))) as opened:
                sizes.add(opened.size)
        except _UNREADABLE as error:
            raise PictureError(source.picture_name(row), f"is no readable picture: {_reason(error)}") from error
        if len(sizes) > 1:
            return None
    return sizes.pop()


def check_labels(name: str, labels: npt.NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Raise `ConfigError` where a set is empty or a label has no class."""
    if not len(labels):
        raise ConfigError("images", f"{name} holds no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(class_names):
        raise ConfigError("labels", f"run from {low} to {high}, but {name} has {len(class_names)} classes")


def index_digest(class_names: Sequence[str], *parts: bytes | npt.NDArray[np.generic]) -> str:
    """Return a sha256, in hex, over class names and the parts of an index, each with its length."""
    sha = hashlib.sha256(json.dumps(list(class_names)).encode())
    for part in parts:
        content = part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
        sha.update(len(content).to_bytes(8, "big"))
        sha.update(content)
    return sha.hexdigest()
