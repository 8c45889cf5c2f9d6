"""The safetensors container: its header written canonically and read strictly.

A file is an 8-byte little-endian header length, a JSON header, and the tensors' bytes. Here the header lists tensors in the
order of their bytes and is padded with spaces so that the data begins at a multiple of 8. The reader takes nothing on trust: a
length above the limit is refused before anything is parsed, and names, shapes and offsets must add up to the file exactly.
What the tensors mean is the business of `learngene` and `descendant`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tleg_core.canonical import strict_json
from tleg_core.dtype import DType
from tleg_core.errors import LearngeneFileError
from tleg_core.vit import Shape

MAX_HEADER_BYTES = 4 * 1024 * 1024
"""The reader's limit of a header's length; a learngene's own is a few thousand bytes."""

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8  # bytes; what safetensors' own writer pads to


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a header: its type code, shape, and the range of its bytes counted from the end of the header."""

    code: str
    shape: Shape
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A parsed header: the metadata, the tensors in the header's order, and where their bytes begin in the file."""

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    data_start: int


def encode_header(tensors: Iterable[tuple[str, Shape]], dtype: DType, metadata: Mapping[str, str]) -> bytes:
    """Return length prefix, header and padding for `tensors` laid out one after the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, shape in tensors:
        size_bytes = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": dtype.code, "shape": list(shape), "data_offsets": [position, position + size_bytes]}
        position += size_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return _LENGTH.pack(len(text)) + text


def parse_header(source: str, content: memoryview) -> Header:
    """Read the header of the file whose whole content is given.

    Args:
        source: What to call the file in errors.
        content: All bytes of the file.

    Raises:
        LearngeneFileError: The header is cut short, too long, not JSON, or does not describe the content exactly.
    """

    def fail(message: str) -> LearngeneFileError:
        return LearngeneFileError(source, message)

    if len(content) < _LENGTH.size:
        raise fail("is no safetensors file: shorter than the 8-byte header length")
    (length,) = _LENGTH.unpack(content[: _LENGTH.size])
    if length > MAX_HEADER_BYTES:
        raise fail(f"header of {length:,} bytes is above the limit of {MAX_HEADER_BYTES:,}; is it a safetensors file?")
    data_start = _LENGTH.size + length
    if data_start > len(content):
        raise fail(f"header of {length:,} bytes is cut short")
    try:
        header = strict_json(bytes(content[_LENGTH.size : data_start]).decode())
    except ValueError as error:
        raise fail(f"header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise fail("header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise fail("__metadata__ must map names to strings")
    entries = {name: _entry(source, name, value) for name, value in header.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            raise fail(f"tensor {name[:80]} begins at byte {entry.start} of the data, not at {position}")
        position = entry.stop
    if data_start + position != len(content):
        raise fail(f"has {len(content) - data_start:,} bytes of data where its header describes {position:,}")
    return Header(metadata=metadata, entries=entries, data_start=data_start)


_ITEMSIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


_MAX_DIMENSIONS = 8  # no tensor of a network has more


def _entry(source: str, name: str, value: object) -> Entry:
    """Read one tensor's description, its byte range checked against its shape."""
    match value:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(start), int(stop)], **rest} if not rest:
            whole = all(
                isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 2**40 for side in (*shape, start, stop)
            )
            if whole and code in _ITEMSIZES and len(shape) <= _MAX_DIMENSIONS:
                size_bytes = _ITEMSIZES[code]
                for side in shape:
                    size_bytes *= side
                if stop - start == size_bytes:
                    return Entry(code=code, shape=tuple(shape), start=start, stop=stop)
    raise LearngeneFileError(source, f"tensor {name[:80]} has a description that is not valid")
