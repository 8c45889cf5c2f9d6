"""A tar of class folders, gzipped or not, read once from beginning to end (POSIX.1-2001, "pax Interchange Format").

Regular files and folders only. The archive must end as one ends: with two blocks of zeros, and gzip's own check of it.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final

from service.domain.errors import DatasetRefusedError
from service.ingest.archive_path import FolderGroups, is_junk, parse_path
from service.ingest.candidate import HEAD_BYTES, Candidate, Placement, printable
from service.ingest.limits import Limits

_BLOCK: Final = tarfile.BLOCKSIZE
_ZEROS: Final = bytes(_BLOCK)
_MAX_HEADER_BYTES = 64 * 1024  # of a long name or a pax record; a path is far shorter
_CHUNK: Final = 256 * 1024
_LINKS_AND_DEVICES = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_FILES_AND_FOLDERS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE)


class TarArchive:
    """A tar of class folders."""

    def __init__(self, path: Path, limits: Limits, *, gzipped: bool) -> None:
        self._limits = limits
        self._packed: IO[bytes] = path.open("rb")
        self._stream: IO[bytes] = gzip.GzipFile(fileobj=self._packed) if gzipped else self._packed  # type: ignore[assignment]  # it reads like one
        self._gzipped = gzipped
        self._unpacked_bytes = 0
        self._left = 0  # bytes of the entry at hand, its padding included, that were not read
        self._folders = FolderGroups()
        self._seen: set[bytes] = set()

    def candidates(self) -> Iterator[Candidate]:
        """Yield what may be images, in the archive's order."""
        entries = 0
        for info in self._entries():
            entries += 1
            if entries > self._limits.max_entries:
                limit = self._limits.max_entries
                raise DatasetRefusedError(f"the tar has more than {limit:,} entries", limit=limit)
            parts = parse_path(info.name)
            self._check_new(info.name, parts)
            if not info.isreg() or is_junk(parts) or not parts:
                continue
            head = self._take(min(HEAD_BYTES, info.size))
            yield Candidate(
                name=printable(info.name),
                group=self._folders.number(parts[:-1]),
                size_bytes=info.size,
                head=head,
                read=lambda head=head, size=info.size: head + self._take(size - len(head)),  # type: ignore[misc]
            )
        if not entries:
            raise DatasetRefusedError("the tar is empty")
        while self._read(_CHUNK):  # zeros up to a whole record; and gzip's check stands at the very end
            pass

    def placement(self, groups: Collection[int]) -> Placement:
        """Return the classes that the folders make."""
        return self._folders.placement(groups)

    def close(self) -> None:
        """Let go of the file."""
        self._packed.close()

    def _entries(self) -> Iterator[tarfile.TarInfo]:
        """Yield files and folders, their long names applied."""
        overrides: dict[str, str] = {}
        while True:
            self._skip()
            block = self._take_block()
            if block == _ZEROS:
                if self._take_block() != _ZEROS:
                    raise DatasetRefusedError("the tar is damaged: it goes on after its end")
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise DatasetRefusedError(f"the tar is damaged: {error}") from error
            if info.size < 0:
                raise DatasetRefusedError(f"the tar is damaged at the entry {printable(info.name)!r}")
            self._left = -(-info.size // _BLOCK) * _BLOCK
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                overrides |= _overrides(info, self._take(self._header_size(info)))
            elif info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                self._header_size(info)
            else:
                yield self._overridden(info, overrides)
                overrides = {}

    def _overridden(self, info: tarfile.TarInfo, overrides: dict[str, str]) -> tarfile.TarInfo:
        """Return an entry as the headers before it say."""
        info.name = overrides.get("path", info.name)
        if "size" in overrides:
            if not overrides["size"].isascii() or not overrides["size"].isdigit():
                raise DatasetRefusedError(f"the tar is damaged at the entry {printable(info.name)!r}")
            info.size = int(overrides["size"][:20])
            self._left = -(-info.size // _BLOCK) * _BLOCK
        shown = printable(info.name)
        if info.type in _LINKS_AND_DEVICES or "linkpath" in overrides:
            raise DatasetRefusedError(f"the entry {shown!r} is a link or a device, no file")
        if info.type not in _FILES_AND_FOLDERS or any(key.startswith("GNU.sparse") for key in overrides):
            raise DatasetRefusedError(f"the entry {shown!r} is of type {info.type!r}; files and folders are read here")
        if info.isdir():
            self._left = 0  # whatever its size says, nothing follows
        if info.size > self._limits.max_unpacked_bytes:
            raise self._too_much()
        return info

    def _header_size(self, info: tarfile.TarInfo) -> int:
        if info.size > _MAX_HEADER_BYTES:
            raise DatasetRefusedError(
                f"the tar has a header of {info.size:,} bytes; at most {_MAX_HEADER_BYTES:,} can be", limit=_MAX_HEADER_BYTES
            )
        return info.size

    def _check_new(self, path: str, parts: tuple[str, ...]) -> None:
        if not parts:
            return
        key = blake2b("/".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if key in self._seen:
            raise DatasetRefusedError(f"the entry {printable(path)!r} is there twice")
        self._seen.add(key)

    def _take_block(self) -> bytes:
        block = self._read(_BLOCK)
        if len(block) < _BLOCK:
            raise DatasetRefusedError("the tar is cut short")
        return block

    def _take(self, count: int) -> bytes:
        """Return the next `count` bytes of the entry at hand."""
        content = self._read(count)
        self._left -= len(content)
        if len(content) < count:
            raise DatasetRefusedError("the tar is cut short")
        return content

    def _skip(self) -> None:
        """Go to the end of the entry at hand."""
        while self._left:
            self._take(min(self._left, _CHUNK))

    def _read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end only."""
        try:
            content = self._stream.read(count)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DatasetRefusedError(f"the gzip is cut short or damaged: {error}") from error
        self._unpacked_bytes += len(content)
        if self._unpacked_bytes > self._limits.max_unpacked_bytes:
            raise self._too_much()
        if self._gzipped and self._limits.is_bomb(self._unpacked_bytes, self._packed.tell()):
            raise DatasetRefusedError(
                f"the gzip became {self._unpacked_bytes:,} bytes from {self._packed.tell():,}; images cannot be packed so small"
            )
        return content

    def _too_much(self) -> DatasetRefusedError:
        limit = self._limits.max_unpacked_bytes
        return DatasetRefusedError(f"the tar holds more than {limit:,} bytes, unpacked", limit=limit)


def _overrides(info: tarfile.TarInfo, content: bytes) -> dict[str, str]:
    """Return what a long name or a pax header says of the next entry: `length key=value`, a line each."""
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found = {}
    place = 0
    while place < len(content):
        length_end = content.find(b" ", place, place + 10)
        digits = content[place:length_end]
        if length_end < 0 or not digits.isdigit() or int(digits) <= length_end - place + 1:
            raise DatasetRefusedError("the tar is damaged: a pax header cannot be read")
        record = content[length_end + 1 : place + int(digits)]
        key, equals, value = record.partition(b"=")
        if place + int(digits) > len(content) or not equals or not value.endswith(b"\n"):
            raise DatasetRefusedError("the tar is damaged: a pax header cannot be read")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        place += int(digits)
    return found
