"""The models' records in Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.domain.errors import CursorUnknownError, ModelNotFoundError, StoreUnavailableError
from service.domain.model import Model, is_model_id
from service.storage import keys

_ADD_MODEL = (Path(__file__).parent / "scripts" / "add_model.lua").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model as it stands in the store: with its time of creation, and its file's sha256 once that was computed."""

    model: Model
    created_at: datetime
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """Some of the models, newest first, and whether more follow."""

    models: tuple[StoredModel, ...]
    has_more: bool


class ModelStore:
    """Models by id and in order of creation. Every method raises `StoreUnavailableError` where Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add_model = redis.register_script(_ADD_MODEL)

    async def ping(self) -> None:
        """Return if Redis answers."""
        async with _unavailable():
            await self._redis.ping()

    async def add(self, model: Model) -> tuple[StoredModel, bool]:
        """Record a model unless it is there; return it, and whether it was added."""
        async with _unavailable():
            record, sha256 = _texts(await self._redis.mget(keys.model(model.id), keys.sha256(model.id)))
            added = False
            if record is None:
                now = datetime.now(UTC)
                added, record = await self._add_model(
                    keys=[keys.model(model.id), keys.MODELS],
                    args=[
                        json.dumps(model.to_json() | {"created_at": now.isoformat()}, separators=(",", ":")),
                        int(now.timestamp() * 1e6),
                        model.id,
                    ],
                )
        created_at = datetime.fromisoformat(json.loads(str(record))["created_at"])
        return StoredModel(model=model, created_at=created_at, sha256=sha256), bool(added)

    async def get(self, model_id: str) -> StoredModel:
        """Return a model; raises `ModelNotFoundError`."""
        if not is_model_id(model_id):
            raise ModelNotFoundError(model_id)
        async with _unavailable():
            record, sha256 = _texts(await self._redis.mget(keys.model(model_id), keys.sha256(model_id)))
        if record is None:
            raise ModelNotFoundError(model_id)
        return _stored(record, sha256)

    async def page(self, *, limit: int, after: str | None) -> ModelPage:
        """Return up to `limit` models, newest first, that come after the model `after`; raises `CursorUnknownError`."""
        async with _unavailable():
            start = 0
            if after is not None:
                rank = await self._redis.zrevrank(keys.MODELS, after) if is_model_id(after) else None
                if not isinstance(rank, int):
                    raise CursorUnknownError(after)
                start = rank + 1
            ids = [str(item) for item in await self._redis.zrevrange(keys.MODELS, start, start + limit)]
            wanted = [key(item) for item in ids[:limit] for key in (keys.model, keys.sha256)]
            records = _texts(await self._redis.mget(wanted)) if wanted else []
        pairs = zip(records[::2], records[1::2], strict=True)
        models = tuple(_stored(record, sha256) for record, sha256 in pairs if record is not None)
        return ModelPage(models=models, has_more=len(ids) > limit)

    async def sha256(self, model_id: str) -> str | None:
        """Return the sha256 of a model's file if it was computed before."""
        async with _unavailable():
            (value,) = _texts([await self._redis.get(keys.sha256(model_id))])
        return value

    async def keep_sha256(self, model_id: str, sha256: str) -> None:
        """Keep the sha256 of a model's file."""
        async with _unavailable():
            await self._redis.set(keys.sha256(model_id), sha256)


@asynccontextmanager
async def _unavailable() -> AsyncIterator[None]:
    """Turn Redis's own connection errors into ours."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise StoreUnavailableError(f"Redis does not answer: {error}") from error
    except RedisError as error:
        raise StoreUnavailableError(f"Redis refused: {error}") from error


def _texts(values: Iterable[object]) -> list[str | None]:
    """Return Redis's answers as the texts that they are: the client decodes, its types do not know."""
    return [None if value is None else str(value) for value in values]


def _stored(record: str, sha256: str | None) -> StoredModel:
    value = json.loads(record)
    return StoredModel(model=Model.from_json(value), created_at=datetime.fromisoformat(value["created_at"]), sha256=sha256)
