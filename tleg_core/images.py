"""Labelled image sets in memory: what training, evaluation and the demo read.

Reads a parquet file in the Hugging Face Hub's image-classification convention, a folder with one folder of pictures a class,
and a folder of gzipped IDX files (MNIST's format); writes parquet. Torch-free. Nothing is streamed: a set must fit in memory,
which small-image sets do; the ImageNet-scale reader is another noun.

Shape legend: N images, H height, W width.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from tleg_core.errors import ConfigError

Split: TypeAlias = Literal["train", "test"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

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
    """Images of one size with their labels.

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

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ConfigError("images", f"must be uint8 (N, H, W, 3), not {self.images.dtype} {self.images.shape}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ConfigError("labels", f"must be int64, one for each image, not {self.labels.dtype} {self.labels.shape}")
        if not len(self.labels):
            raise ConfigError("images", f"{self.name} holds no images")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise ConfigError("labels", f"run from {low} to {high}, but {self.name} has {len(self.class_names)} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    def head(self, count: int) -> ImageSet:
        """Return the first `count` images as a set of the same name and classes."""
        return ImageSet(name=self.name, images=self.images[:count], labels=self.labels[:count], class_names=self.class_names)

    def digest(self) -> str:
        """Return a sha256 over pixels, shape and labels, in hex: two sets with the same digest train alike."""
        sha = hashlib.sha256(json.dumps(self.images.shape).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(np.ascontiguousarray(self.labels).data)
        return sha.hexdigest()


def load_image_set(path: str | Path, *, split: Split = "train", size: int | None = None) -> ImageSet:
    """Read an image set from a parquet file, a folder of class folders, or a folder of gzipped IDX files.

    Args:
        path: The file or folder.
        split: Which part to read where the format has parts: IDX folders, and folders with `train` and `test` inside. A parquet
            file and a plain folder of class folders are one part each, and `split` is not looked at.
        size: Resize every image to this square side, in pixels (bicubic); None keeps the size, which must then be one for all.

    Raises:
        ConfigError: There is nothing to read at `path`, or it is broken, or its images differ in size and `size` is None.
    """
    source = Path(path)
    if source.is_file():
        return _load_parquet(source, size)
    if not source.is_dir():
        raise ConfigError("data", f"{source} does not exist")
    if any(source.glob("*-idx3-ubyte.gz")):
        return _load_idx(source, split, size)
    return _load_folder(source, split, size)


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


def _load_parquet(path: Path, size: int | None) -> ImageSet:
    try:
        table = pq.read_table(path)
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        class_names = tuple(str(name) for name in features["label"]["names"])
        cells, labels = table["image"].to_pylist(), table["label"].to_numpy()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "data", f"{path} is no parquet file in the Hub's convention (image, label, class names): {error}"
        ) from error
    if any(not isinstance(cell, Mapping) or cell.get("bytes") is None for cell in cells):
        raise ConfigError("data", f"{path}: an `image` has no bytes (references to other files are not followed)")
    if labels.dtype != np.int64:
        raise ConfigError("data", f"{path}: `label` must be int64 without gaps, not {labels.dtype}")
    pictures = ((f"{path}, row {row}", io.BytesIO(cell["bytes"])) for row, cell in enumerate(cells))
    return ImageSet(name=path.stem, images=_decode(pictures, size), labels=labels.copy(), class_names=class_names)


def _load_folder(root: Path, split: Split, size: int | None) -> ImageSet:
    part = root / split
    classes_root = part if part.is_dir() else root
    class_folders = sorted(folder for folder in classes_root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    pictures: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(class_folders):
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        pictures += found
        labels += [label] * len(found)
    if not pictures:
        raise ConfigError("data", f"{root} holds neither class folders with JPEG, PNG or WebP files nor IDX files")
    return ImageSet(
        name=f"{root.name}-{split}" if part.is_dir() else root.name,
        images=_decode(((str(file), file) for file in pictures), size),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=tuple(folder.name for folder in class_folders),
    )


def _load_idx(root: Path, split: Split, size: int | None) -> ImageSet:
    stem = _IDX_STEMS[split]
    grey = _read_idx(root / f"{stem}-images-idx3-ubyte.gz", _IDX_IMAGES_MAGIC)  # (N, H, W)
    labels = _read_idx(root / f"{stem}-labels-idx1-ubyte.gz", _IDX_LABELS_MAGIC).astype(np.int64)  # (N,)
    if len(grey) != len(labels):
        raise ConfigError("data", f"{root}: {len(grey)} images but {len(labels)} labels in the {split} part")
    digits = tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
    images = np.repeat(grey[..., None], 3, axis=3)  # (N, H, W, 3)
    if size is not None and images.shape[1:3] != (size, size):
        images = np.stack([_resize(Image.fromarray(image), size) for image in images])
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


def _decode(pictures: Iterable[tuple[str, Path | io.BytesIO]], size: int | None) -> npt.NDArray[np.uint8]:
    """Return the pictures, each with the name that errors call it, as (N, H, W, 3)."""
    arrays: list[npt.NDArray[np.uint8]] = []
    for name, picture in pictures:
        try:
            with Image.open(picture) as opened:
                array = _resize(opened.convert("RGB"), size)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ConfigError("data", f"{name} is no readable picture: {error}") from error
        if arrays and array.shape != arrays[0].shape:
            raise ConfigError(
                "size", f"is needed: {name} is {_side(array.shape)}, the first picture {_side(arrays[0].shape)} pixels"
            )
        arrays.append(array)
    return np.stack(arrays) if arrays else np.empty((0, 1, 1, 3), dtype=np.uint8)


def _resize(image: Image.Image, size: int | None) -> npt.NDArray[np.uint8]:
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _side(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
