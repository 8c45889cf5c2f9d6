"""Paths inside archives: what is refused, what is ignored, and the class folders that the rest make.

    [common folder/] [train/ | test/ | val/ | valid/ | validation/] class / ... / image

Nothing is ever written under such a path.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from service.domain.errors import DatasetRefusedError
from service.ingest.candidate import Placement, printable
from service.ingest.limits import MAX_CLASS_NAME, MAX_CLASS_NAMES_BYTES, MAX_CLASSES, MAX_DEPTH, MAX_PATH_BYTES
from tleg_core.image_file import TEST, TRAIN

Folder: TypeAlias = tuple[str, ...]

_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_DRIVE = re.compile(r"[A-Za-z]:")
_SPLITS: Mapping[str, int] = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "testing": TEST,
    "val": TEST,
    "valid": TEST,
    "validation": TEST,
}
_MAX_FOLDERS = 4 * MAX_CLASSES


def parse_path(path: str) -> Folder:
    """Return the parts of an entry's path.

    Raises:
        DatasetRefusedError: No honest archive has such a path.
    """
    if len(path) > MAX_PATH_BYTES or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise _refused(path, f"has a path of more than {MAX_PATH_BYTES:,} bytes", MAX_PATH_BYTES)
    if "\\" in path:
        raise _refused(path, "has a backslash in its path")
    if "\0" in path:
        raise _refused(path, "has a NUL in its path")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or (parts and _DRIVE.fullmatch(parts[0])):
        raise _refused(path, "has an absolute path")
    if ".." in parts:
        raise _refused(path, "has '..' in its path")
    if len(parts) > MAX_DEPTH:
        raise _refused(path, f"lies deeper than {MAX_DEPTH} folders", MAX_DEPTH)
    return parts


def is_junk(parts: Folder) -> bool:
    """Whether an operating system left the entry there, or it is hidden."""
    return any(part in _JUNK or part.startswith(".") for part in parts)


class FolderGroups:
    """The folders of an archive's images, numbered in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[Folder, int] = {}

    def number(self, folder: Folder) -> int:
        """Return the number of a folder."""
        number = self._numbers.setdefault(folder, len(self._numbers))
        if number >= _MAX_FOLDERS:
            raise DatasetRefusedError(f"the archive has more than {_MAX_FOLDERS:,} folders", limit=_MAX_FOLDERS)
        return number

    def placement(self, groups: Collection[int]) -> Placement:
        """Return the classes that the folders `groups` make."""
        folders = [folder for folder, number in self._numbers.items() if number in groups]
        return place_folders(folders, [self._numbers[folder] for folder in folders])


def place_folders(folders: Sequence[Folder], numbers: Sequence[int]) -> Placement:
    """Return the classes of folders that directly hold images, and the place of each under its number.

    A folder that all share is left out where folders follow in it. What remains begins with a split where every first part is
    one of its names, training is among them and a test too; then with the class. Images outside of that have no class.

    Raises:
        DatasetRefusedError: A class's name is not 1 to 128 printable characters, or there are too many.
    """
    remaining = list(folders)
    while _shares_top(remaining):
        remaining = [folder[1:] for folder in remaining]
    tops = {folder[0].lower() for folder in remaining if folder}
    splits = {_SPLITS.get(top) for top in tops}
    has_splits = splits == {TRAIN, TEST} and any(len(folder) > 1 for folder in remaining)
    classes: dict[int, tuple[str, int]] = {}
    for folder, number in zip(remaining, numbers, strict=True):
        split = _SPLITS[folder[0].lower()] if has_splits and folder else TRAIN
        inner = folder[1:] if has_splits else folder
        if inner:
            classes[number] = unicodedata.normalize("NFC", inner[0]), split
    names = check_class_names(sorted({name for name, _ in classes.values()}))
    labels = {name: label for label, name in enumerate(names)}
    return Placement(class_names=names, places={number: (labels[name], split) for number, (name, split) in classes.items()})


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names if they can name classes.

    Raises:
        DatasetRefusedError: One cannot, or there are too many, or one stands there twice.
    """
    if len(names) > MAX_CLASSES:
        raise DatasetRefusedError(f"there are {len(names):,} classes; at most {MAX_CLASSES:,} can be", limit=MAX_CLASSES)
    for name in names:
        if not (1 <= len(name) <= MAX_CLASS_NAME and name.isprintable() and name.strip()):
            raise DatasetRefusedError(
                f"the class {printable(name)!r} must have a name of 1 to {MAX_CLASS_NAME} printable characters",
                limit=MAX_CLASS_NAME,
            )
    if sum(len(name.encode()) for name in names) > MAX_CLASS_NAMES_BYTES:
        raise DatasetRefusedError(
            f"the names of the classes have more than {MAX_CLASS_NAMES_BYTES:,} bytes together", limit=MAX_CLASS_NAMES_BYTES
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetRefusedError(f"the class {twice!r} is there twice")
    return tuple(names)


def _shares_top(folders: Sequence[Folder]) -> bool:
    """Whether all folders begin with one part, and some go on."""
    tops = {folder[:1] for folder in folders}
    return len(tops) == 1 and () not in tops and any(len(folder) > 1 for folder in folders)


def _refused(path: str, what: str, limit: int | None = None) -> DatasetRefusedError:
    return DatasetRefusedError(f"the entry {printable(path)!r} {what}", limit=limit)
