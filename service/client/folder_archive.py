"""A folder of images as one tar archive, made while it is sent: the same bytes for the same files, whatever the machine.

Entries are sorted, and have neither times nor owners. Only regular files get in, links to them too; names that begin with a dot
are left out. What is no image is the server's to refuse, and to say so.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.client.errors import ClientError

CHUNK_BYTES = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE  # 512 bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    name: str
    size_bytes: int

    def header(self) -> bytes:
        """Return its header blocks."""
        info = tarfile.TarInfo(self.name)
        info.size = self.size_bytes
        info.mode = 0o644
        return info.tobuf(tarfile.PAX_FORMAT)

    @property
    def padded_bytes(self) -> int:
        """Its content's length, filled up to whole blocks."""
        return -(-self.size_bytes // _BLOCK) * _BLOCK


class FolderArchive:
    """The archive of a folder.

    Raises:
        ClientError: The folder has no folders of files in it, or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._entries = sorted(_entries(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ClientError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
        if not any("/" in entry.name for entry in self._entries):
            raise ClientError(f"{folder}: has no folders of images in it, one for each class")

    @property
    def size_bytes(self) -> int:
        """The archive's length."""
        return sum(len(entry.header()) + entry.padded_bytes for entry in self._entries) + 2 * _BLOCK

    def chunks(self) -> Iterator[bytes]:
        """Make the archive; raises `ClientError` where a file has changed or cannot be read."""
        pending = bytearray()
        for entry in self._entries:
            pending += entry.header()
            for content in _content(entry):
                pending += content
                if len(pending) >= CHUNK_BYTES:
                    yield bytes(pending)
                    pending.clear()
            pending += bytes(entry.padded_bytes - entry.size_bytes)
        yield bytes(pending) + bytes(2 * _BLOCK)


def _entries(folder: Path) -> Iterator[_Entry]:
    """Yield the files below a folder; links are followed, but not into a folder that they lie in."""
    waiting: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(folder, "", frozenset())]
    while waiting:
        place, prefix, above = waiting.pop()
        status = place.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        with os.scandir(place) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                if item.is_dir():
                    waiting.append((Path(item.path), f"{prefix}{item.name}/", above | {identity}))
                elif item.is_file():
                    yield _Entry(Path(item.path), f"{prefix}{item.name}", item.stat().st_size)


def _content(entry: _Entry) -> Iterator[bytes]:
    """Yield a file's content, exactly as long as its header says."""
    left = entry.size_bytes
    try:
        with entry.path.open("rb") as file:
            while left and (content := file.read(min(CHUNK_BYTES, left))):
                left -= len(content)
                yield content
    except OSError as error:
        raise ClientError(f"{entry.path}: cannot be read: {error.strerror}") from None
    if left:
        raise ClientError(f"{entry.path}: became shorter while it was sent")
