"""The path: which blocks of which anchors of a pool a member runs through, one after the other.

Its one written form, `0.0-7_1.8-11`, names the blocks 0 to 7 of anchor 0 and then the blocks 8 to 11 of anchor 1; it is safe in
addresses and in names of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from tleg_core.errors import ConfigError
from tleg_core.vit import MAX_DEPTH, check_depth

MAX_ANCHORS = 64
"""Anchors that a pool may have."""

MAX_SEGMENTS = 16
"""Segments that a path may have: a path there and back has three."""

MAX_PATH_CHARS = MAX_SEGMENTS * 16
"""Characters that a path's written form may have."""

_NUMBER = r"(0|[1-9][0-9]{0,3})"  # one form for each number
_SEGMENT = re.compile(rf"{_NUMBER}\.{_NUMBER}-{_NUMBER}")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Blocks of one anchor that are run one after the other.

    Args:
        anchor: Which anchor of the pool, from 0.
        first: Its first block that is run, from 0.
        last: Its last one.
    """

    anchor: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if not (0 <= self.anchor < MAX_ANCHORS and 0 <= self.first <= self.last < MAX_DEPTH):
            raise ConfigError("path", f"anchors are from 0 to {MAX_ANCHORS - 1}, blocks from 0 to {MAX_DEPTH - 1}, ascending")

    def __str__(self) -> str:
        """Return the written form, such as `0.0-7`."""
        return f"{self.anchor}.{self.first}-{self.last}"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """Segments of changing anchors, with a stitch between each two.

    Raises:
        ConfigError: There is no segment, or too many, two neighbours are of one anchor, or there are too many blocks.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.segments) <= MAX_SEGMENTS:
            raise ConfigError("path", f"must have 1 to {MAX_SEGMENTS} segments, not {len(self.segments)}")
        if any(before.anchor == after.anchor for before, after in self.joins):
            raise ConfigError("path", "has two neighbouring segments of one anchor")
        check_depth(self.depth)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the written form.

        Raises:
            ConfigError: It is not one.
        """
        parts = text.split("_") if len(text) <= MAX_PATH_CHARS else [""]
        found = [_SEGMENT.fullmatch(part) for part in parts]
        segments = [Segment(*(int(number) for number in match.groups())) for match in found if match is not None]
        if len(segments) != len(parts):
            raise ConfigError("path", f"must be like 0.0-7_1.8-11 (anchor, first and last block), not {text[:80]!r}")
        return cls(tuple(segments))

    def __str__(self) -> str:
        """Return the written form, such as `0.0-7_1.8-11`."""
        return "_".join(str(segment) for segment in self.segments)

    @property
    def depth(self) -> int:
        """Number of blocks, of all segments."""
        return sum(segment.depth for segment in self.segments)

    @property
    def joins(self) -> tuple[tuple[Segment, Segment], ...]:
        """The pairs of segments that a stitch stands between."""
        return tuple(pairwise(self.segments))

    def block(self, layer: int) -> tuple[int, int]:
        """Return the anchor and its block that the path's layer `layer` is.

        Raises:
            IndexError: The path has no such layer.
        """
        for segment in self.segments:
            if layer < segment.depth:
                return segment.anchor, segment.first + layer
            layer -= segment.depth
        raise IndexError(layer)
