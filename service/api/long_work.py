"""Work whose time grows with the members of learngenes: where there are many, it is done beside the event loop.

A pool may have thousands of members, a server many such pools, and to cost a member takes up to a tenth of a millisecond. One
thread at a time does such work: threads share one interpreter, and each more makes all others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")

SMALL = 256
"""So many members and accuracies are looked at on the event loop: it takes milliseconds, and a turn may take longer."""


class LongWork:
    """The turns of one server."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[[], ResultT], *, size: int) -> ResultT:
        """Return what `work` returns, or raise what it raises; `size` is that of what it looks at (`Catalogue.size`)."""
        if size <= SMALL:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
