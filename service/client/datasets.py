"""The verbs of data sets."""

from __future__ import annotations

import re
from pathlib import Path

from service.api.schemas.datasets import DatasetList, DatasetResource
from service.client.call import answer, call, given, segment
from service.client.effect import Flow, Request, Upload, do
from service.client.file_content import file_upload, reporting
from service.client.folder_archive import FolderArchive
from service.client.transfer import Progress

_SUFFIX = re.compile(r"\.(zip|tar|tar\.gz|tgz|parquet)$", re.IGNORECASE)
_MAX_NAME = 128  # characters, of the API
_VALIDATION_TIMEOUT_S = 3600.0  # the answer comes when every image was looked at


def upload_dataset(path: Path, *, name: str | None = None, progress: Progress | None = None) -> Flow[DatasetResource]:
    """Upload a data set: a zip, tar or parquet file, or a folder with a folder of images for each class.

    A folder is sent as a tar archive that is made on the way. The same images in the same classes are the same data set,
    whatever they came in.

    Args:
        path: The file or folder.
        name: What to call it; the path's name without its suffix by default.
        progress: Called with the bytes that were sent and the bytes in all.

    Raises:
        ClientError: There is nothing to read at `path`, it changes while it is sent, or the server refuses it.
    """
    upload, content_type = yield from do(lambda: _open(path))
    if progress is not None:
        upload = reporting(upload, progress)
    request = Request(
        method="POST",
        path="/datasets",
        params=given(name=name or _name(path) or None),
        headers={"Content-Type": content_type},
        upload=upload,
        read_timeout_s=_VALIDATION_TIMEOUT_S,
    )
    return (yield from call(DatasetResource, request))


def get_dataset(dataset_id: str) -> Flow[DatasetResource]:
    """Return one data set."""
    return call(DatasetResource, Request(method="GET", path=_path(dataset_id)))


def list_datasets(*, limit: int = 20, after: str | None = None) -> Flow[DatasetList]:
    """Return a page of data sets, newest first."""
    return call(DatasetList, Request(method="GET", path="/datasets", params=given(limit=limit, after=after)))


def delete_dataset(dataset_id: str) -> Flow[None]:
    """Delete a data set; the server refuses while a job needs it."""
    yield from answer(Request(method="DELETE", path=_path(dataset_id)))


def _path(dataset_id: str) -> str:
    return f"/datasets/{segment(dataset_id)}"


def _name(path: Path) -> str:
    """Return what to call a path's content: its name, as far as the API takes it."""
    name = _SUFFIX.sub("", path.resolve().name)
    return "".join(letter if letter.isprintable() else "_" for letter in name)[:_MAX_NAME]


def _open(path: Path) -> tuple[Upload, str]:
    """Return what to send, and its media type; raises `ClientError`."""
    if path.is_dir():
        archive = FolderArchive(path)
        return Upload(chunks=archive.chunks, size_bytes=archive.size_bytes), "application/x-tar"
    return file_upload(path), "application/octet-stream"
