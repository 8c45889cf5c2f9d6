"""Labelled image sets: one in memory, and what a path holds, read whole or when asked for. Torch-free.

Reads parquet in the Hugging Face Hub's image-classification convention, one file or a folder of shards; a folder with one
folder of pictures a class; a data set file; and a folder of gzipped IDX files (MNIST's format). Writes parquet.

Shape legend: N images, H height, W width.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tleg_core.errors import ConfigError, ImageFileError
from tleg_core.image_file import TEST, TRAIN, ImageFile
from tleg_core.image_folder import ImageFolder, class_folders
from tleg_core.image_source import ImagePart, ImageSource, check_labels, common_size, read_picture
from tleg_core.memory import memory_bytes
from tleg_core.parquet_images import ParquetImages, parquet_shards

Split: TypeAlias = Literal["train", "test"]

_KEPT_SHARE = 0.5
"""Of the machine's memory: a set whose pixels take more is not read whole."""

_SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}
_DATA_FILE_SUFFIX = ".arrow"

_IDX_STEMS: Mapping[Split, str] = {"train": "train", "test": "t10k"}
_IDX_IMAGES_MAGIC = 0x0803  # unsigned bytes, three axes (http://yann.lecun.com/exdb/mnist/)
_IDX_LABELS_MAGIC = 0x0801  # unsigned bytes, one axis

