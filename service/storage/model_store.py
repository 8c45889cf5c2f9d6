"""The models' records in Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from service.domain.errors import CursorUnknownError, ModelNotFoundError, UnreadableRecordError
from service.domain.model import Model, ModelKind, StoredModel, is_model_id
from service.storage import keys
from service.storage.redis_failure import redis_failures

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
        async with redis_failures():
            await self._redis.ping()

    async def add(self, model: Model) -> tuple[StoredModel, bool]:
        """Record a model unless it is there; return it as it is recorded, and whether it was added."""
        key = keys.model(model.id)
        async with redis_failures():
            created_at, sha256 = _texts(await self._redis.hmget(key, "created_at", "sha256"))
            added = False
            if created_at is None:
                now = datetime.now(UTC)
                record = json.dumps(model.to_json(), separators=(",", ":"))
                listed = [keys.MODELS] if model.fine_tuning is None else [keys.MODELS, keys.FINE_TUNED_MODELS]
                added, created_at = await self._add_model(
                    keys=[key, *listed], args=[record, now.isoformat(), int(now.timestamp() * 1e6), model.id]
                )
        if model.fine_tuning is not None:
            if not added:  # another job made the same file, and its record stands
                return await self.get(model.id), False
            sha256 = model.fine_tuning.weights_sha256
        stored = StoredModel(model=model, created_at=datetime.fromisoformat(str(created_at)), sha256=sha256)
        return stored, bool(added)

    async def get(self, model_id: str) -> StoredModel:
        """Return a model; raises `ModelNotFoundError`."""
        if not is_model_id(model_id):
            raise ModelNotFoundError(model_id)
        async with redis_failures():
            fields = _texts(await self._redis.hmget(keys.model(model_id), *_FIELDS))
        stored = _stored(fields)
        if stored is None:
            raise ModelNotFoundError(model_id)
        return stored

    async def page(self, *, limit: int, after: str | None, kind: ModelKind | None = None) -> ModelPage:
        """Return up to `limit` models, newest first, that come after the model `after`; raises `CursorUnknownError`.

        With `kind`, only those of one kind, among which `after` must be.
        """
        if after is not None and not is_model_id(after):
            raise CursorUnknownError(after)
        async with redis_failures():
            listed = [keys.FINE_TUNED_MODELS if kind is ModelKind.FINE_TUNED else keys.MODELS]
            left_out = [keys.FINE_TUNED_MODELS] if kind is ModelKind.EXPANDED else []
            ids = await self._page_models(keys=listed + left_out, args=[limit + 1, after or ""])
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
        async with redis_failures():
            (value,) = _texts(await self._redis.hmget(keys.model(model_id), "sha256"))
        return value

    async def keep_sha256(self, model_id: str, sha256: str) -> None:
        """Keep the sha256 of a model's file."""
        async with redis_failures():
            await self._redis.hset(keys.model(model_id), "sha256", sha256)


def _texts(values: Iterable[object]) -> list[str | None]:
    """Return Redis's answers as the texts that they are: the client decodes, its types do not know."""
    return [None if value is None else str(value) for value in values]


def _stored(fields: list[str | None]) -> StoredModel | None:
    """Return the model of the fields `_FIELDS`, or None where it was not created."""
    record, created_at, sha256 = fields
    if record is None or created_at is None:
        return None
    try:
        model = Model.from_json(json.loads(record))
        known = sha256 if model.fine_tuning is None else model.fine_tuning.weights_sha256
        return StoredModel(model=model, created_at=datetime.fromisoformat(created_at), sha256=known)
    except ValueError as error:
        raise UnreadableRecordError(str(error)) from error
