"""Downloads that resume.

A download goes to a partial file named after the content: a model's id, which determines its bytes, or a file's digest. So
a broken one is taken up where it stopped, in this run or in a later one, and the file appears under its name only after its
digest was checked.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial as partial_call
from pathlib import Path
from typing import IO, TypeAlias

import httpx

from service.client.call import backoff_s, is_passing, refusal, retry_after_s
from service.client.effect import Flow, Request, do, open_stream, read_all, read_chunk, sleep
from service.client.errors import ClientError

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file on the server.

    Args:
        kind: What it is, as errors call it.
        path: Where it is, from the server's root on.
        params: The query.
        content: Names its bytes in the partial file's name.
        size_bytes: Its length.
        sha256: Its digest.
    """

    kind: str
    path: str
    content: str
    size_bytes: int
    sha256: str | None
    params: Mapping[str, str] = field(default_factory=dict)


_FRUITLESS_TRIES = 5
_LONGEST_DELAY_S = 30.0


def fetch(wanted: RemoteFile, path: Path, *, progress: Progress | None = None) -> Flow[None]:
    """Download a file to `path` and check its digest.

    Raises:
        ClientError: It cannot be had, breaks off several times without progress, or its digest is wrong.
    """
    partial = path.with_name(f".{path.name}.{wanted.content}.part")
    fruitless = 0
    try:
        while (have := partial.stat().st_size if partial.exists() else 0) < wanted.size_bytes:
            reason, delay = "the server sent nothing", backoff_s(fruitless)
            try:
                delay = (yield from _fetch(wanted, partial, have, progress)) or delay
            except httpx.TransportError as error:
                reason = str(error)
            fruitless = 0 if partial.exists() and partial.stat().st_size > have else fruitless + 1
            if fruitless >= _FRUITLESS_TRIES:
                raise ClientError(f"the download broke off: {reason}; run it again to go on")
            if fruitless:
                yield from sleep(delay)
        if (yield from do(lambda: _sha256(partial))) != wanted.sha256:
            partial.unlink()
            raise ClientError(f"the download's digest is not the {wanted.kind}'s {wanted.sha256}; it was thrown away")
        partial.replace(path)
    except OSError as error:
        raise ClientError(f"{path}: cannot be written: {error.strerror}") from None


def _fetch(wanted: RemoteFile, partial: Path, have: int, progress: Progress | None) -> Flow[float | None]:
    """Append what is missing to the partial file; return the seconds to wait where the server asks for that."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    response = yield from open_stream(Request(method="GET", path=wanted.path, params=wanted.params, headers=headers))
    if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        response = yield from read_all()
        error = refusal(response)
        if is_passing(response, error):
            return min(retry_after_s(response), _LONGEST_DELAY_S)
        raise error
    if have and response.status_code != httpx.codes.PARTIAL_CONTENT:
        have = 0
    with partial.open("ab") as file:
        _own(file, partial, wanted.kind)
        file.truncate(have)
        while (chunk := (yield from read_chunk())) is not None:
            if have + len(chunk) > wanted.size_bytes:
                raise ClientError(f"the server sends more than the {wanted.size_bytes:,} bytes that the {wanted.kind} has")
            yield from do(partial_call(file.write, chunk))
            have += len(chunk)
            if progress is not None:
                progress(have, wanted.size_bytes)
    return None


def _own(file: IO[bytes], path: Path, kind: str) -> None:
    """Lock the partial file until it is closed; raises `ClientError` where another download writes it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ClientError(f"{path}: another download of this {kind} to this place is under way") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
