"""The learngenes of a process: its own files, and those that were published, which join and leave while it runs.

Every API process and every worker has a registry. It holds a `Catalogue`, and puts another in its place when Redis says that
something was published or deleted. Where Redis or the object store is away, what was there stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tleg_core
from service.domain.catalogue import Catalogue, Origin, Source
from service.domain.errors import (
    LearngeneFixedError,
    LearngeneNotFoundError,
    ObjectStoreError,
    StoreUnavailableError,
)
from service.domain.model import Model
from service.domain.published_learngene import Publication, PublishedLearngene
from service.storage.learngene_files import LearngeneFiles, facts
from service.storage.learngene_publisher import LearngenePublisher, PublicationLimits
from service.storage.learngene_store import LearngeneListing, LearngeneStore
from service.storage.object_store import ObjectStore
from tleg_core.canonical import sha256_hex
from tleg_core.family import Family
from tleg_core.learngene import Learngene

logger = logging.getLogger(__name__)

WATCH_S = 1.0
"""Seconds between two looks at the version in Redis."""
SPARE_BYTES = 512 * 1024**2
"""What learngenes may take that are not served and that models are made from; the last one that was needed may be larger."""
_CLEAN_S = 60.0
_PAUSES_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # between tries to load what could not be loaded


def shipped_paths() -> list[Path]:
    """Return the learngene files that are part of the package, by name; the baselines, in which nothing is, come last."""
    files = (Path(tleg_core.__file__).parent / "shipped").glob("*.safetensors")
    return sorted(files, key=lambda path: (path.stem.startswith("scratch-"), path))


def load_catalogue(paths: Iterable[Path], *, shipped: bool = True) -> Catalogue:
    """Open every learngene and return the catalogue of their families; a file named twice is opened once.

    Raises:
        LearngeneFileError: A file cannot be used.
        ConfigError: Two learngenes share a name or a digest.
    """
    own = shipped_paths() if shipped else []
    files = {path.resolve(): path for path in [*own, *(path.expanduser() for path in paths)]}
    of_package = {path.resolve() for path in shipped_paths()}
    families, origins = [], {}
    for resolved, path in files.items():
        family = Family(Learngene.open(path))
        source = Source.SHIPPED if resolved in of_package else Source.CONFIGURED
        families.append(family)
        origins[family.name] = Origin(source=source, sha256=sha256_hex(family.learngene.content))
    return Catalogue(families, origins)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A published learngene in memory."""

    record: PublishedLearngene
    family: Family

    @property
    def origin(self) -> Origin:
        """Where it comes from."""
        return Origin(source=Source.PUBLISHED, sha256=self.record.sha256, published_at=self.record.published_at)


