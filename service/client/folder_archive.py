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
from service.client.file_content import CHUNK_BYTES, read_exactly

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
        for piece in self._pieces():
            pending += piece
            if len(pending) >= CHUNK_BYTES:
                yield bytes(pending)
                pending.clear()
        yield bytes(pending)

    def _pieces(self) -> Iterator[bytes]:
        for entry in self._entries:
            yield entry.header()
            yield from read_exactly(entry.path, entry.size_bytes)
            yield bytes(entry.padded_bytes - entry.size_bytes)
        yield bytes(2 * _BLOCK)  # the archive's end


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
