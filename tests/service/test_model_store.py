"""The store's contract: idempotent, atomic, ordered; and Redis holds the documented keys and no others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from redis.asyncio import Redis
from starlette.testclient import TestClient

from service.domain.catalogue import Catalogue, ModelRequest
from service.domain.errors import CursorUnknownError, ModelNotFoundError, StoreUnavailableError
from service.domain.model import Model, StoredModel
from service.storage import keys
from service.storage.embedded_redis import EmbeddedRedis
from service.storage.learngene_registry import load_catalogue
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import Workshop
from tleg_core.budget import Budget

ResultT = TypeVar("ResultT")
Run = Callable[[Callable[[ModelStore], Awaitable[ResultT]]], ResultT]


@pytest.fixture(scope="module")
def catalogue(learngene_files: list[Path]) -> Catalogue:
    """The tiny learngenes."""
    return load_catalogue(learngene_files, shipped=False)


@pytest.fixture(scope="module")
def models(catalogue: Catalogue) -> list[Model]:
    """Twelve models."""
    requests = [ModelRequest(learngene="tiny-tleg", budget=Budget(depth=depth)) for depth in range(1, 13)]
    return [catalogue.resolve(request).model for request in requests]


def run_on(url: str, use: Callable[[ModelStore], Awaitable[ResultT]]) -> ResultT:
    """Open a store on a Redis, use it, close it."""

    async def run() -> ResultT:
        async with Redis.from_url(url, decode_responses=True) as client:
            return await use(ModelStore(client))

    return asyncio.run(run())


@pytest.fixture
def run(redis_url: str) -> Run[ResultT]:
    """Use a store on an empty database: `run(lambda store: store.ping())`."""
    url = f"{redis_url}?db=3"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return lambda use: run_on(url, use)


def test_a_model_is_added_once(run: Run[list[tuple[StoredModel, bool]]], models: list[Model]) -> None:
    """The second add returns what the first recorded, its time included."""

    async def use(store: ModelStore) -> list[tuple[StoredModel, bool]]:
        return [await store.add(models[0]) for _ in range(2)]

    (first, was_added), (second, was_added_again) = run(use)
    assert (was_added, was_added_again) == (True, False)
    assert first == second
    assert first.model == models[0]


def test_of_many_adds_at_once_exactly_one_adds(run: Run[list[tuple[StoredModel, bool]]], models: list[Model]) -> None:
    """A hundred concurrent adds of two models: each is recorded once, and all see the same records."""

    async def use(store: ModelStore) -> list[tuple[StoredModel, bool]]:
        return await asyncio.gather(*(store.add(models[index % 2]) for index in range(100)))

    results = run(use)
    assert sum(added for _, added in results) == 2
    for index in range(2):
        assert len({stored.created_at for stored, _ in results[index::2]}) == 1


def test_a_record_reads_back_as_it_was(run: Run[StoredModel], catalogue: Catalogue) -> None:
    """Costs, accuracy, recipe and timm's arguments survive the way through Redis."""
    model = catalogue.resolve(ModelRequest(budget=Budget(depth=3))).model
    assert model.accuracy

    async def use(store: ModelStore) -> StoredModel:
        await store.add(model)
        await store.keep_sha256(model.id, "0" * 64)
        return await store.get(model.id)

    stored = run(use)
    assert (stored.model, stored.sha256) == (model, "0" * 64)


@pytest.mark.parametrize("limit", [1, 5, 12, 100])
def test_pages_give_every_model_once_newest_first(run: Run[list[str]], models: list[Model], limit: int) -> None:
    """Whatever the size of the pages."""

    async def use(store: ModelStore) -> list[str]:
        for model in models:
            await store.add(model)
        seen: list[str] = []
        while True:
            page = await store.page(limit=limit, after=seen[-1] if seen else None)
            seen += [stored.model.id for stored in page.models]
            if not page.has_more:
                return seen

    assert run(use) == [model.id for model in reversed(models)]


def test_an_empty_store_has_an_empty_page(run: Run[tuple[int, bool]]) -> None:
    """No models, nothing more."""

    async def use(store: ModelStore) -> tuple[int, bool]:
        page = await store.page(limit=10, after=None)
        return len(page.models), page.has_more

    assert run(use) == (0, False)


