"""The data sets' records: added once, listed in order, deleted only when no job needs them, with their objects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from redis.asyncio import Redis

from service.domain.dataset import Dataset
from service.domain.errors import (
    CursorUnknownError,
    DatasetInUseError,
    DatasetNotFoundError,
    ObjectStoreError,
    StoreUnavailableError,
)
from service.ingest.container import Container
from service.ingest.ingestion import Ingestion
from service.ingest.limits import Limits
from service.storage import keys
from service.storage.dataset_store import DatasetStore
from service.storage.object_store import ObjectStore
from tests.service.archives import pets, zipped

ResultT = TypeVar("ResultT")


def dataset(number: int, upload: str = "a") -> Dataset:
    """Return a data set's record."""
    return Dataset(
        id=f"ds-{number:032x}",
        name=f"set {number}",
        class_names=("cat", "空"),
        train_counts=(2, 3),
        test_counts=(0, 1),
        size_bytes=123,
        min_side=8,
        max_side=9,
        formats={"PNG": 6},
        refused={"damaged": 1},
        refused_examples=(("cat/x.png", "damaged"),),
        object_key=f"datasets/{number}-{upload}.arrow",
    )


@pytest.fixture
def url(redis_url: str) -> str:
    """The address of an empty database."""
    with redis.Redis.from_url(f"{redis_url}?db=5") as client:
        client.flushdb()
    return f"{redis_url}?db=5"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    """An object store in a folder."""
    return ObjectStore((tmp_path / "objects").as_uri())


def run(url: str, use: Callable[[DatasetStore, Redis], Awaitable[ResultT]]) -> ResultT:
    """Open a store, use it, close it."""

    async def opened() -> ResultT:
        async with Redis.from_url(url, decode_responses=True) as client:
            return await use(DatasetStore(client), client)

    return asyncio.run(opened())


def put(objects: ObjectStore, key: str, folder: Path) -> None:
    """Store an object."""
    (folder / "content").write_bytes(b"content")
    objects.put_file(key, folder / "content")


def test_what_is_added_is_found(url: str) -> None:
    """A record comes back as it was, with its time."""

    async def use(store: DatasetStore, _: Redis) -> None:
        added, created = await store.add(dataset(1))
        assert created
        assert added.dataset == dataset(1)
        assert await store.get(dataset(1).id) == added

    run(url, use)


def test_the_same_content_keeps_its_first_record(url: str) -> None:
    """A second upload gets the first one's name and object."""

    async def use(store: DatasetStore, _: Redis) -> None:
        first, _ = await store.add(dataset(1))
        assert await store.add(replace(dataset(1, "b"), name="other")) == (first, False)

    run(url, use)


@pytest.mark.parametrize("name", ["ds-" + "0" * 32, "", "nope", "ds-" + "0" * 31 + "G", "../x", "ds-" + "0" * 32 + "\n"])
def test_what_is_not_there_is_not_found(url: str, objects: ObjectStore, name: str) -> None:
    """Reading and deleting name what is missing."""

    async def use(store: DatasetStore, _: Redis) -> None:
        with pytest.raises(DatasetNotFoundError):
            await store.get(name)
        with pytest.raises(DatasetNotFoundError):
            await store.delete(name, objects)

    run(url, use)


def test_pages_are_newest_first(url: str, objects: ObjectStore) -> None:
    """Pages hold every data set once, and no deleted one; a damaged record hides no other."""

    async def use(store: DatasetStore, client: Redis) -> None:
        for number in range(7):
            await store.add(dataset(number))
        await store.delete(dataset(3).id, objects)
        await client.hset(keys.dataset(dataset(5).id), "record", '{"version": 99}')
        seen, after = [], None
        while True:
            page = await store.page(limit=2, after=after)
            seen += [stored.dataset for stored in page.datasets]
            if not page.has_more:
                break
            after = seen[-1].id
        assert seen == [dataset(number) for number in (6, 4, 2, 1, 0)]
        for cursor in ("nope", dataset(3).id):
            with pytest.raises(CursorUnknownError):
                await store.page(limit=2, after=cursor)

    run(url, use)


def test_deleting_deletes_the_object_too(url: str, objects: ObjectStore, tmp_path: Path) -> None:
    """Nothing is left of a deleted data set, in Redis or among the objects."""
    put(objects, dataset(1).object_key, tmp_path)

    async def use(store: DatasetStore, client: Redis) -> None:
        await store.add(dataset(1))
        await store.delete(dataset(1).id, objects)
        assert not objects.exists(dataset(1).object_key)
        assert await client.keys("*") == []

    run(url, use)


