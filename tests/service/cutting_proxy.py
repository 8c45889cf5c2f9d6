"""A TCP proxy that cuts connections after a random number of bytes, or answers 503 itself."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LINGER_NOT = struct.pack("ii", 1, 0)  # close with a reset


class CuttingProxy:
    """Listens on a port of its own; use it as a context manager.

    Args:
        upstream: Returns the server's port, asked for each connection.
        cut_after: The fewest and the most bytes of an answer that pass before its connection is cut.
        busy: Share of connections that are answered 503.
    """

    def __init__(self, upstream: Callable[[], int], *, cut_after: tuple[int, int], busy: float = 0.0, seed: int = 0) -> None:
        self._upstream = upstream
        self._cut_after = cut_after
        self._busy = busy
        self._random = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.connections = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        """Begin to accept."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self._draw()), daemon=True).start()

    def _draw(self) -> int | None:
        """Return the bytes after which the next connection is cut, None for a 503."""
        return None if self._random.random() < self._busy else self._random.randint(*self._cut_after)

    def _serve(self, client: socket.socket, budget: int | None) -> None:
        with client, contextlib.suppress(OSError):
            if budget is None:
                client.recv(65536)
                client.sendall(_BUSY)
                return
            with socket.create_connection(("127.0.0.1", self._upstream())) as server:
                while budget:
                    readable, _, _ = select.select([client, server], [], [])
                    if client in readable:
                        if not (asked := client.recv(65536)):
                            return
                        server.sendall(asked)
                    if server in readable:
                        if not (data := server.recv(min(budget, 65536))):
                            return
                        client.sendall(data)
                        budget -= len(data)
                if self._random.random() < 0.5:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
