"""A folder of class folders, indexed once and read picture by picture: ImageNet's layout. Torch-free.

Classes are the folders, in alphabetical order; an empty one is a class without images. A class's pictures are the files below
it with a picture's suffix, in any depth, in the order of their paths; other files and hidden ones are left out. Links are
followed, out of the folder too, as torchvision's `ImageFolder` does; one that leads nowhere, or back to a folder that it lies
in, is an error.

Shape legend: N images.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tleg_core.errors import ConfigError, PictureError
from tleg_core.image_source import check_labels, index_digest

IMAGE_SUFFIXES: Final = frozenset({b".jpg", b".jpeg", b".png", b".webp"})

_SCANNING_THREADS = 8  # a network file system answers several questions at once


class ImageFolder:
    """Class folders below `root`. Its index takes about the length of its pictures' paths, 40 MB for ImageNet.

    Args:
        root: The folder of the class folders.
        name: What the data set is called; the folder's name by default.

    Raises:
        ConfigError: It holds no pictures, or cannot be read.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        self._root = os.fsencode(root)
        self.name = Path(root).name if name is None else name
        self.run_starts: npt.NDArray[np.int64] | None = None
        folders = class_folders(Path(root))
        self.class_names = tuple(folder.name for folder in folders)
        with ThreadPoolExecutor(_SCANNING_THREADS, thread_name_prefix="scan") as threads:
            found = list(threads.map(_pictures_of, (os.fsencode(folder) for folder in folders)))
        counts = [len(pictures) for pictures in found]
        if not sum(counts):
            raise ConfigError("data", f"{root} holds no class folders with JPEG, PNG or WebP files")
        self.labels: npt.NDArray[np.int64] = np.repeat(np.arange(len(folders), dtype=np.int64), counts)  # (N,)
        self._sizes = np.fromiter((size for pictures in found for _, size in pictures), np.int64, sum(counts))  # (N,), bytes
        paths = [path for pictures in found for path, _ in pictures]
        self._ends = np.cumsum(np.fromiter(map(len, paths), np.int64, len(paths)))  # (N,)
        self._paths = b"".join(paths)  # below the class folders
        check_labels(self.name, self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, row: int) -> bytes:
        """Return a picture's file; raises `PictureError` where it cannot be read."""
        path = self._path(row)
        try:
            with open(path, "rb") as file:  # noqa: PTH123 (a Path for each of a million pictures takes longer than to open it)
                return file.read()
        except OSError as error:
            raise PictureError(os.fsdecode(path), f"cannot be read: {error.strerror}") from error

    def picture_name(self, row: int) -> str:
        """Return a picture's path."""
        return os.fsdecode(self._path(row))

    def digest(self) -> str:
        """Return a sha256 over the classes and each picture's path, size and label, not over its content."""
        return index_digest(self.class_names, self._paths, self._ends, self._sizes, self.labels)

    def _path(self, row: int) -> bytes:
        if not 0 <= row < len(self):
            raise IndexError(f"image {row} of {len(self)}")
        start = int(self._ends[row - 1]) if row else 0
        path = self._paths[start : int(self._ends[row])]
        return b"/".join((self._root, os.fsencode(self.class_names[int(self.labels[row])]), path))


def class_folders(root: Path) -> list[Path]:
    """Return the folders in `root`, in alphabetical order, without hidden ones; raises `ConfigError`."""
    try:
        return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    except OSError as error:
        raise ConfigError("data", f"{root} cannot be read: {error.strerror}") from error


def _pictures_of(folder: bytes) -> list[tuple[bytes, int]]:
    """Return the path below `folder` and the size of each picture, in the order of the paths' parts."""
    found = list(_scanned(folder, b"", (_identity(Path(os.fsdecode(folder)).stat()),)))
    return sorted(found, key=lambda picture: picture[0].split(b"/"))


def _scanned(folder: bytes, below: bytes, within: tuple[tuple[int, int], ...]) -> Iterator[tuple[bytes, int]]:
    """Yield the pictures in a folder and below; `within` are the folders that it lies in, itself included."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                path = below + entry.name
                if entry.is_dir():
                    here = _identity(entry.stat())
                    if here in within:
                        raise ConfigError("data", f"{os.fsdecode(entry.path)} is a link to a folder that it lies in")
                    yield from _scanned(entry.path, path + b"/", (*within, here))
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 (bytes)
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield path, status.st_size
    except OSError as error:
        where = error.filename or folder
        raise ConfigError("data", f"{os.fsdecode(where)} cannot be read: {error.strerror}") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
