"""The models' records in Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.domain.errors import CursorUnknownError, ModelNotFoundError, StoreUnavailableError, UnreadableRecordError
from service.domain.model import Model, StoredModel, is_model_id
from service.storage import keys

logger = logging.getLogger(__name__)

_FIELDS = ("record", "created_at", "sha256")
_SCRIPTS = Path(__file__).parent / "scripts"
_ADD_MODEL = (_SCRIPTS / "add_model.lua").read_text()
_PAGE_MODELS = (_SCRIPTS / "page_models.lua").read_text()


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
        self._page_models = redis.register_script(_PAGE_MODELS)

    async def ping(self) -> None:
        """Return if Redis answers."""
        async with _unavailable():
            await self._redis.ping()

    async def add(self, model: Model) -> tuple[StoredModel, bool]:
        """Record a model unless it is there; return it, and whether it was added."""
        key = keys.model(model.id)
        async with _unavailable():
            created_at, sha256 = _texts(await self._redis.hmget(key, "created_at", "sha256"))
            added = False
            if created_at is None:
                now = datetime.now(UTC)
                record = json.dumps(model.to_json(), separators=(",", ":"))
                added, created_at = await self._add_model(
                    keys=[key, keys.MODELS], args=[record, now.isoformat(), int(now.timestamp() * 1e6), model.id]
                )
        stored = StoredModel(model=model, created_at=datetime.fromisoformat(str(created_at)), sha256=sha256)
        return stored, bool(added)

    async def get(self, model_id: str) -> StoredModel:
        """Return a model; raises `ModelNotFoundError`."""
        if not is_model_id(model_id):
            raise ModelNotFoundError(model_id)
        async with _unavailable():
            fields = _texts(await self._redis.hmget(keys.model(model_id), *_FIELDS))
        stored = _stored(fields)
        if stored is None:
            raise ModelNotFoundError(model_id)
        return stored

    async def page(self, *, limit: int, after: str | None) -> ModelPage:
        """Return up to `limit` models, newest first, that come after the model `after`; raises `CursorUnknownError`."""
        if after is not None and not is_model_id(after):
            raise CursorUnknownError(after)
        async with _unavailable():
            ids = await self._page_models(keys=[keys.MODELS], args=[limit + 1, after or ""])
            if ids is None:
                raise CursorUnknownError(str(after))
            async with self._redis.pipeline(transaction=False) as pipeline:
                for model_id in ids[:limit]:
                    pipeline.hmget(keys.model(model_id), *_FIELDS)
                rows = await pipeline.execute()
        models = []
        for model_id, row in zip(ids, rows, strict=False):
            try:
                stored = _stored(_texts(row))
            except UnreadableRecordError as error:  # one damaged record must not hide the others
                logger.error(str(error), extra={"action": "record_skipped", "model": model_id})
                continue
            if stored is not None:
                models.append(stored)
        return ModelPage(models=tuple(models), has_more=len(ids) > limit)

    async def sha256(self, model_id: str) -> str | None:
        """Return the sha256 of a model's file if it was computed before."""
        async with _unavailable():
            (value,) = _texts(await self._redis.hmget(keys.model(model_id), "sha256"))
        return value

    async def keep_sha256(self, model_id: str, sha256: str) -> None:
        """Keep the sha256 of a model's file."""
        async with _unavailable():
            await self._redis.hset(keys.model(model_id), "sha256", sha256)


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


def _stored(fields: list[str | None]) -> StoredModel | None:
    """Return the model of the fields `_FIELDS`, or None where it was not created."""
    record, created_at, sha256 = fields
    if record is None or created_at is None:
        return None
    try:
        return StoredModel(
            model=Model.from_json(json.loads(record)), created_at=datetime.fromisoformat(created_at), sha256=sha256
        )
    except ValueError as error:
        raise UnreadableRecordError(str(error)) from error
