"""A learngene that joined a running service: what is recorded of its file. What it is stands in the file itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from service.domain.errors import UnreadableRecordError

RECORD_VERSION = 1

RESERVED_NAMES = frozenset({"trainings"})
"""Names that nothing can be published under: `GET /learngenes/trainings` is another resource."""

_PUBLICATION = re.compile(r"[0-9a-z-]{1,80}")


class Outcome(StrEnum):
    """What a publication did."""

    ADDED = "added"
    REPLACED = "replaced"
    """The name had another file before: of the same weights, with more to say of them, or of others."""
    SAME = "same"
    """The very file was there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLearngene:
    """One file of a published learngene.

    Args:
        name: The learngene's id.
        digest: The learngene's digest, 64 hex digits: what decides its descendants' weights.
        sha256: The file's, 64 hex digits.
        size_bytes: The file's length.
        object_key: Where the file lies in the object store; no other record names the same object.
        published_at: When this file was published.
    """

    name: str
    digest: str
    sha256: str
    size_bytes: int
    object_key: str
    published_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is stored."""
        return asdict(self) | {"version": RECORD_VERSION, "published_at": self.published_at.isoformat()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a stored record; raises `UnreadableRecordError` where it is damaged or of another version."""
        try:
            if value["version"] != RECORD_VERSION:
                raise UnreadableRecordError(f"it is of version {value['version']}")
            return cls(
                name=str(value["name"]),
                digest=str(value["digest"]),
                sha256=str(value["sha256"]),
                size_bytes=int(value["size_bytes"]),
                object_key=str(value["object_key"]),
                published_at=datetime.fromisoformat(value["published_at"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableRecordError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What came of a publication: the record as it stands now, and what was done."""

    record: PublishedLearngene
    outcome: Outcome


def is_publication_id(text: str) -> bool:
    """Whether a text may stand in an object's key for the publication that it is of."""
    return _PUBLICATION.fullmatch(text) is not None
