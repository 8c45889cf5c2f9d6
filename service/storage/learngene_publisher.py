"""Publishing and deleting learngenes: a file and its record, or nothing of either. What is served is `learngene_registry`'s."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.domain.catalogue import Catalogue
from service.domain.errors import LearngeneTakenError, ObjectStoreError, ServiceError, StoreUnavailableError
from service.domain.published_learngene import RESERVED_NAMES, Outcome, Publication, PublishedLearngene, is_publication_id
from service.storage.learngene_files import LearngeneFiles, facts, read_upload
from service.storage.learngene_store import LearngeneStore
from service.storage.object_store import learngene_key
from tleg_core.errors import ConfigError
from tleg_core.family import Family

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationLimits:
    """What may be published: bytes of one file, and of all current files. All of them are held in memory."""

    max_bytes: int = 512 * 1024**2
    max_total_bytes: int = 4 * 1024**3


class LearngenePublisher:
    """Publishes and deletes.

    Args:
        own: The learngenes of the process's own files; nothing can be published in their place.
        store: The records.
        files: The files.
        limits: What may be published.
    """

    def __init__(self, own: Catalogue, store: LearngeneStore, files: LearngeneFiles, limits: PublicationLimits) -> None:
        self._own = own
        self._store = store
        self._files = files
        self._limits = limits
        self._publishing = asyncio.Lock()

    @asynccontextmanager
    async def published(
        self, path: Path, *, publication: str, replace: bool = False
    ) -> AsyncIterator[tuple[Publication, Family]]:
        """Publish a file, which may be gone afterwards, and give what came of it with the learngene in memory.

        One at a time: the next one waits until the block has ended, so that one is in memory.

        Args:
            path: The file.
            publication: The id of this publication; a job's own, so that what it repeats is the same publication.
            replace: Whether it may take the place of other weights of that name.

        Raises:
            LearngeneRefusedError: It is no learngene, or damaged, or too large.
            LearngeneTakenError: Its name or its weights are another learngene's.
            StorageFullError: All published learngenes would have too many bytes.
            StoreUnavailableError, ObjectStoreError: It is not published, or nobody knows; it can be published again.
        """
        if not is_publication_id(publication):
            raise ConfigError("publication", "must be 1 to 80 lower-case letters, digits and hyphens")
        async with self._publishing:
            family, sha256 = await asyncio.to_thread(read_upload, path, self._limits.max_bytes)
            await self.check(family.name, digest=family.digest, replace=replace)
            current = await self._store.get(family.name)
            same = current is not None and (current.digest, current.sha256) == (family.digest, sha256)
            if same and current is not None and await self._files.is_whole(current):
                yield Publication(record=current, outcome=Outcome.SAME), family
                return
            record = PublishedLearngene(
                name=family.name,
                digest=family.digest,
                sha256=sha256,
                size_bytes=len(family.learngene.content),
                object_key=learngene_key(sha256, publication),
                published_at=datetime.now(UTC),
            )
            yield await self._record(path, record, replace=replace, mend=same), family

    async def check(self, name: str, *, digest: str | None, replace: bool) -> None:
        """Return if a learngene could be published under a name now; `digest` if it is known already.

        Raises:
            LearngeneTakenError: It could not.
            StoreUnavailableError: Redis does not answer.
        """
        if name in RESERVED_NAMES:
            raise LearngeneTakenError.by_path(name)
        if name in self._own:
            raise LearngeneTakenError.by_own(name)
        own = None if digest is None else self._own.family_by_digest(digest)
        if digest is not None and own is not None:
            raise LearngeneTakenError.by_other_name(digest, own.name)
        current = await self._store.get(name)
        if current is not None and current.digest != digest and not replace:
            raise LearngeneTakenError.by_other_weights(name, current.digest)

    async def delete(self, name: str) -> bool:
        """Delete a learngene's records, so that `clean` deletes its files; return whether there was one."""
        deleted = await self._store.delete(name)
        if deleted:
            logger.info("a learngene is deleted", extra={"action": "learngene_deleted", "learngene": name})
        return deleted

    async def clean(self) -> None:
        """Delete the files that no record names any more; raises `StoreUnavailableError`."""
        for object_key in await self._store.take_ended():
            try:
                await self._files.delete(object_key)
                await self._store.forget_objects([object_key])
            except ObjectStoreError as error:  # a server's next start deletes it
                logger.error(str(error), extra={"action": "object_left", "object": object_key})

    async def _record(self, path: Path, record: PublishedLearngene, *, replace: bool, mend: bool) -> Publication:
        """Store a file and record it, or leave nothing; what cannot be cleaned up now is within the hour."""
        await self._store.announce(record.object_key)
        try:
            await self._files.store(record, path)
            done = await self._store.publish(record, replace=replace, mend=mend, max_total_bytes=self._limits.max_total_bytes)
        except ServiceError:
            await self._give_up(record.object_key)
            raise
        if done.outcome is Outcome.SAME:
            await self._give_up(record.object_key)
        else:
            logger.info("a learngene is published", extra={"action": "learngene_published"} | facts(record))
        return done

    async def _give_up(self, object_key: str) -> None:
        """Delete what was stored, unless it was recorded though no answer of that came."""
        try:
            await self._store.give_up(object_key)
            await self.clean()
        except StoreUnavailableError as error:
            logger.warning("%s", error, extra={"action": "object_left", "object": object_key})
