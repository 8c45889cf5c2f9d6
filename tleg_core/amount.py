"""A number with its noun, in the singular where it is one. English only, and no number is written in words."""

from __future__ import annotations


def amount(count: int, noun: str, plural: str | None = None) -> str:
    """Return `1 epoch`, `0 epochs` or `1,000 epochs`; `plural` where that is not the noun and an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
