"""The scripts on one job: loaded once, each behind `scripts/job.lua`, and given the keys and arguments that it describes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from service.domain.job import TRANSITIONS, Lane
from service.storage import keys
from service.storage.job_message import JobMessage
from service.storage.redis_failure import redis_failures

_FOLDER = Path(__file__).parent / "scripts"
_NAMES: Final = ("create_job", "claim_job", "command_job", "write_job", "end_attempt", "sweep_job")
_TABLE: Final = json.dumps([[status, sorted(following)] for status, following in TRANSITIONS.items()])
_STATUS_KEYS: Final = tuple(keys.jobs_of_status(status) for status in TRANSITIONS)


class JobScripts:
    """Every change of a job."""

    def __init__(self, redis: Redis) -> None:
        prelude = (_FOLDER / "job.lua").read_text()
        self._scripts = {name: redis.register_script(prelude + (_FOLDER / f"{name}.lua").read_text()) for name in _NAMES}
        self._page = redis.register_script((_FOLDER / "page_jobs.lua").read_text())

    async def run(
        self, name: str, job_id: str, dataset_id: str, args: Iterable[str | int], *, more_keys: Iterable[str] = ()
    ) -> Any:
        """Run a script on one job; raises `StoreUnavailableError`."""
        message = JobMessage.of(job_id)
        (other,) = set(Lane) - {message.lane}
        async with redis_failures():
            return await self._scripts[name](
                keys=[
                    keys.job(job_id),
                    keys.job_events(job_id),
                    keys.queue_list(message.lane),
                    keys.queue_messages(message.lane),
                    keys.dataset_jobs(dataset_id),
                    keys.JOBS,
                    keys.LEARNGENES_IN_TRAINING,
                    keys.queue_list(other),
                    keys.queue_messages(other),
                    *_STATUS_KEYS,
                    *more_keys,
                ],
                args=[_TABLE, message.id, message.data, *args],
            )

    async def page(self, listed: str, args: Iterable[str | int]) -> Any:
        """Look through the jobs of a sorted set, as `page_jobs.lua` says."""
        return await self._page(keys=[listed], args=args)
