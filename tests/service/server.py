"""`tleg serve` as a process of its own, and raw connections to it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

ENDED_BY_SIGTERM = 128 + signal.SIGTERM
"""The exit code of a server that was told to stop: by convention, after an end in order."""

_START_TIMEOUT_S = 60
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment without settings of tleg's or the Hub's, and with `changes`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TLEG_", "HF_"))}
    return kept | {"COLUMNS": "80", "NO_COLOR": "1"} | changes


class ServerProcess:
    """`tleg serve` on a free port with the embedded Redis; use it as a context manager, or start it again after an end."""

    def __init__(self, data_dir: Path, learngenes: list[Path], *options: str, **env: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        named = [text for path in learngenes for text in ("--learngene", str(path))]
        self._command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--no-shipped", *named, *options]
        self._command += ["--data-dir", str(data_dir)]
        self._environment = environment(**{"TLEG_WORKERS": "0"} | env)  # a worker takes seconds and a core to start
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The address that it printed."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process is not None
        return self.process.pid

    def redis_pid(self) -> int:
        """The id of its Redis."""
        return int((self.data_dir / "redis" / "redis.pid").read_text())

    def start(self) -> Self:
        """Start it, read its address from what it prints, and wait until it is ready."""
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"tleg serve did not start: {self.log.read_text()}")
            time.sleep(0.03)
        return self

    def stop(self, *, signal_number: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(timeout=40)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a TCP connection to it."""
        connection = socket.socket()
        connection.settimeout(30)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def exchange(self, request: bytes) -> httpx.Response:
        """Send bytes as they are and return the answer; the request must ask to close the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines]
        return httpx.Response(int(status.split()[1]), headers=headers, content=body)

    def _is_ready(self) -> bool:
        found = _ADDRESS.search(self.log.read_text(errors="replace"))
        if found is None:
            return False
        self.port = int(found[1])
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it."""
        self.stop()
