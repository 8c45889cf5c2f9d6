"""The published learngenes' records in Redis: which file each name has now, and which file each digest has.

A file that other weights took the place of keeps its record by its digest, for models were made from it. Files themselves, and
learngenes in memory, are `learngene_registry`'s.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from service.domain.errors import LearngeneTakenError, StorageFullError, StoreUnavailableError, UnreadableRecordError
from service.domain.published_learngene import Outcome, Publication, PublishedLearngene
from service.storage import keys
from service.storage.redis_failure import redis_failures

logger = logging.getLogger(__name__)

_SCRIPTS = Path(__file__).parent / "scripts"
_PUBLISH = (_SCRIPTS / "publish_learngene.lua").read_text()
_DELETE = (_SCRIPTS / "delete_learngene.lua").read_text()
_END_FILES = (_SCRIPTS / "end_learngene_files.lua").read_text()

_STORING_S = 3600
"""Seconds from the announcement of an object to its record; an object that has none by then is deleted."""
_REPLACED_S = 60
"""Seconds that a replaced file of the same weights stays: somebody may have read the record and not yet the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearngeneListing:
    """The published learngenes at one moment: the current file of each name, and the version that says so."""

    version: str
    learngenes: tuple[PublishedLearngene, ...]


class LearngeneStore:
    """Published learngenes by name and by digest. Every method raises `StoreUnavailableError` where Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = redis.register_script(_PUBLISH)
        self._delete = redis.register_script(_DELETE)
        self._end_files = redis.register_script(_END_FILES)

    async def version(self) -> str:
        """Return a text that is another one after each change; empty where nothing was ever published."""
        async with redis_failures():
            return str(await self._redis.get(keys.LEARNGENES_VERSION) or "")

    async def listing(self) -> LearngeneListing:
        """Return all at one moment; a record that cannot be read is left out."""
        async with redis_failures(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.get(keys.LEARNGENES_VERSION)
            pipeline.hgetall(keys.LEARNGENES)
            pipeline.hgetall(keys.LEARNGENE_FILES)
            version, names, files = await pipeline.execute()
        found = []
        for name, digest in sorted(names.items()):
            try:
                found.append(_read(files.get(digest)))
            except UnreadableRecordError as error:
                logger.error(str(error), extra={"action": "record_skipped", "learngene": name})
        return LearngeneListing(version=str(version or ""), learngenes=tuple(found))

    async def find(self, digest: str) -> PublishedLearngene | None:
        """Return the file of a digest, current or superseded."""
        async with redis_failures():
            record = await self._redis.hget(keys.LEARNGENE_FILES, digest)
        return None if record is None else _read(record)

    async def get(self, name: str) -> PublishedLearngene | None:
        """Return the current file of a name; None where there is none whose record can be read."""
        async with redis_failures():
            digest = await self._redis.hget(keys.LEARNGENES, name)
        try:
            return None if digest is None else await self.find(str(digest))
        except UnreadableRecordError as error:  # what is published under the name mends it
            logger.error(str(error), extra={"action": "record_skipped", "learngene": name})
            return None

    async def announce(self, object_key: str) -> None:
        """Say that an object is about to be stored: without a record it will be deleted, whatever becomes of us."""
        async with redis_failures():
            now_s = (await self._redis.time())[0]
            await self._redis.zadd(keys.LEARNGENES_ENDING, {object_key: now_s + _STORING_S})

    async def publish(
        self, record: PublishedLearngene, *, replace: bool, mend: bool = False, max_total_bytes: int
    ) -> Publication:
        """Record a file whose object was announced and stored.

        Args:
            record: The file.
            replace: Whether it may take the place of other weights of that name.
            mend: Whether to record it though the same file is recorded, for that one's object is gone.
            max_total_bytes: What all current files may have.

        Raises:
            LearngeneTakenError: The name is another learngene's, or the weights are published under another name.
            StorageFullError: There would be too many bytes.
        """
        text = json.dumps(record.to_json(), separators=(",", ":"))
        async with redis_failures():
            outcome, *rest = await self._publish(
                keys=[keys.LEARNGENES, keys.LEARNGENE_FILES, keys.LEARNGENES_VERSION, keys.LEARNGENES_ENDING],
                args=[
                    record.name,
                    record.digest,
                    record.sha256,
                    text,
                    int(replace),
                    int(mend),
                    max_total_bytes,
                    _REPLACED_S,
                    secrets.token_hex(8),
                ],
            )
        match outcome:
            case "name_taken":
                raise LearngeneTakenError.by_other_weights(record.name, str(rest[0]))
            case "digest_taken":
                raise LearngeneTakenError.by_other_name(record.digest, str(rest[0]))
            case "full":
                raise StorageFullError(
                    f"there is no room for a learngene of {record.size_bytes:,} bytes: the others have {int(rest[0]):,}, "
                    f"and all may have {max_total_bytes:,} (TLEG_MAX_PUBLISHED_BYTES)"
                )
            case "late":
                raise StoreUnavailableError("storing the learngene took too long; publish it again")
        return Publication(record=_read(rest[0]), outcome=Outcome(outcome))

    async def delete(self, name: str) -> bool:
        """Delete a learngene and every file that was published under its name; return whether there was one."""
        async with redis_failures():
            deleted = await self._delete(
                keys=[keys.LEARNGENES, keys.LEARNGENE_FILES, keys.LEARNGENES_VERSION, keys.LEARNGENES_ENDING],
                args=[name, secrets.token_hex(8)],
            )
        return bool(deleted)

    async def give_up(self, object_key: str) -> None:
        """Let an object that was announced be deleted at once, unless a record names it."""
        async with redis_failures():
            await self._redis.zadd(keys.LEARNGENES_ENDING, {object_key: 0})

    async def take_ended(self) -> list[str]:
        """Return the objects that may be deleted; no publication can record them any more."""
        async with redis_failures():
            taken = await self._end_files(keys=[keys.LEARNGENE_FILES, keys.LEARNGENES_ENDING, keys.DOOMED_OBJECTS])
        return [str(object_key) for object_key in taken]

    async def forget_objects(self, object_keys: Iterable[str]) -> None:
        """Say that objects which `take_ended` gave are deleted."""
        async with redis_failures():
            for object_key in object_keys:
                await self._redis.srem(keys.DOOMED_OBJECTS, object_key)


def _read(record: Any) -> PublishedLearngene:
    try:
        return PublishedLearngene.from_json(json.loads(record))
    except (ValueError, TypeError, AttributeError) as error:
        raise UnreadableRecordError(str(error)) from error
