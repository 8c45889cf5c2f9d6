"""The pulse: a file that a worker touches while it is well, so that a container's health check, which finds no port, sees it.

It says nothing of Redis: a worker that waits for a Redis that is away is well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

PERIOD_S = 3.0  # some times within the half minute that the image's health check allows


async def keep_pulse(file: Path, is_well: Callable[[], bool], *, period_s: float = PERIOD_S) -> None:
    """Touch `file` every `period_s` as long as `is_well` says so and the event loop turns; runs until it is cancelled."""
    failed = False
    while True:
        if is_well():
            try:
                file.touch()
                failed = False
            except OSError as error:
                if not failed:
                    logger.warning("no pulse: %s", error, extra={"action": "pulse_failed"})
                failed = True
        await asyncio.sleep(period_s)