def test_a_used_data_set_is_not_deleted(url: str, objects: ObjectStore, tmp_path: Path) -> None:
    """While a job needs it the deletion names the job and changes nothing."""
    put(objects, dataset(1).object_key, tmp_path)

    async def use(store: DatasetStore, client: Redis) -> None:
        await store.add(dataset(1))
        await client.sadd(keys.dataset_jobs(dataset(1).id), "ft-1")
        with pytest.raises(DatasetInUseError, match="ft-1"):
            await store.delete(dataset(1).id, objects)
        assert objects.exists((await store.get(dataset(1).id)).dataset.object_key)
        await client.srem(keys.dataset_jobs(dataset(1).id), "ft-1")
        await store.delete(dataset(1).id, objects)

    run(url, use)


def test_a_deletion_that_died_half_way_is_ended_later(url: str, objects: ObjectStore, tmp_path: Path) -> None:
    """An object whose store was away outlives the record, is remembered, and goes on the next occasion."""
    put(objects, dataset(1).object_key, tmp_path)

    class Away(ObjectStore):
        def delete(self, key: str) -> None:
            raise ObjectStoreError(f"{key}: away")

    away = Away(objects.url)

    async def use(store: DatasetStore, client: Redis) -> None:
        await store.add(dataset(1))
        await store.delete(dataset(1).id, away)
        assert objects.exists(dataset(1).object_key)
        await store.end_doomed(objects)
        assert not objects.exists(dataset(1).object_key)
        assert await client.keys("*") == []

    run(url, use)


def test_deletions_and_uploads_of_one_content_race(url: str, objects: ObjectStore, tmp_path: Path) -> None:
    """Whoever wins, a record that remains has its object, and an object that remains has its record."""

    async def upload(store: DatasetStore, number: int) -> None:
        mine = dataset(1, f"upload{number}")
        (tmp_path / str(number)).mkdir()
        await asyncio.to_thread(put, objects, mine.object_key, tmp_path / str(number))
        _, created = await store.add(mine)
        if not created:
            await objects.delete_async(mine.object_key)

    async def delete(store: DatasetStore) -> None:
        with contextlib.suppress(DatasetNotFoundError):
            await store.delete(dataset(1).id, objects)

    async def use(store: DatasetStore, _: Redis) -> None:
        await asyncio.gather(*(step for number in range(40) for step in (upload(store, number), delete(store))))
        left = [path.name for path in (tmp_path / "objects" / "datasets").iterdir()]
        recorded = [stored.dataset.object_key for stored in (await store.page(limit=10, after=None)).datasets]
        assert [f"datasets/{name}" for name in left] == recorded

    run(url, use)


def test_an_upload_that_could_not_be_recorded_is_settled_later(url: str, objects: ObjectStore, tmp_path: Path) -> None:
    """Without Redis nobody knows whether it was recorded; the next start does, and deletes its object."""
    limits = Limits(max_images=10, max_pixels=1000, max_unpacked_bytes=1_000_000)
    uploads, stored = tmp_path / "uploads", tmp_path / "objects" / "datasets"

    def ingestion(store: DatasetStore) -> Ingestion:
        return Ingestion(uploads, limits=limits, datasets=store, objects=objects)

    async def upload(store: DatasetStore, _: Redis) -> None:
        async with ingestion(store).folder(0) as folder:
            folder.upload.write_bytes(zipped(pets()))
            with pytest.raises(StoreUnavailableError):
                await ingestion(store).ingest(folder, Container.ZIP, "pets")

    run(f"unix://{tmp_path}/none.sock", upload)
    assert len(list(stored.iterdir())) == 1
    assert [path.name for path in uploads.rglob("*") if path.is_file() and path.suffix != ".lock"] == ["claim"]
    run(url, lambda store, _: ingestion(store).clean())
    assert list(stored.iterdir()) == list(uploads.iterdir()) == []


def test_redis_away_is_named(tmp_path: Path) -> None:
    """Without Redis every method says so."""

    async def use(store: DatasetStore, _: Redis) -> None:
        for call in (store.get(dataset(1).id), store.add(dataset(1)), store.page(limit=1, after=None)):
            with pytest.raises(StoreUnavailableError):
                await call

    run(f"unix://{tmp_path}/none.sock", use)
