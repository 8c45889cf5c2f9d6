"""Redis's failures as ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.domain.errors import StoreUnavailableError


@asynccontextmanager
async def redis_failures() -> AsyncIterator[None]:
    """Turn the errors of Redis and of the way to it into `StoreUnavailableError`."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise StoreUnavailableError(f"Redis does not answer: {error}") from error
    except RedisError as error:
        raise StoreUnavailableError(f"Redis refused: {error}") from error
