"""The data sets' records in Redis, and the end of the objects that they name.

Each upload has an object of its own, so none is ever named by two records: a deletion may race an upload of the same content,
and either way the record that remains has its object.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from service.domain.dataset import Dataset, StoredDataset, is_dataset_id
from service.domain.errors import (
    CursorUnknownError,
    DatasetInUseError,
    DatasetNotFoundError,
    ObjectStoreError,
    UnreadableRecordError,
)
from service.storage import keys
from service.storage.object_store import ObjectStore
from service.storage.redis_failure import redis_failures

logger = logging.getLogger(__name__)

_FIELDS = ("record", "created_at")
_JOBS_NAMED = 6
_SCRIPTS = Path(__file__).parent / "scripts"
_ADD_DATASET = (_SCRIPTS / "add_dataset.lua").read_text()
_PAGE_DATASETS = (_SCRIPTS / "page_models.lua").read_text()
_DELETE_DATASET = (_SCRIPTS / "delete_dataset.lua").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPage:
    """Some of the data sets, newest first, and whether more follow."""

    datasets: tuple[StoredDataset, ...]
    has_more: bool


class DatasetStore:
    """Data sets by id and in order of creation. Every method raises `StoreUnavailableError` where Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add_dataset = redis.register_script(_ADD_DATASET)
        self._page_datasets = redis.register_script(_PAGE_DATASETS)
        self._delete_dataset = redis.register_script(_DELETE_DATASET)

    async def add(self, dataset: Dataset) -> tuple[StoredDataset, bool]:
        """Record a data set whose object is stored, unless its content is there; return the record, and whether it was added.

        Where it was there, the record is as it was first given, and names another object than `dataset`'s.
        """
        now = datetime.now(UTC)
        record = json.dumps(dataset.to_json(), separators=(",", ":"))
        async with redis_failures():
            added, *existing = await self._add_dataset(
                keys=[keys.dataset(dataset.id), keys.DATASETS],
                args=[record, now.isoformat(), int(now.timestamp() * 1e6), dataset.id],
            )
        if added:
            return StoredDataset(dataset=dataset, created_at=now), True
        return _read(*existing), False

    async def get(self, dataset_id: str) -> StoredDataset:
        """Return a data set; raises `DatasetNotFoundError`."""
        if not is_dataset_id(dataset_id):
            raise DatasetNotFoundError(dataset_id)
        async with redis_failures():
            record, created_at = await self._redis.hmget(keys.dataset(dataset_id), *_FIELDS)
        if record is None or created_at is None:
            raise DatasetNotFoundError(dataset_id)
        return _read(record, created_at)

    async def page(self, *, limit: int, after: str | None) -> DatasetPage:
        """Return up to `limit` data sets, newest first, that come after the one `after`; raises `CursorUnknownError`."""
        if after is not None and not is_dataset_id(after):
            raise CursorUnknownError(after)
        async with redis_failures():
            ids = await self._page_datasets(keys=[keys.DATASETS], args=[limit + 1, after or ""])
        if ids is None:
            raise CursorUnknownError(str(after))
        datasets = []
        for dataset_id in ids[:limit]:  # one by one: with 65,536 classes a record has megabytes, and others get their turn
            try:
                datasets.append(await self.get(dataset_id))
            except DatasetNotFoundError:
                continue  # deleted since
            except UnreadableRecordError as error:  # one damaged record must not hide the others
                logger.error(str(error), extra={"action": "record_skipped", "dataset": dataset_id})
        return DatasetPage(datasets=tuple(datasets), has_more=len(ids) > limit)

    async def delete(self, dataset_id: str, objects: ObjectStore) -> None:
        """Delete a data set and its object.

        Raises:
            DatasetNotFoundError: There is none.
            DatasetInUseError: Jobs that have not ended need it.
        """
        if not is_dataset_id(dataset_id):
            raise DatasetNotFoundError(dataset_id)
        key = keys.dataset(dataset_id)
        async with redis_failures():
            answer = await self._delete_dataset(
                keys=[key, keys.DATASETS, keys.dataset_jobs(dataset_id), keys.DOOMED_OBJECTS], args=[dataset_id, _JOBS_NAMED]
            )
        if answer is None:
            raise DatasetNotFoundError(dataset_id)
        deleted, *rest = answer
        if not deleted:
            raise DatasetInUseError(dataset_id, sorted(rest))
        await self._end(rest[0], objects)

    async def names_object(self, dataset_id: str, object_key: str) -> bool:
        """Whether there is a data set, and the object is its own."""
        try:
            return (await self.get(dataset_id)).dataset.object_key == object_key
        except DatasetNotFoundError:
            return False

    async def end_doomed(self, objects: ObjectStore) -> None:
        """Delete the objects of deleted data sets that outlived a crash, or an object store that was away."""
        async with redis_failures():
            doomed = await self._redis.smembers(keys.DOOMED_OBJECTS)
        for object_key in doomed:
            await self._end(str(object_key), objects)

    async def _end(self, object_key: str, objects: ObjectStore) -> None:
        try:
            await objects.delete_async(object_key)
        except ObjectStoreError as error:  # the record is gone, so to the user the data set is too
            logger.error(str(error), extra={"action": "object_left", "object": object_key})
            return
        async with redis_failures():
            await self._redis.srem(keys.DOOMED_OBJECTS, object_key)


def _read(record: Any, created_at: Any) -> StoredDataset:
    try:
        return StoredDataset(dataset=Dataset.from_json(json.loads(record)), created_at=datetime.fromisoformat(created_at))
    except (ValueError, AttributeError) as error:
        raise UnreadableRecordError(str(error)) from error
