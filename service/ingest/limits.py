"""What an upload may contain."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CLASSES = 65_536
MAX_CLASS_NAME = 128  # characters
MAX_CLASS_NAMES_BYTES = 4 * 1024**2  # all together; they stand in one record
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32

_MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that follow from the operator's settings.

    Args:
        max_images: Images in a data set.
        max_pixels: Pixels of an image.
        max_unpacked_bytes: Bytes of all that an upload holds, unpacked.
    """

    max_images: int
    max_pixels: int
    max_unpacked_bytes: int

    @property
    def max_entries(self) -> int:
        """Entries in an archive, folders and junk included."""
        return self.max_images + self.max_images // 5 + 1000

    @property
    def max_image_bytes(self) -> int:
        """Encoded bytes of an image: what its pixels take at 32 bits, and room for metadata."""
        return 4 * self.max_pixels + 16 * _MIB

    @property
    def memory_bytes(self) -> int:
        """Address space of the validating process: itself, an image in several forms, and a page of parquet."""
        return 2048 * _MIB + 24 * self.max_pixels + 128 * self.max_images

    def is_bomb(self, unpacked_bytes: int, packed_bytes: int) -> bool:
        """Whether so much was packed into so little as no collection of encoded images is; small ones pass."""
        return unpacked_bytes > 64 * _MIB and unpacked_bytes > 50 * packed_bytes

    def is_entry_bomb(self, unpacked_bytes: int, packed_bytes: int) -> bool:
        """The same of one entry."""
        return unpacked_bytes > _MIB and unpacked_bytes > 250 * packed_bytes
