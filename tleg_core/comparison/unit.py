"""The unit of a comparison: one small piece of work, named by everything that decides what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tleg_core.canonical import canonical_json, sha256_hex

_FORMAT = 1  # of the units' settings: another meaning of the same settings is another number


class UnitKind(StrEnum):
    """What a unit does."""

    LOGITS = "logits"
    """Stores what the ancestry model says of each image and view."""
    LEARNGENE = "learngene"
    """Trains a learngene."""
    NETWORK = "network"
    """Trains a network with weights of its own, at one depth."""
    POOL = "pool"
    """Trains a pool's anchors, and stitches them."""
    INHERITANCE = "inheritance"
    """Chooses layers of the ancestry network."""
    PATHS = "paths"
    """Measures every member of a pool before any fine-tuning."""
    MEASURE = "measure"
    """Measures an initialisation before any fine-tuning."""
    TUNING = "tuning"
    """Tries a learning rate on images held back from the training part."""
    FINE_TUNE = "fine-tune"
    """Fine-tunes an initialisation and measures it after each epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One piece of work.

    Args:
        kind: What it does.
        label: What it is, in words.
        settings: What decides its result beside the units that it needs, as JSON.
        needs: Ids of the units whose results or files it needs.
        images: Training images that it sees, repetitions counted.
        macs: Multiply-accumulates of the forward passes of its training, by arithmetic; those of measurements are left out.
        extra_macs: Those of forward passes that have no backward pass.
    """

    kind: UnitKind
    label: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    images: int = 0
    macs: int = 0
    extra_macs: int = 0

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that follow from kind, settings and needs."""
        value = {"format": _FORMAT, "kind": self.kind.value, "settings": self.settings, "needs": list(self.needs)}
        return sha256_hex(canonical_json(value))[:16]

    @property
    def flops(self) -> int:
        """Floating-point operations of its training: 2 for a multiply-accumulate, the backward pass twice the forward pass."""
        return 6 * self.macs + 2 * self.extra_macs
