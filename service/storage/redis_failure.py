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
    """Turn the errors of Redis and of the way to it into `StoreUnavailableError`.

    Its message names no address and no script, for it goes to clients; the error itself is the cause, which logs show.
    """
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise StoreUnavailableError("Redis does not answer") from error
    except RedisError as error:
        raise StoreUnavailableError(f"Redis refused ({type(error).__name__})") from error
