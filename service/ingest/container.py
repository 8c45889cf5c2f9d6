"""What an upload is packed in, told from its first bytes; and the content types that each may be sent as."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

HEAD_BYTES = 512
"""So many first bytes tell a container; fewer do where there are no more."""

ANY_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""Content types that say nothing."""


class Container(StrEnum):
    """What an upload is packed in."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"
    PARQUET = "parquet"


CONTENT_TYPES: Mapping[Container, frozenset[str]] = {
    Container.ZIP: frozenset({"application/zip", "application/x-zip-compressed", "application/x-zip"}),
    Container.TAR: frozenset({"application/x-tar", "application/tar", "application/x-gtar"}),
    Container.TAR_GZ: frozenset(
        {"application/gzip", "application/x-gzip", "application/x-gtar", "application/x-compressed-tar", "application/x-tar"}
    ),
    Container.PARQUET: frozenset({"application/vnd.apache.parquet", "application/x-parquet", "application/parquet"}),
}


def container_of(head: bytes) -> Container | None:
    """Return what the first `HEAD_BYTES` bytes of an upload begin, or None."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Container.ZIP
    if head.startswith(b"PAR1"):
        return Container.PARQUET
    if head.startswith(b"\x1f\x8b"):
        return Container.TAR_GZ
    if head[257:262] == b"ustar":
        return Container.TAR
    return None


def is_known_type(content_type: str) -> bool:
    """Whether something that is sent as `content_type`, in lower case without parameters, may be a data set."""
    return content_type in ANY_TYPES or any(content_type in types for types in CONTENT_TYPES.values())


def may_be_sent_as(container: Container, content_type: str) -> bool:
    """Whether `content_type` does not contradict the content."""
    return content_type in ANY_TYPES or content_type in CONTENT_TYPES[container]
