"""One image: accepted, or refused for a reason that is counted."""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import StrEnum

from PIL import Image

from service.ingest.candidate import Candidate
from service.ingest.limits import Limits
from tleg_core.image_file import decode_image


class Reason(StrEnum):
    """Why an image is refused."""

    EMPTY = "empty"
    FORMAT = "format"  # neither JPEG nor PNG nor WebP, whatever its name
    DAMAGED = "damaged"
    ANIMATED = "animated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    NO_CLASS = "no_class"  # outside of the class folders
    NO_IMAGE = "no_image"  # a row without bytes
    NO_LABEL = "no_label"  # a row without a label


@dataclass(frozen=True, slots=True)
class Picture:
    """An accepted image; sides in pixels, as stored."""

    content: bytes
    format: str
    width: int
    height: int


class RefusedPictureError(Exception):
    """The image is refused."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def format_of(head: bytes) -> str | None:
    """Return the format of an image that is read here, by its first bytes."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return None


def examine(candidate: Candidate, limits: Limits) -> Picture:
    """Return the image if it can be decoded as training will decode it; raises `RefusedPictureError`."""
    if candidate.missing is not None:
        raise RefusedPictureError(Reason(candidate.missing))
    if not candidate.head:
        raise RefusedPictureError(Reason.EMPTY)
    expected = format_of(candidate.head)
    if expected is None:
        raise RefusedPictureError(Reason.FORMAT)
    if candidate.size_bytes > limits.max_image_bytes:
        raise RefusedPictureError(Reason.TOO_MANY_BYTES)
    if expected == "WEBP":  # opening one sets its whole canvas aside
        _check_pixels(_webp_pixels(candidate.head), limits)
    content = candidate.read()
    try:
        with Image.open(io.BytesIO(content), formats=(expected,)) as image:
            width, height = image.size
            _check_pixels(width * height, limits)
            if expected != "JPEG" and getattr(image, "n_frames", 1) > 1:  # a JPEG with others behind it is a phone's photograph
                raise RefusedPictureError(Reason.ANIMATED)
        decode_image(content)
    except RefusedPictureError:
        raise
    except Exception as error:  # decoders raise whatever comes to them
        raise RefusedPictureError(Reason.DAMAGED) from error
    return Picture(content, expected, width, height)


def _check_pixels(pixels: int, limits: Limits) -> None:
    if pixels > limits.max_pixels:
        raise RefusedPictureError(Reason.TOO_MANY_PIXELS)


def _webp_pixels(head: bytes) -> int:
    """Return the pixels of a WebP's canvas (RFC 9649, sections 2.5 to 2.7); 0 where the decoder is to say what is wrong."""
    kind, data = head[12:16], head[20:]
    if kind == b"VP8X" and len(data) >= 10:
        return (1 + int.from_bytes(data[4:7], "little")) * (1 + int.from_bytes(data[7:10], "little"))
    if kind == b"VP8L" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and len(data) >= 10:
        return (int.from_bytes(data[6:8], "little") & 0x3FFF) * (int.from_bytes(data[8:10], "little") & 0x3FFF)
    return 0
