"""A zip of class folders, read by its central directory (APPNOTE.TXT 6.3.10, section 4.3).

The directory is walked twice: once to refuse the whole before anything of it is unpacked, once to read the entries, so that
memory does not grow with what an entry is called. Stored and deflated entries only.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np

from service.domain.errors import DatasetRefusedError
from service.ingest.archive_path import FolderGroups, is_junk, parse_path
from service.ingest.candidate import HEAD_BYTES, Candidate, Placement, printable
from service.ingest.limits import Limits

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # "see the Zip64 field"

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _STRONGLY_ENCRYPTED, _MASKED = 1 << 0, 1 << 6, 1 << 13
_UTF_8 = 1 << 11
_CHUNK: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the central directory."""

    path: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int


class ZipArchive:
    """A zip of class folders."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._limits = limits
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._folders = FolderGroups()

    def candidates(self) -> Iterator[Candidate]:
        """Yield what may be images, in the directory's order."""
        start, size, count = self._directory()
        self._check(start, size, count)
        for entry in self._entries(start, size):
            parts = parse_path(entry.path)
            if not parts or entry.path.endswith("/") or is_junk(parts):
                continue
            content = _Content(self._file.fileno(), entry)
            head = content.head()
            yield Candidate(
                name=printable(entry.path),
                group=self._folders.number(parts[:-1]),
                size_bytes=entry.size,
                head=head,
                read=content.read,
            )

    def placement(self, groups: Collection[int]) -> Placement:
        """Return the classes that the folders make."""
        return self._folders.placement(groups)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _directory(self) -> tuple[int, int, int]:
        """Return where the central directory starts, its bytes and its number of entries."""
        tail_start = max(0, self._size - _END.size - _MAX_COMMENT)
        tail = _pread(self._file.fileno(), self._size - tail_start, tail_start)
        place = tail.rfind(b"PK\x05\x06")
        while place >= 0 and not _ends_here(tail, place):
            place = tail.rfind(b"PK\x05\x06", 0, place)
        if place < 0:
            raise DatasetRefusedError("the zip is cut short: its central directory is not there")
        _, disk, first_disk, _, count, size, start, _ = _END.unpack_from(tail, place)
        end = tail_start + place
        if count == _FULL_16 or _FULL_32 in (size, start):
            locator = _pread(self._file.fileno(), _LOCATOR_64.size, max(0, end - _LOCATOR_64.size))
            if locator.startswith(b"PK\x06\x07") and len(locator) == _LOCATOR_64.size:
                end = _LOCATOR_64.unpack(locator)[2]
                record = _pread(self._file.fileno(), _END_64.size, min(end, self._size))
                if len(record) < _END_64.size or not record.startswith(b"PK\x06\x06"):
                    raise DatasetRefusedError("the zip is damaged: its Zip64 record is not where it should be")
                _, _, _, _, disk, first_disk, _, count, size, start = _END_64.unpack(record)
        if disk or first_disk:
            raise DatasetRefusedError("the zip is a part of several")
        if start + size > end:
            raise DatasetRefusedError("the zip is damaged: its central directory lies outside of it")
        limit = self._limits.max_entries
        if count > limit or size // _ENTRY.size > 8 * limit:  # eight: entries are longer than their fixed part
            stated = f"{count:,}" if count > limit else "too many"
            raise DatasetRefusedError(f"the zip has {stated} entries; at most {limit:,} can be", limit=limit)
        return start, size, count

    def _check(self, start: int, size: int, count: int) -> None:
        """Refuse the whole by what the directory says, before anything is unpacked."""
        limits = self._limits
        names, offsets, ends = array("Q"), array("Q"), array("Q")
        unpacked = 0
        for entry in self._entries(start, size):
            if len(names) >= limits.max_entries:
                raise DatasetRefusedError(f"the zip has more than {limits.max_entries:,} entries", limit=limits.max_entries)
            _check_entry(entry, limits)
            parts = parse_path(entry.path)
            end = entry.offset + _LOCAL.size + entry.packed
            if end > start:  # by Zip64 it may also be more than an array's number holds
                raise _damaged(entry)
            names.append(int.from_bytes(blake2b("/".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()))
            offsets.append(entry.offset)
            ends.append(end)
            unpacked += entry.size
            if unpacked > limits.max_unpacked_bytes:
                raise DatasetRefusedError(
                    f"the zip holds more than {limits.max_unpacked_bytes:,} bytes, unpacked", limit=limits.max_unpacked_bytes
                )
        if len(names) != count:
            raise DatasetRefusedError(f"the zip is damaged: it says to have {count:,} entries and has {len(names):,}")
        if limits.is_bomb(unpacked, self._size):
            raise DatasetRefusedError(
                f"the zip of {self._size:,} bytes would become {unpacked:,}; images cannot be packed so small"
            )
        if not count:
            raise DatasetRefusedError("the zip is empty")
        if len(np.unique(np.asarray(names))) < len(names):
            raise DatasetRefusedError(f"the entry {printable(self._twice(start, size))!r} is there twice")
        order = np.argsort(np.asarray(offsets), kind="stable")
        starts, stops = np.asarray(offsets)[order], np.asarray(ends)[order]
        if (stops[:-1] > starts[1:]).any():
            raise DatasetRefusedError("the zip's entries overlap; no honest zip's do")

    def _twice(self, start: int, size: int) -> str:
        seen: set[bytes] = set()
        for entry in self._entries(start, size):
            key = blake2b("/".join(parse_path(entry.path)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if key in seen:
                return entry.path
            seen.add(key)
        return ""

    def _entries(self, start: int, size: int) -> Iterator[_Entry]:
        """Yield the entries of the central directory."""
        place, stop = start, start + size
        buffer, used = b"", 0
        while place < stop:
            left = len(buffer) - used
            if left < _ENTRY.size + 3 * _FULL_16 and place + left < stop:
                buffer, used = _pread(self._file.fileno(), min(_CHUNK + 3 * _FULL_16, stop - place), place), 0
            entry, length = _read_entry(buffer, used)
            yield entry
            used += length
            place += length


class _Content:
    """An entry's content, unpacked as far as it is asked for."""

    def __init__(self, descriptor: int, entry: _Entry) -> None:
        self._descriptor = descriptor
        self._entry = entry
        local = _pread(descriptor, _LOCAL.size, entry.offset)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
            raise _damaged(entry)
        name_length, extra_length = _LOCAL.unpack(local)[-2:]
        self._place = entry.offset + _LOCAL.size + name_length + extra_length
        self._left = entry.packed
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == _DEFLATED else None
        self._head = b""

    def head(self) -> bytes:
        """Return the first bytes."""
        self._head = self._take(min(HEAD_BYTES, self._entry.size))
        return self._head

    def read(self) -> bytes:
        """Return all of it, checked against its length and its CRC-32."""
        content = self._head + self._take(self._entry.size - len(self._head))
        surplus = self._take(1)
        if len(content) != self._entry.size or surplus or zlib.crc32(content) != self._entry.crc:
            raise _damaged(self._entry)
        return content

    def _take(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer at the end."""
        pieces = []
        while count:
            piece = self._next(count)
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _next(self, count: int) -> bytes:
        """Return some of the next `count` bytes; none at the end."""
        inflater = self._inflater
        if inflater is None:
            return self._packed(min(count, _CHUNK))
        while not inflater.eof:
            packed = inflater.unconsumed_tail or self._packed(_CHUNK if count > HEAD_BYTES else 4 * HEAD_BYTES)
            try:
                piece = inflater.decompress(packed, count)
            except zlib.error as error:
                raise _damaged(self._entry) from error
            if piece or not packed:
                return piece
        return b""

    def _packed(self, count: int) -> bytes:
        packed = _pread(self._descriptor, min(count, self._left), self._place)
        self._place += len(packed)
        self._left -= len(packed)
        return packed


def _check_entry(entry: _Entry, limits: Limits) -> None:
    if entry.flags & (_ENCRYPTED | _STRONGLY_ENCRYPTED | _MASKED):
        raise DatasetRefusedError(f"the entry {printable(entry.path)!r} is encrypted")
    if entry.method not in (_STORED, _DEFLATED):
        raise DatasetRefusedError(
            f"the entry {printable(entry.path)!r} is compressed by method {entry.method}; stored and deflated ones are read"
        )
    kind = stat.S_IFMT(entry.mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DatasetRefusedError(f"the entry {printable(entry.path)!r} is a link or a device, no file")
    if entry.method == _STORED and entry.packed != entry.size:
        raise _damaged(entry)
    if limits.is_entry_bomb(entry.size, entry.packed):
        raise DatasetRefusedError(
            f"the entry {printable(entry.path)!r} would become {entry.size:,} bytes from {entry.packed:,}; "
            "images cannot be packed so small"
        )


def _read_entry(buffer: bytes, place: int) -> tuple[_Entry, int]:
    """Return the directory's entry at `place`, and its length there."""
    if len(buffer) - place < _ENTRY.size or buffer[place : place + 4] != b"PK\x01\x02":
        raise DatasetRefusedError("the zip is damaged: its central directory is not one")
    fields = _ENTRY.unpack_from(buffer, place)
    _, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, attributes, offset = fields
    name_length, extra_length, comment_length = lengths
    length = _ENTRY.size + name_length + extra_length + comment_length
    if place + length > len(buffer):
        raise DatasetRefusedError("the zip is damaged: its central directory is cut short")
    name_end = place + _ENTRY.size + name_length
    name = buffer[place + _ENTRY.size : name_end]
    size, packed, offset = _wide(buffer[name_end : name_end + extra_length], size, packed, offset)
    return _Entry(_text(name, flags), flags, method, crc, packed, size, attributes >> 16, offset), length


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers, from the Zip64 field where they stand there (section 4.5.3)."""
    if _FULL_32 not in (size, packed, offset):
        return size, packed, offset
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            field = extra[place + 4 : place + 4 + length]
            numbers = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            size, packed, offset = (next(numbers, value) if value == _FULL_32 else value for value in (size, packed, offset))
            break
        place += 4 + length
    return size, packed, offset


def _text(name: bytes, flags: int) -> str:
    """Return a path's text: UTF-8, which many write without saying so, or the original code page 437."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("utf-8", "surrogateescape") if flags & _UTF_8 else name.decode("cp437")


def _ends_here(tail: bytes, place: int) -> bool:
    """Whether a record at `place` ends with the file."""
    return len(tail) - place >= _END.size and place + _END.size + _END.unpack_from(tail, place)[-1] == len(tail)


def _pread(descriptor: int, count: int, place: int) -> bytes:
    """Return `count` bytes from `place`, fewer at the end of the file only."""
    content = os.pread(descriptor, count, place)
    while content and len(content) < count:
        more = os.pread(descriptor, count - len(content), place + len(content))
        if not more:
            break
        content += more
    return content


def _damaged(entry: _Entry) -> DatasetRefusedError:
    return DatasetRefusedError(f"the zip is damaged at the entry {printable(entry.path)!r}")
