"""The data sets of a comparison, decoded once, in arrays that every process maps into its memory.

Each part lies in a folder `data` as `<digest>.npy` and `<digest>.json` (labels and names). Which digest a source has is kept
by its path, size and time, so that a comparison that goes on decodes nothing again.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tleg_core.atomic_file import atomic_file
from tleg_core.canonical import canonical_json, sha256_hex
from tleg_core.comparison.config import DataSource
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet, Split, load_image_set

_DRAW = 0  # seed of the choice of a limited number of images, and of those held back
_INDEX = "index.json"
_SHIPPED = "shipped:"
_SHIPPED_FOLDER = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a data set as the plan knows it: a digest of its pixels, labels and class names, and its size."""

    digest: str
    images: int
    classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Both parts of a data set."""

    train: Part
    test: Part


class ImageStore:
    """Data sets in a folder.

    Args:
        folder: Where the arrays lie; made where it is missing.
        reading: Is told the path and the part of what is decoded, before it is: that takes a while.
    """

    def __init__(self, folder: Path, reading: Callable[[str, Split], None] = lambda _path, _split: None) -> None:
        self._folder, self._reading = folder, reading
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, source: DataSource, img_size: int) -> Parts:
        """Store both parts of a source, resized to `img_size`, and return what they are.

        Raises:
            ConfigError: It cannot be read, or the parts have other classes, or are the same.
            OSError: The folder cannot be written.
        """
        train = self._add(source.train, "train", source.limit, img_size)
        test = self._add(source.test, "test", source.test_limit, img_size)
        if self.read(train.digest).class_names != self.read(test.digest).class_names:
            raise ConfigError(f"{source.name}.test", "has other classes than the training images")
        if train.digest == test.digest:
            raise ConfigError(f"{source.name}.test", "holds the very training images")
        return Parts(train=train, test=test)

    def read(self, digest: str) -> ImageSet:
        """Return a stored part, its pixels mapped and not read."""
        facts = json.loads((self._folder / f"{digest}.json").read_text())
        images = np.load(self._folder / f"{digest}.npy", mmap_mode="c")
        return ImageSet(
            name=facts["name"],
            images=images,
            labels=np.asarray(facts["labels"], dtype=np.int64),
            class_names=tuple(facts["class_names"]),
        )

    def _add(self, path: str, split: Split, limit: int | None, img_size: int) -> Part:
        source = self._unpacked(path.removeprefix(_SHIPPED)) if path.startswith(_SHIPPED) else Path(path)
        key = sha256_hex(canonical_json([path, split, limit, img_size, _signature(source)]))
        index_file = self._folder / _INDEX
        index: dict[str, str] = json.loads(index_file.read_text()) if index_file.exists() else {}
        digest = index.get(key)
        if digest is None:
            self._reading(path, split)
            images = limited(load_image_set(source, split=split, size=img_size), limit)
            digest = sha256_hex(canonical_json([images.digest(), list(images.class_names)]))
            self._write(digest, images)
            with atomic_file(index_file) as file:
                file.write(json.dumps(index | {key: digest}).encode())
        stored = self.read(digest)
        return Part(digest=digest, images=len(stored), classes=stored.num_classes)

    def _unpacked(self, name: str) -> Path:
        """Return the folder of a zip file that is shipped with tleg."""
        archive, folder = _archive(name), self._folder / name
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=self._folder) as unfinished, zipfile.ZipFile(archive) as file:
                whole = Path(unfinished) / name
                file.extractall(whole)
                whole.replace(folder)  # all of it or nothing: a folder that is there is not looked into
        return folder

    def _write(self, digest: str, images: ImageSet) -> None:
        facts = {"name": images.name, "labels": images.labels.tolist(), "class_names": list(images.class_names)}
        with atomic_file(self._folder / f"{digest}.npy") as file:
            np.save(file, np.ascontiguousarray(images.images))
        with atomic_file(self._folder / f"{digest}.json") as file:
            file.write(json.dumps(facts).encode())


def check_paths(source: DataSource) -> None:
    """Raise `ConfigError` where there is nothing at a path of a source; what is there is not looked into."""
    for name, path in (("train", source.train), ("test", source.test)):
        if path.startswith(_SHIPPED):
            _archive(path.removeprefix(_SHIPPED))
        elif not Path(path).exists():
            raise ConfigError(f"{source.name}.{name}", f"there is no file or folder {path}")


def _archive(name: str) -> Path:
    """Return the zip file of a data set that is shipped with tleg."""
    archive = _SHIPPED_FOLDER / f"{name}.zip"
    if not archive.is_file():
        there = ", ".join(sorted(file.stem for file in _SHIPPED_FOLDER.glob("*.zip")))
        raise ConfigError("data", f"{name!r} is not shipped; there is {there}")
    return archive


def limited(images: ImageSet, limit: int | None) -> ImageSet:
    """Return `limit` images drawn once for all, in their order: files may be sorted by class."""
    if limit is None or limit >= len(images):
        return images
    return chosen(images, np.sort(np.random.default_rng(_DRAW).permutation(len(images))[:limit]).tolist())


def held_back(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """Return the images without a share of them, drawn once for all, and that share: at least one of each."""
    order = np.random.default_rng(_DRAW).permutation(len(images))
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    return chosen(images, np.sort(order[count:]).tolist()), chosen(images, np.sort(order[:count]).tolist())


def chosen(images: ImageSet, rows: Sequence[int]) -> ImageSet:
    """Return some images as a set of the same name and classes."""
    return ImageSet(name=images.name, images=images.images[rows], labels=images.labels[rows], class_names=images.class_names)


def _signature(path: Path) -> list[list[str | int]]:
    """Return names, sizes and times of the file, or of the files in the folder: another one is another source."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
