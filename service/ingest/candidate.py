"""What sources of images give, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

HEAD_BYTES = 32
"""So many first bytes tell an image's format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something that may be an image.

    Args:
        name: What the upload calls it, printable.
        group: What decides its class and split: the source's own number.
        size_bytes: Its bytes, as declared.
        head: Its first `HEAD_BYTES` bytes, or all that it has.
        read: Returns all of it; to be called before the next candidate is asked for.
        missing: Why it is refused unseen, where that is so.
    """

    name: str
    group: int
    size_bytes: int
    head: bytes
    read: Callable[[], bytes]
    missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The classes, and what each group is.

    Args:
        class_names: The classes, in label order.
        places: (label, split) of a group; a group without has no class.
    """

    class_names: tuple[str, ...]
    places: dict[int, tuple[int, int]]


class Source(Protocol):
    """Images in a container. Whatever is wrong with it as a whole raises `DatasetRefusedError`."""

    def candidates(self) -> Iterator[Candidate]:
        """Yield what may be images."""
        ...

    def placement(self, groups: Collection[int]) -> Placement:
        """Return the classes, after all candidates; `groups` are those that have images."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def printable(text: str, length: int = 200) -> str:
    """Return `text` fit to be shown: cut, and without control characters or halves of characters."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:length])