class LearngeneRegistry:
    """The learngenes that a process serves.

    Args:
        own: Those of its own files; nothing can be published in their place.
        store: The records of the published ones.
        objects: Their files.
        limits: What may be published.
        serving: Whether all that is published is held; a worker loads what its jobs need, and no more.
    """

    def __init__(
        self,
        own: Catalogue,
        store: LearngeneStore,
        objects: ObjectStore,
        *,
        limits: PublicationLimits | None = None,
        serving: bool = True,
    ) -> None:
        self._own = own
        self._store = store
        self._files = LearngeneFiles(objects)
        self._publisher = LearngenePublisher(own, store, self._files, limits or PublicationLimits())
        self._serving = serving
        self._origins = {family.name: own.origin(family.name) for family in own.families}
        self._published: dict[str, _Loaded] = {}
        self._spare: OrderedDict[str, Family] = OrderedDict()
        self._at_hand: dict[str, Family] = {}  # by object key: what was just stored need not be read
        self._version: str | None = None
        self._failures = 0
        self._retry_at = float("inf")
        self._changing = asyncio.Lock()
        self.generation = 0
        """Another number after each change: what was derived from families that may be gone is to be let go."""
        self.catalogue = own
        self._swap({})

    async def refresh(self) -> bool:
        """Serve what is published now; return whether anything changed. What cannot be loaded is logged and left out.

        Raises:
            StoreUnavailableError: Redis does not answer; all stays as it was.
        """
        async with self._changing:
            version = await self._store.version()
            if not self._serving or (version == self._version and time.monotonic() < self._retry_at):
                return False
            listing = await self._store.listing()
            published, complete = await self._load(listing)
            self._version = listing.version
            self._retry_at = float("inf")
            if complete:
                self._failures = 0
            else:
                self._retry_at = time.monotonic() + _PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)]
                self._failures += 1
            if published == self._published:
                return False
            self._swap(published)
            return True

    async def _load(self, listing: LearngeneListing) -> tuple[dict[str, _Loaded], bool]:
        """Return what is to be served, and whether that is all; where a file cannot be had, what the name had stays."""
        published: dict[str, _Loaded] = {}
        complete, away = True, False
        for record in listing.learngenes:
            if self._is_shadowed(record):
                continue
            loaded = self._published.get(record.name)
            if loaded is None or loaded.record != record:
                family = self._at_hand.get(record.object_key)
                if family is None and not away:
                    try:
                        family = await self._files.load(record)
                    except ObjectStoreError as error:  # the others' files would be waited for in vain, too
                        logger.error(str(error), extra={"action": "learngene_left_out"} | facts(record))
                        away = True
                if family is None:
                    complete = False
                else:
                    loaded = _Loaded(record, family)
            if loaded is not None and all(loaded.family.digest != other.family.digest for other in published.values()):
                published[record.name] = loaded
        return published, complete

    async def look_for(self, name: str | None) -> None:
        """See whether a learngene that the catalogue lacks was published meanwhile; raises `StoreUnavailableError`."""
        if name is not None and name not in self.catalogue:
            await self.refresh()

    async def provide(self, digest: str) -> None:
        """See to it that the catalogue knows the learngene of a digest, where it is published or was superseded.

        Raises:
            StoreUnavailableError, ObjectStoreError: It is not loaded, and cannot be now.
        """
        if self.catalogue.family_by_digest(digest) is not None:
            if digest in self._spare:
                self._spare.move_to_end(digest)
            return
        await self.refresh()
        async with self._changing:
            if self.catalogue.family_by_digest(digest) is not None:
                return
            record = await self._store.find(digest)
            if record is None:
                return
            family = await self._files.load(record)
            if family is None:
                return
            self._spare[digest] = family
            while len(self._spare) > 1 and sum(len(item.learngene.content) for item in self._spare.values()) > SPARE_BYTES:
                self._spare.popitem(last=False)
                self.generation += 1

    async def provide_for(self, model: Model) -> None:
        """The same for the learngene that a model is expanded from; a fine-tuned one needs none."""
        if model.fine_tuning is None:
            await self.provide(model.recipe.learngene)

    async def object_key(self, model: Model) -> str | None:
        """Return where the file lies that a worker's engine expands a model from; None where it has it, or needs none.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        record = None if model.fine_tuning is not None else await self.record_of(model.recipe.learngene)
        return None if record is None else record.object_key

    async def record_of(self, digest: str) -> PublishedLearngene | None:
        """Return the record of the published file of a digest, current or superseded; None for the process's own too.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        return None if self._own.family_by_digest(digest) is not None else await self._store.find(digest)

    async def watch(self) -> None:
        """Refresh when Redis says so, and delete files whose time has come, until cancelled.

        A cancellation that comes while Redis is asked may reach us as an answer or a time-out: redis-py loses some.
        """
        away, cleaned_at = False, time.monotonic()
        own = asyncio.current_task()
        while own is None or not own.cancelling():
            await asyncio.sleep(WATCH_S)
            try:
                await self.refresh()
                if time.monotonic() - cleaned_at >= _CLEAN_S:
                    cleaned_at = time.monotonic()
                    await self.clean()
                away = False
            except StoreUnavailableError as error:
                if not away:
                    logger.warning("%s; learngenes stay as they are", error, extra={"action": "redis_away"})
                away = True
            except Exception:
                logger.exception("looking for published learngenes failed", extra={"action": "watch_failed"})

    async def publish(self, path: Path, *, publication: str, replace: bool = False) -> Publication:
        """Publish a learngene's file: here at once, elsewhere within about a second. The file may be gone afterwards.

        The arguments and errors are `LearngenePublisher.publish`'s.
        """
        async with self._publisher.published(path, publication=publication, replace=replace) as (done, family):
            self._at_hand = {done.record.object_key: family}
            try:
                await self._refresh_after()
            finally:
                self._at_hand = {}
        return done

    async def check_name(self, name: str, *, replace: bool = False) -> None:
        """Return if a learngene could be published under a name now.

        Raises:
            LearngeneTakenError: It could not.
            StoreUnavailableError: Redis does not answer.
        """
        await self._publisher.check(name, digest=None, replace=replace)

    async def delete(self, name: str) -> None:
        """Delete a published learngene, and every file that was published under its name.

        Raises:
            LearngeneFixedError: It is one of the process's own.
            LearngeneNotFoundError: There is none.
            StoreUnavailableError: Redis does not answer.
        """
        if name in self._own:
            raise LearngeneFixedError(name)
        if not await self._publisher.delete(name):
            raise LearngeneNotFoundError(name, sorted(family.name for family in self.catalogue.families if family.name != name))
        await self._refresh_after()
        try:
            await self.clean()
        except StoreUnavailableError as error:
            logger.warning("%s", error, extra={"action": "object_left"})

    async def clean(self) -> None:
        """Delete the files that no record names any more; raises `StoreUnavailableError`."""
        await self._publisher.clean()

    async def _refresh_after(self) -> None:
        """Refresh after a change that was made; where Redis has gone meanwhile, the watch does it."""
        try:
            await self.refresh()
        except StoreUnavailableError as error:
            logger.warning("%s", error, extra={"action": "redis_away"})

    def _is_shadowed(self, record: PublishedLearngene) -> bool:
        """Whether one of our own files has the name or the weights of a published one; ours is served."""
        if record.name not in self._own and self._own.family_by_digest(record.digest) is None:
            return False
        logger.warning("one of our own files is served instead", extra={"action": "learngene_shadowed"} | facts(record))
        return True

    def _swap(self, published: dict[str, _Loaded]) -> None:
        """Serve these beside our own, whose names and digests they do not have."""
        for loaded in published.values():
            self._spare.pop(loaded.family.digest, None)
        families = [*self._own.families, *(loaded.family for loaded in published.values())]
        origins = self._origins | {name: loaded.origin for name, loaded in published.items()}
        self.catalogue = Catalogue(families, origins, self._spare)
        self._published = published
        self.generation += 1
