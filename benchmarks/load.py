"""The client side: a process that downloads or posts over plain sockets, so that the client is never what is measured."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

_BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One download: seconds to the first byte of the answer and to the last, and the body's bytes."""

    first_byte_s: float
    total_s: float
    size_bytes: int


def download(port: int, path: str, write_to: str | None = None) -> Download:
    """Download over one new connection; thrown away unless `write_to` names a file."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = connection.recv(65536)
        first_byte_s = time.perf_counter() - started
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        header, _, body = head.partition(b"\r\n\r\n")
        if b" 200 " not in header.split(b"\r\n", 1)[0]:
            raise RuntimeError(header.decode(errors="replace"))
        size_bytes = len(body)
        with Path(write_to or os.devnull).open("wb", buffering=0) as file:
            file.write(body)
            while count := connection.recv_into(buffer):
                size_bytes += count
                if write_to:
                    file.write(buffer[:count])
    return Download(first_byte_s=first_byte_s, total_s=time.perf_counter() - started, size_bytes=size_bytes)


def post(port: int, body: bytes) -> bytes:
    """Post the body to /models over one new connection; return the answer's."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(_request(body))
        return _read_answer(connection)


def posts(port: int, bodies: list[bytes], count: int) -> float:
    """Post `count` times over one connection, one after the other, the bodies in turn; return requests for each second."""
    requests = [_request(body) for body in bodies]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        for index in range(count):
            connection.sendall(requests[index % len(requests)])
            _read_answer(connection)
        return count / (time.perf_counter() - started)


def _request(body: bytes) -> bytes:
    """Return the whole request that posts the body."""
    lines = ("POST /models HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


def _read_answer(connection: socket.socket) -> bytes:
    """Read one answer and return its body, by Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    header, _, body = data.partition(b"\r\n\r\n")
    if not header.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(data.decode(errors="replace"))
    length = next((int(line.split(b":")[1]) for line in header.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return body
