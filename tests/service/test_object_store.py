"""The object store: one contract, on a local folder and on a store that speaks S3 over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.domain.errors import ObjectStoreError
from service.storage.object_store import ObjectStore

CONTENT = bytes(range(256)) * 40
KEY = "jobs/ft-1/1-2.safetensors"


class _Bucket(BaseHTTPRequestHandler):
    """As much of S3 as is asked for: whole objects and ranges in one bucket, `tleg`; no signature is checked."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"ETag": '"1"', "Last-Modified": "Sun, 22 Nov 2026 00:00:00 GMT", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self) -> bool:
        if self.path.startswith("/tleg/") and self.path in self.objects:
            return False
        self._answer(404, b"" if self.command == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
        return True

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.startswith("/tleg/"):
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return
        self.objects[self.path] = body
        self._answer(200)

    def do_HEAD(self) -> None:
        if not self._missing():
            self._answer(200, Content_Length=str(len(self.objects[self.path])))

    def do_GET(self) -> None:
        if self._missing():
            return
        content = self.objects[self.path]
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
            self._answer(206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}")
        else:
            self._answer(200, content)

    def do_POST(self) -> None:
        """Delete several objects, which is how the client deletes one too."""
        keys = re.findall(r"<Key>(.+?)</Key>", self.rfile.read(int(self.headers["Content-Length"])).decode())
        for key in keys:
            self.objects.pop(f"/tleg/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3-compatible server, which the environment names as the compose file's variables do."""
    handler = type("Bucket", (_Bucket,), {"objects": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "eu-1",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        yield
        server.shutdown()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store."""
    if request.param == "folder":
        return ObjectStore((tmp_path / "objects").as_uri())
    request.getfixturevalue("s3")
    return ObjectStore("s3://tleg/prefix")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file to store."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_what_is_stored_is_there(store: ObjectStore, source: Path, tmp_path: Path) -> None:
    """Whole, in any range, with its length; until it is deleted."""
    assert not store.exists(KEY)
    store.put_file(KEY, source)
    assert store.exists(KEY)
    assert bytes(store.read_range(KEY, 3, 300)) == CONTENT[3:300]
    assert bytes(asyncio.run(store.read_range_async(KEY, 300, 301))) == CONTENT[300:301]
    assert asyncio.run(store.size_async(KEY)) == len(CONTENT)
    store.fetch_file(KEY, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT
    store.delete(KEY)
    assert not store.exists(KEY)


def test_a_file_may_be_moved_in(store: ObjectStore, source: Path) -> None:
    """It is there afterwards, as if it had been copied."""
    store.move_file(KEY, source)
    assert bytes(store.read_range(KEY, 0, len(CONTENT))) == CONTENT


def test_what_is_stored_again_is_the_new_content(store: ObjectStore, source: Path) -> None:
    """A key holds what was stored last."""
    store.put_file(KEY, source)
    source.write_bytes(b"new")
    store.put_file(KEY, source)
    assert asyncio.run(store.size_async(KEY)) == 3


def test_what_is_not_there_is_missing(store: ObjectStore, tmp_path: Path) -> None:
    """For every way of reading; deleting it is no error, and nothing is left of a fetch."""
    target = tmp_path / "target"
    for read in (
        lambda: store.fetch_file(KEY, target),
        lambda: store.read_range(KEY, 0, 1),
        lambda: asyncio.run(store.read_range_async(KEY, 0, 1)),
        lambda: asyncio.run(store.size_async(KEY)),
    ):
        with pytest.raises(FileNotFoundError):
            read()
    store.delete(KEY)
    asyncio.run(store.delete_async(KEY))
    assert not target.exists()


def test_the_oldest_objects_make_room(source: Path, tmp_path: Path) -> None:
    """Until the limit holds; other folders are left alone, and one that is to be kept stays however large it is."""
    store = ObjectStore((tmp_path / "objects").as_uri())
    assert store.delete_oldest("exports/", 10, keep="exports/a", min_age_s=0) == []
    for age, key in enumerate(["exports/b", "exports/a", "exports/c", "weights/a"]):
        store.put_file(key, source)
        path = store.local_path(key)
        assert path is not None
        os.utime(path, (1000 + age, 1000 + age))
    size = len(CONTENT)
    assert store.delete_oldest("exports/", 3 * size, keep="exports/c", min_age_s=0) == []
    assert store.delete_oldest("exports/", 2 * size, keep="exports/c", min_age_s=0) == ["exports/b"]
    assert store.delete_oldest("exports/", 1, keep="exports/a", min_age_s=0) == ["exports/c"]
    assert (store.exists("exports/a"), store.exists("weights/a")) == (True, True)


def test_what_was_just_stored_makes_no_room(source: Path, tmp_path: Path) -> None:
    """An object's age is its distance from the youngest's; a file that is moved in is as young as its move."""
    store = ObjectStore((tmp_path / "objects").as_uri())
    for age_s, key in [(100, "exports/a"), (59, "exports/b"), (0, "exports/c")]:
        store.put_file(key, source)
        path = store.local_path(key)
        assert path is not None
        os.utime(path, (10_000 - age_s, 10_000 - age_s))
    assert store.delete_oldest("exports/", 1, keep="exports/c", min_age_s=60) == ["exports/a"]
    assert store.delete_oldest("exports/", 1, keep="exports/c", min_age_s=59) == ["exports/b"]
    os.utime(source, (1000, 1000))
    store.put_file("exports/d", source)
    store.move_file("exports/e", source)
    assert store.delete_oldest("exports/", 1, keep="exports/d", min_age_s=60) == ["exports/c"]
    assert store.exists("exports/e")


@pytest.mark.usefixtures("s3")
def test_a_store_that_is_not_there_is_a_failure_of_the_store(source: Path) -> None:
    """A bucket that nobody made is not a missing object: storing fails as any failure of the store does."""
    store = ObjectStore("s3://other")
    with pytest.raises(ObjectStoreError):
        store.put_file(KEY, source)
    with pytest.raises(ObjectStoreError):
        store.move_file(KEY, source)
    assert source.exists()
