"""The verbs of learngenes."""

from __future__ import annotations

import re
from pathlib import Path

from service.api.schemas.learngenes import LearngeneList, LearngeneResource
from service.client.call import answer, call, given, segment
from service.client.effect import Flow, Request, do
from service.client.errors import ClientError
from service.client.file_content import file_upload, reporting
from service.client.transfer import Progress, RemoteFile, fetch

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECK_TIMEOUT_S = 600.0  # the answer comes when the whole file was read, stored and loaded


def publish_learngene(path: Path, *, replace: bool = False, progress: Progress | None = None) -> Flow[LearngeneResource]:
    """Publish a learngene's file, under the name that stands in it; the same file again changes nothing.

    Args:
        path: The file.
        replace: Whether it may take the place of other weights that are published under its name.
        progress: Called with the bytes that were sent and the bytes in all.

    Raises:
        ClientError: There is nothing to read at `path`, or the server refuses it; its `problem` says why.
    """
    upload = yield from do(lambda: file_upload(path))
    request = Request(
        method="POST",
        path="/learngenes",
        params={"replace": replace},
        headers={"Content-Type": "application/octet-stream"},
        upload=upload if progress is None else reporting(upload, progress),
        read_timeout_s=_CHECK_TIMEOUT_S,
    )
    return (yield from call(LearngeneResource, request))


def get_learngene(name: str) -> Flow[LearngeneResource]:
    """Return one learngene, with every member of its family."""
    return call(LearngeneResource, Request(method="GET", path=_path(name)))


def list_learngenes(*, limit: int = 20, after: str | None = None) -> Flow[LearngeneList]:
    """Return a page of learngenes, by name."""
    return call(LearngeneList, Request(method="GET", path="/learngenes", params=given(limit=limit, after=after)))


def delete_learngene(name: str) -> Flow[None]:
    """Delete a published learngene; models that are expanded from it cannot be downloaded afterwards."""
    yield from answer(Request(method="DELETE", path=_path(name)))


def download_learngene(name: str, path: Path, *, progress: Progress | None = None) -> Flow[LearngeneResource]:
    """Download a learngene's file to `path` and check its digest; `tleg expand` makes the whole family of it.

    Raises:
        ClientError: It cannot be had, breaks off several times without progress, or its digest is wrong.
    """
    if path.is_dir():
        raise ClientError(f"{path}: is a folder")
    learngene = yield from get_learngene(name)
    if not _SHA256.fullmatch(learngene.sha256):  # it becomes part of a file's name
        raise ClientError(f"the server answered for {name!r} with something else than tleg does")
    file = RemoteFile(
        kind="learngene",
        path=f"{_path(name)}/weights",
        content=learngene.sha256[:32],
        size_bytes=learngene.size_bytes,
        sha256=learngene.sha256,
    )
    yield from fetch(file, path, progress=progress)
    return learngene


def _path(name: str) -> str:
    return f"/learngenes/{segment(name)}"
