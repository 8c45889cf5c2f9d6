"""The data set file: validated images as they were encoded, with their labels, in one memory-mapped file. Torch-free.

An Arrow IPC file of uncompressed record batches, so that any row is read without reading another: columns `image`
(struct of `bytes` and `path`, the Hub's convention), `label` and `split`; class names in the schema's `huggingface` metadata.

Shape legend: N images.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tleg_core.atomic_file import atomic_file
from tleg_core.errors import ImageFileError

TRAIN: Final = 0
TEST: Final = 1

_BATCH_ROWS = 1024
_BATCH_BYTES = 32 * 1024**2  # far below the 2 GiB that a column's 32-bit offsets reach
_FIELDS = (
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ("label", pa.int64()),
    ("split", pa.int8()),
)
_SCALE_16_BITS = 1 / 257  # 65535 / 255

_EXIF_ORIENTATION = 0x0112
_TURNS: Final = {  # Exif 2.32, section 4.6.4, tag Orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFileWriter:
    """Writes a data set file; a context manager. The file appears at the end of the block, whole, or not at all.

    Args:
        path: Where it goes.
        class_names: The classes, in label order.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._path = path
        self._class_names = tuple(class_names)
        self._closing = ExitStack()
        self._rows: list[tuple[bytes, str, int, int]] = []
        self._rows_bytes = 0
        self._writer: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            file = opened.enter_context(atomic_file(self._path))
            self._writer = opened.enter_context(pa.ipc.new_file(file, _schema(self._class_names)))
            self._closing = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._closing.__exit__(kind, error, trace)
            return
        with self._closing:
            self._flush()

    def add(self, content: bytes, name: str, label: int, split: int) -> None:
        """Append an image that was validated; rows keep the order of their adding.

        Args:
            content: The image, encoded.
            name: What a person calls it; nothing else uses it.
            label: Index of its class.
            split: TRAIN or TEST.

        Raises:
            ValueError: There is no such class or split.
        """
        if not 0 <= label < len(self._class_names) or split not in (TRAIN, TEST):
            raise ValueError(f"label {label} or split {split} does not exist")
        if self._rows and (len(self._rows) == _BATCH_ROWS or self._rows_bytes + len(content) > _BATCH_BYTES):
            self._flush()
        self._rows.append((content, name, label, split))
        self._rows_bytes += len(content)

    def _flush(self) -> None:
        if not self._rows:
            return
        contents, names, labels, splits = zip(*self._rows, strict=True)
        image = pa.StructArray.from_arrays([pa.array(contents, pa.binary()), pa.array(names, pa.string())], ["bytes", "path"])
        columns = [image, pa.array(labels, pa.int64()), pa.array(splits, pa.int8())]
        self._writer.write_batch(pa.record_batch(columns, schema=_schema(self._class_names)))
        self._rows.clear()
        self._rows_bytes = 0


class ImageFile:
    """A data set file, open for reading in any order.

    Images are as they were uploaded, EXIF orientation and all: `decode_image` turns one upright and makes it RGB, and is what
    training and evaluation read them by. The rows of a stored data set are ordered by split, label and sha256 of their bytes,
    so equal content is trained alike whatever it was packed in.

    Open it by `ImageFile.open`. Processes may share the memory map by forking, or open the path each for themselves, as one
    that it is pickled to does. It is an `ImageSource`.
    """

    run_starts: Final = None  # any row is read alone

    def __init__(self, path: Path, reader: Any) -> None:
        self.path = path
        self.name = path.stem
        self.class_names = _class_names(reader.schema)
        self._batches = [_whole(reader.get_batch(index)) for index in range(reader.num_record_batches)]
        if not self._batches:
            raise ValueError("it holds no images")
        self._contents = [batch.column("image").field("bytes") for batch in self._batches]
        self._names = [batch.column("image").field("path") for batch in self._batches]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)], dtype=np.int64)  # (batches + 1,)
        self.labels: npt.NDArray[np.int64] = np.concatenate(
            [batch.column("label").to_numpy() for batch in self._batches]
        )  # (N,)
        self.splits: npt.NDArray[np.int8] = np.concatenate(
            [batch.column("split").to_numpy() for batch in self._batches]
        )  # (N,)
        if not len(self.labels):
            raise ValueError("it holds no images")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(f"labels run from {self.labels.min()} to {self.labels.max()} in {len(self.class_names)} classes")
        if not np.isin(self.splits, (TRAIN, TEST)).all():
            raise ValueError("a split is neither 0 (train) nor 1 (test)")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a data set file; only its index is read.

        Raises:
            ImageFileError: It is missing, cut short, damaged, or no such file.
        """
        source = Path(path)
        try:
            return cls(source, pa.ipc.open_file(pa.memory_map(str(source))))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise ImageFileError(str(source), f"no data set file, or a damaged one: {error}") from error

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return self.open, (self.path,)

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> memoryview:
        """Return one image as it was uploaded, without copying it; raises IndexError."""
        batch, row = self._place(index)
        return memoryview(self._contents[batch][row].as_buffer())

    def picture_name(self, index: int) -> str:
        """Return what a person calls the image: its path in the upload; raises IndexError."""
        batch, row = self._place(index)
        return str(self._names[batch][row])

    def digest(self) -> str:
        """Return a sha256 over classes, labels, splits and the images' names and sizes, in hex; not over their content."""
        sha = hashlib.sha256(json.dumps(self.class_names).encode())
        sha.update(self.labels.tobytes())
        sha.update(self.splits.tobytes())
        for contents, names in zip(self._contents, self._names, strict=True):
            sha.update(json.dumps([names.to_pylist(), pc.binary_length(contents).to_pylist()]).encode())
        return sha.hexdigest()

    def _place(self, index: int) -> tuple[int, int]:
        """Return the batch of an image, and its row there."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return batch, int(index - self._starts[batch])


def decode_image(content: bytes | memoryview) -> Image.Image:
    """Return an encoded image as RGB, turned as its EXIF orientation says; transparency is dropped, 16 bits become 8.

    Raises:
        OSError, ValueError, SyntaxError: It cannot be decoded (those that are in a data set file can).
    """
    with Image.open(io.BytesIO(content)) as opened:
        image = _upright(opened)
        if image.mode.startswith("I"):  # a 16-bit PNG; Pillow's conversion would cut it off at 255
            image = Image.fromarray(np.rint(np.asarray(image) * _SCALE_16_BITS).clip(0, 255).astype(np.uint8))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # straight to RGB it would warn of the transparency that is dropped
        return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as its EXIF orientation says; one whose EXIF cannot be read stays as it is."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _schema(class_names: Sequence[str]) -> Any:
    features = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    return pa.schema(_FIELDS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _class_names(schema: Any) -> tuple[str, ...]:
    if not schema.equals(pa.schema(_FIELDS), check_metadata=False):
        raise ValueError(f"its columns are {', '.join(f'{field.name}: {field.type}' for field in schema)[:500]}")
    names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are no list of texts")
    return tuple(names)


def _whole(batch: Any) -> Any:
    """Return the record batch if nothing in it points outside of it and no value is missing."""
    batch.validate(full=True)
    image = batch.column("image")
    parts = (image, image.field("bytes"), image.field("path"), batch.column("label"), batch.column("split"))
    if any(part.null_count for part in parts):
        raise ValueError("a value is missing")
    return batch