_IDX_CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    # IDX files carry no names; these are the data set's own (https://github.com/zalandoresearch/fashion-mnist, "Labels").
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images of one size with their labels, in memory. It is an `ImageSource` too.

    Args:
        name: The data set's name, as reports print it.
        images: RGB pixels, uint8 (N, H, W, 3).
        labels: Class of each image, int64 (N,), each in 0..len(class_names) - 1.
        class_names: The classes, in label order.

    Raises:
        ConfigError: The set is empty, or shapes, types or labels contradict each other.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    run_starts: ClassVar[None] = None  # any row is read alone

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ConfigError("images", f"must be uint8 (N, H, W, 3), not {self.images.dtype} {self.images.shape}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ConfigError("labels", f"must be int64, one for each image, not {self.labels.dtype} {self.labels.shape}")
        check_labels(self.name, self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    def head(self, count: int) -> ImageSet:
        """Return the first `count` images as a set of the same name and classes."""
        return ImageSet(name=self.name, images=self.images[:count], labels=self.labels[:count], class_names=self.class_names)

    def encoded(self, row: int) -> bytes:
        """Return an image as a binary PPM (https://netpbm.sourceforge.net/doc/ppm.html): a header and its pixels."""
        height, width, _ = self.images[row].shape
        pixels: bytes = self.images[row].tobytes()
        return b"P6 %d %d 255\n" % (width, height) + pixels

    def picture_name(self, row: int) -> str:
        """Return the set's name and the row."""
        return f"{self.name}, row {row}"

    def digest(self) -> str:
        """Return a sha256 over pixels, shape and labels, in hex: two sets with the same digest train alike."""
        sha = hashlib.sha256(json.dumps(self.images.shape).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(np.ascontiguousarray(self.labels).data)
        return sha.hexdigest()


def open_images(path: str | Path, *, split: Split = "train") -> ImageSource:
    """Return the images at a path, to be read when they are asked for; only their index is read, once.

    Args:
        path: A parquet file; a folder of parquet shards, of class folders or of gzipped IDX files; or a data set file.
        split: Which part to read where there are parts: shards are told by the beginning of their names, class folders by
            lying in a folder (`train`; `test`, `val` or `validation`). A parquet file and a plain folder of class folders are
            one part each, and `split` is not looked at.

    Raises:
        ConfigError: There is nothing to read at `path`, or it is broken.
    """
    source = Path(path)
    if source.is_file():
        return _part_of_file(source, split) if source.suffix == _DATA_FILE_SUFFIX else ParquetImages([source], source.stem)
    if not source.is_dir():
        raise ConfigError("data", f"{source} does not exist")
    if any(source.glob("*-idx3-ubyte.gz")):
        return _load_idx(source, split)
    shards = parquet_shards(source, _SPLIT_NAMES[split])
    if shards:
        return ParquetImages(shards, f"{source.name}-{split}")
    part = _split_folder(source, split)
    if not class_folders(part):
        raise ConfigError("data", f"{source} holds neither class folders with JPEG, PNG or WebP files nor IDX or parquet files")
    return ImageFolder(part, source.name if part == source else f"{source.name}-{split}")


def read_images(
    path: str | Path, *, split: Split = "train", side: int, processes: int = 1, kept_bytes: int | None = None
) -> ImageSource:
    """Return the images at a path as training wants them: an `ImageSet` where that fits, else what reads them when asked for.

    Args:
        path: As `open_images` takes it.
        split: As `open_images` takes it.
        side: Side of the network's input, in pixels: images that differ in size will be brought to it.
        processes: Those that read them on this machine, each into memory of its own.
        kept_bytes: Memory that pixels may take; by default half of the machine's, shared by the processes.

    Raises:
        ConfigError: There is nothing to read at `path`, or it is broken.
    """
    source = open_images(path, split=split)
    limit = int(memory_bytes() * _KEPT_SHARE / processes) if kept_bytes is None else kept_bytes
    if isinstance(source, ImageSet) or 3 * len(source) * side**2 > limit:
        return source
    size = common_size(source)
    if size is None or 3 * len(source) * size[0] * size[1] > limit:
        return source
    return _decoded(source, None)


def load_image_set(path: str | Path, *, split: Split = "train", size: int | None = None) -> ImageSet:
    """Return the images at a path, all of them, decoded.

    Args:
        path: As `open_images` takes it.
        split: As `open_images` takes it.
        size: Resize every image to this square side, in pixels (bicubic); None keeps the size, which must then be one for all.

    Raises:
        ConfigError: There is nothing to read at `path`, or it is broken, or it does not fit the memory, or its images differ in
            size and `size` is None.
    """
    return _decoded(open_images(path, split=split), size)


def save_parquet(image_set: ImageSet, path: str | Path) -> None:
    """Write `image_set` as parquet in the Hub's convention, its images as PNG (lossless)."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(image_set.class_names), "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"bytes": _encode_png(image), "path": f"{index:06}.png"} for index, image in enumerate(image_set.images)]
    table = pa.table({"image": rows, "label": image_set.labels}, schema=schema)
    pq.write_table(table, path, compression="zstd")


def _encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return one (H, W, 3) image as PNG, in grey where its channels are equal."""
    grey = bool((image == image[:, :, :1]).all())
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if grey else image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _part_of_file(path: Path, split: Split) -> ImageSource:
    """Return the part of a data set file."""
    try:
        file = ImageFile.open(path)
    except ImageFileError as error:
        raise ConfigError("data", str(error)) from error
    rows = np.flatnonzero(file.splits == (TRAIN if split == "train" else TEST)).astype(np.int64)
    if not len(rows):
        raise ConfigError("data", f"{path} has no images to {split}")
    return ImagePart(file, rows, f"{path.stem}-{split}")


def _split_folder(root: Path, split: Split) -> Path:
    """Return where the class folders of a part lie: in a folder named after it, or else in `root` itself."""
    named = {name: root / name for names in _SPLIT_NAMES.values() for name in names}
    parts = {name: folder for name, folder in named.items() if folder.is_dir() and class_folders(folder)}
    for name in _SPLIT_NAMES[split]:
        if name in parts:
            return parts[name]
    if parts:
        raise ConfigError("data", f"{root} has {' and '.join(sorted(parts))}, but no part to {split}")
    return root


def _load_idx(root: Path, split: Split) -> ImageSet:
    stem = _IDX_STEMS[split]
    grey = _read_idx(root / f"{stem}-images-idx3-ubyte.gz", _IDX_IMAGES_MAGIC)  # (N, H, W)
    labels = _read_idx(root / f"{stem}-labels-idx1-ubyte.gz", _IDX_LABELS_MAGIC).astype(np.int64)  # (N,)
    if len(grey) != len(labels):
        raise ConfigError("data", f"{root}: {len(grey)} images but {len(labels)} labels in the {split} part")
    digits = tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
    images = np.repeat(grey[..., None], 3, axis=3)  # (N, H, W, 3)
    class_names = _IDX_CLASS_NAMES.get(root.name, digits)
    return ImageSet(name=f"{root.name}-{split}", images=images, labels=labels, class_names=class_names)


def _read_idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    num_axes = magic & 0xFF
    try:
        raw = gzip.decompress(path.read_bytes())
        found_magic, *shape = struct.unpack_from(f">{1 + num_axes}I", raw)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise ConfigError("data", f"{path} cannot be read: {error}") from error
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 * (1 + num_axes))
    if found_magic != magic or values.size != int(np.prod(shape)):
        raise ConfigError("data", f"{path} is no IDX file of bytes with {num_axes} axes, or is cut short")
    return values.reshape(shape)


def _decoded(source: ImageSource, size: int | None) -> ImageSet:
    """Return a source as a set in memory, decoded in threads (Pillow lets others run meanwhile)."""
    if isinstance(source, ImageSet) and (size is None or source.images.shape[1:3] == (size, size)):
        return source
    first = _resized(source, 0, size)
    needed, available = first.nbytes * len(source), memory_bytes()
    if needed > available:
        raise ConfigError(
            "data", f"{source.name} takes {needed / 2**30:.1f} GiB when decoded, and the memory is {available / 2**30:.1f} GiB"
        )
    images = np.empty((len(source), *first.shape), dtype=np.uint8)  # (N, H, W, 3)

    def decode(row: int) -> None:
        array = _resized(source, row, size)
        if array.shape != first.shape:
            sides = f"{_side(array.shape)}, the first picture {_side(first.shape)} pixels"
            raise ConfigError("size", f"is needed: {source.picture_name(row)} is {sides}")
        images[row] = array

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode") as threads:
        decoding = threads.map(decode, range(len(source)))
        try:
            for _ in decoding:
                pass
        except ConfigError:
            threads.shutdown(cancel_futures=True)
            raise
    return ImageSet(name=source.name, images=images, labels=source.labels, class_names=source.class_names)


def _resized(source: ImageSource, row: int, size: int | None) -> npt.NDArray[np.uint8]:
    image = read_picture(source, row)
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _side(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
