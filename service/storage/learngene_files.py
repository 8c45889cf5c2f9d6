"""The published learngenes' files in the object store, read and checked; and the uploads that become such files."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from service.domain.errors import LearngeneRefusedError, ObjectDamagedError, StoreUnavailableError
from service.domain.published_learngene import PublishedLearngene
from service.storage.object_store import ObjectStore
from tleg_core.canonical import sha256_hex
from tleg_core.errors import LearngeneFileError
from tleg_core.family import Family
from tleg_core.learngene import Learngene

logger = logging.getLogger(__name__)

_BROKEN_S = 10.0  # that a file which is gone or damaged is left alone: requests may ask for it often
_SOURCE: Final = "the file"  # what errors call an upload: its path is no client's business


class LearngeneFiles:
    """Learngenes by their records. A file is read once for each time that it is asked for; keeping it is others' business."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._broken: dict[str, float] = {}  # object key -> when it may be tried again

    async def load(self, record: PublishedLearngene) -> Family | None:
        """Return a record's learngene, None where its file is gone or damaged, which is logged; raises `ObjectStoreError`."""
        now = time.monotonic()
        self._broken = {key: until for key, until in self._broken.items() if until > now}
        if record.object_key in self._broken:
            return None
        try:
            content = await self._objects.read_async(record.object_key, record.size_bytes)
            return await asyncio.to_thread(_open, content, record)
        except FileNotFoundError:
            reason = f"the object store has no {record.object_key}"
        except (ObjectDamagedError, LearngeneFileError) as error:
            reason = str(error)
        logger.error("a published learngene is left out: %s", reason, extra={"action": "learngene_broken"} | facts(record))
        self._broken[record.object_key] = now + _BROKEN_S
        return None

    async def is_whole(self, record: PublishedLearngene) -> bool:
        """Whether a record's file is there and undamaged; raises `ObjectStoreError` where nobody knows."""
        try:
            content = await self._objects.read_async(record.object_key, record.size_bytes)
        except (FileNotFoundError, ObjectDamagedError):
            return False
        return await asyncio.to_thread(sha256_hex, content) == record.sha256

    async def store(self, record: PublishedLearngene, path: Path) -> None:
        """Move a file to where its record says; raises `ObjectStoreError`."""
        await asyncio.to_thread(self._objects.move_file, record.object_key, path)
        self._broken.pop(record.object_key, None)

    async def delete(self, object_key: str) -> None:
        """Delete a file; raises `ObjectStoreError`."""
        await self._objects.delete_async(object_key)


def read_upload(path: Path, max_bytes: int) -> tuple[Family, str]:
    """Return the family of an uploaded learngene's file, everything checked, and the file's sha256.

    Raises:
        LearngeneRefusedError: It is no learngene, or damaged, or too large; says what is wrong.
        StoreUnavailableError: The file cannot be read.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise LearngeneRefusedError(f"{_SOURCE}: is larger than {max_bytes:,} bytes (TLEG_MAX_LEARNGENE_BYTES)")
        content = path.read_bytes()
    except OSError as error:
        raise StoreUnavailableError(f"the upload cannot be read: {error.strerror}") from error
    try:
        return Family(Learngene.from_bytes(_SOURCE, content)), sha256_hex(content)
    except LearngeneFileError as error:
        raise LearngeneRefusedError(str(error)) from error


def facts(record: PublishedLearngene) -> dict[str, str]:
    """Return what log lines say of a record."""
    return {"learngene": record.name, "digest": record.digest, "object": record.object_key}


def _open(content: memoryview, record: PublishedLearngene) -> Family:
    """Return the family of a record's file; raises `ObjectDamagedError` or `LearngeneFileError`."""
    if sha256_hex(content) != record.sha256:
        raise ObjectDamagedError(record.object_key)
    learngene = Learngene.from_bytes(record.object_key, content)
    if (learngene.name, learngene.digest) != (record.name, record.digest):
        raise LearngeneFileError(record.object_key, f"is {learngene.name} ({learngene.digest[:16]}…), not what was recorded")
    return Family(learngene)