def test_what_is_not_there_is_an_error_of_its_own(run: Run[None], models: list[Model]) -> None:
    """Unknown ids and cursors, and texts that are no ids at all."""

    async def use(store: ModelStore) -> None:
        for text in (models[0].id, "nobody", "", "models", "*"):
            with pytest.raises(ModelNotFoundError):
                await store.get(text)
            with pytest.raises(CursorUnknownError):
                await store.page(limit=1, after=text)
        assert await store.sha256(models[0].id) is None

    run(use)


METHODS: dict[str, Callable[[ModelStore, Model], Awaitable[object]]] = {
    "ping": lambda store, _: store.ping(),
    "add": lambda store, model: store.add(model),
    "get": lambda store, model: store.get(model.id),
    "page": lambda store, _: store.page(limit=1, after=None),
    "page after": lambda store, model: store.page(limit=1, after=model.id),
    "sha256": lambda store, model: store.sha256(model.id),
    "keep_sha256": lambda store, model: store.keep_sha256(model.id, "0" * 64),
}


@pytest.mark.parametrize("method", METHODS)
def test_without_redis_every_method_says_so(models: list[Model], tmp_path: Path, method: str) -> None:
    """Our own error, never the client library's."""
    with pytest.raises(StoreUnavailableError, match="Redis does not answer"):
        run_on(f"unix://{tmp_path}/nobody.sock", lambda store: METHODS[method](store, models[0]))


def test_a_redis_without_memory_refuses_writes_and_still_reads(
    models: list[Model], tmp_path: Path, open_api: ApiFactory
) -> None:
    """`noeviction`: nothing recorded is ever dropped; a new model is a 503, an old one still there."""
    with EmbeddedRedis(tmp_path) as embedded, open_api(embedded.url) as api:
        old = api.post("/models", json={"budget": {"depth": 2}}).json()
        with redis.Redis.from_url(embedded.url) as client:
            client.config_set("maxmemory", "1mb")
            client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError, match="Redis refused"):
            run_on(embedded.url, lambda store: store.keep_sha256(models[0].id, "0" * 64))
        answer = api.post("/models", json={"budget": {"depth": 3}})
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert api.get(old["links"]["self"]).json()["id"] == old["id"]


def documented_keys() -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns and Redis types of the table in keys.py."""
    rows = re.findall(r"^\| `(tleg:[^`]+)`\s*\|\s*([a-z ]+?)\s*\|", keys.__doc__ or "", flags=re.MULTILINE)
    assert rows
    return [(re.compile(re.sub(r"\{\w+\}", "[^:]+", key)), kind.replace("sorted set", "zset")) for key, kind in rows]


def test_redis_holds_the_documented_keys_only(
    empty_api: TestClient, redis_url: str, data_dir: Path, learngene_files: list[Path], tmp_path: Path
) -> None:
    """After use of each route that writes models, every key stands in the table of keys.py, of its type, for ever."""
    model = empty_api.post("/models", json={"budget": {"depth": 3}}).json()
    empty_api.post("/models/batch", json={"requests": [{"num_classes": 3}, {"budget": {"max_params": 1}}]})
    empty_api.get(model["links"]["self"])
    empty_api.get(f"/tleg/{model['id']}/resolve/main/model.safetensors")
    empty_api.get("/tleg/tiny-tleg-d4/resolve/main/model.safetensors")
    objects = ObjectStore((data_dir / "objects").as_uri())
    url = f"{redis_url}?db=1"
    Workshop(redis_url=url, objects=objects, learngenes=learngene_files, folder=tmp_path).publish(model["id"])
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found = {key: client.type(key) for key in client.scan_iter()}
        assert all(client.ttl(key) == -1 for key in found)
    table = documented_keys()
    for key, kind in found.items():
        assert [kind] == [documented for pattern, documented in table if pattern.fullmatch(key)], key
    ours = [pattern for pattern, _ in table if pattern.pattern.startswith("tleg:model")]
    assert all(any(pattern.fullmatch(key) for key in found) for pattern in ours)


def test_the_list_and_the_records_agree(empty_api: TestClient, redis_url: str) -> None:
    """add_model.lua's invariant: an id stands in the set if and only if its record exists."""
    for depth in range(1, 9):
        empty_api.post("/models", json={"budget": {"depth": depth}})
    with redis.Redis.from_url(f"{redis_url}?db=1", decode_responses=True) as client:
        listed = {keys.model(str(model_id)) for model_id in client.zrange(keys.MODELS, 0, -1)}
        assert listed == set(client.scan_iter("tleg:model:*"))
