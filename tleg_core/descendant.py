"""The descendant: a safetensors file that is computed, not stored.

Its size and header follow from the recipe, and any byte range is computed on the way out, in blocks of about half a megabyte,
so the memory that a download takes does not depend on the network's size. The bytes are a function of the recipe and the
learngene alone: the same on every machine, in whatever pieces they are read.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator

from tleg_core.canonical import canonical_json
from tleg_core.errors import RangeError
from tleg_core.family import Family
from tleg_core.recipe import Recipe
from tleg_core.tensor_source import Resampled, TensorSource
from tleg_core.tensorfile import encode_header

BLOCK_BYTES = 512 * 1024


def file_header(family: Family, recipe: Recipe) -> bytes:
    """Return the first bytes of the recipe's file: length, JSON header, padding."""
    specs = family.stack(recipe.member, num_classes=recipe.num_classes, img_size=recipe.img_size).inventory()
    metadata = {
        "format": "pt",
        "tleg.learngene": recipe.learngene,
        "tleg.recipe": canonical_json(recipe.to_json()).decode(),
    }
    return encode_header(((spec.name, spec.shape) for spec in specs), recipe.dtype, metadata)


class Descendant:
    """The file of one recipe.

    Attributes:
        recipe: What determines it.
        family: The family it is a member of.
        header: Its first bytes: length, JSON header, padding.
        size: Its length in bytes.
    """

    def __init__(self, family: Family, recipe: Recipe) -> None:
        self.family = family
        self.recipe = recipe
        planned = family.sources(recipe)
        self.header = file_header(family, recipe)
        self._sources: list[TensorSource] = [source for _, source in planned]
        self._bounds = [len(self.header)]  # where each tensor begins in the file, and the file's end
        for spec, _ in planned:
            self._bounds.append(self._bounds[-1] + spec.size * recipe.dtype.itemsize)
        self.size = self._bounds[-1]

    def prepare(self) -> None:
        """Compute what is not computed block by block, so that the first block does not wait for it."""
        for source in self._sources:
            if isinstance(source, Resampled):
                source.read(0, 0)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes `offset`..`offset + length`.

        Raises:
            RangeError: The range lies outside the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise RangeError(f"bytes {offset}..{offset + length} of a file of {self.size}")
        return b"".join(self._pieces(offset, offset + length))

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes `start`..`stop` (the end, if None) in blocks of about `BLOCK_BYTES`, each computed when asked for.

        Raises:
            RangeError: The range lies outside the file.
        """
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise RangeError(f"bytes {start}..{stop} of a file of {self.size}")
        small: list[memoryview] = []  # pieces of small tensors, gathered into one block
        small_bytes = 0
        for piece in self._pieces(start, stop):
            is_small = len(piece) < BLOCK_BYTES // 2
            if is_small:
                small.append(piece)
                small_bytes += len(piece)
            if small and (not is_small or small_bytes >= BLOCK_BYTES // 2):
                yield memoryview(b"".join(small))
                small, small_bytes = [], 0
            if not is_small:
                yield piece
        if small:
            yield memoryview(b"".join(small))

    def sha256(self) -> str:
        """Return the sha256 of the whole file, in hex: one pass over it."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def _pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield `start`..`stop` in pieces of at most `BLOCK_BYTES`, none of which spans two tensors."""
        header = memoryview(self.header)[:stop]
        for begin in range(start, len(header), BLOCK_BYTES):
            yield header[begin : begin + BLOCK_BYTES]
        position = max(start, len(self.header))
        itemsize = self.recipe.dtype.itemsize
        index = bisect_right(self._bounds, position) - 1
        while position < stop:
            begin, end = self._bounds[index], self._bounds[index + 1]
            piece_stop = min(position + BLOCK_BYTES, end, stop)
            first, last = (position - begin) // itemsize, -(-(piece_stop - begin) // itemsize)
            content = self.recipe.dtype.pack(self._sources[index].read(first, last))
            skip = position - begin - first * itemsize
            yield content[skip : skip + piece_stop - position]
            position = piece_stop
            if position == end:
                index += 1
