"""How long to go on with a server that was there and is away: over its restart, but not for ever."""

from __future__ import annotations

import time

from service.client.errors import ClientError


class Patience:
    """Lasts `patience_s` seconds from the last time that the server answered."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._deadline = time.monotonic() + patience_s

    def renew(self) -> None:
        """The server has answered."""
        self._deadline = time.monotonic() + self._patience_s

    def lose(self, error: ClientError) -> None:
        """It has not; raises the error where it is a refusal that no waiting mends, or patience has run out."""
        refused = error.problem is not None and error.problem.status < 500
        if refused or time.monotonic() >= self._deadline:
            raise error
