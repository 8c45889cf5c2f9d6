"""The client's calls: uploads from folders, both clients against the same server, and what is sent again."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from service.api.schemas.budget import BudgetBody
from service.api.schemas.datasets import DatasetResource
from service.api.schemas.fine_tunes import FineTuneBody
from service.client import AsyncClient, Client, ClientError
from service.client.folder_archive import FolderArchive
from tests.service.archives import Files, pets, tarred
from tests.service.server import ServerProcess

Upload = Callable[[str, Path, list[tuple[int, int]]], DatasetResource]


def write(folder: Path, files: Files) -> Path:
    """Write files below a folder; return it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def upload(url: str, path: Path, seen: list[tuple[int, int]]) -> DatasetResource:
    """Upload, blocking."""
    with Client(url) as client:
        return client.upload_dataset(path, progress=lambda sent, size: seen.append((sent, size)))


def upload_async(url: str, path: Path, seen: list[tuple[int, int]]) -> DatasetResource:
    """Upload, awaiting."""

    async def send() -> DatasetResource:
        async with AsyncClient(url) as client:
            return await client.upload_dataset(path, progress=lambda sent, size: seen.append((sent, size)))

    return asyncio.run(send())


def test_a_folder_is_the_same_archive_wherever_it_lies(tmp_path: Path) -> None:
    """Whatever the order, times and rights of its files; other programs can read it; hidden files are left out."""
    files = pets()
    first = write(tmp_path / "first", files)
    second = write(tmp_path / "second", dict(reversed(files.items())))
    os.utime(second / "cat" / "0.img", (0, 0))
    (second / "cat" / "0.img").chmod(0o600)
    write(second, {".DS_Store": b"x", "cat/.hidden": b"x", ".git/config": b"x"})
    archive = FolderArchive(first)
    content = b"".join(archive.chunks())
    assert content == b"".join(FolderArchive(second).chunks())
    assert len(content) == archive.size_bytes
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        read = {item.name: opened.extractfile(item).read() for item in opened.getmembers()}  # type: ignore[union-attr]
    assert read == files


def test_long_and_strange_names_get_into_the_archive(tmp_path: Path) -> None:
    """Of 200 characters, not ASCII, and by links, which may go in circles."""
    folder = write(tmp_path / "x", {f"{'ü' * 100}/{'n' * 200}.png": b"1" * 513, "a b/%41.png": b""})
    (folder / "linked").symlink_to(folder / "a b")
    (folder / "a b" / "round").symlink_to(folder)
    (folder / "a b" / "dangling").symlink_to(folder / "nothing")
    os.mkfifo(folder / "a b" / "pipe")  # nobody writes to it: to read it would be to hang
    content = b"".join(FolderArchive(folder).chunks())
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        assert opened.getnames() == ["a b/%41.png", "linked/%41.png", f"{'ü' * 100}/{'n' * 200}.png"]


def test_a_large_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    """No chunk is larger than two megabytes, and the chunks are what was promised."""
    folder = write(tmp_path / "x", {"a/1.png": b""})
    os.truncate(folder / "a" / "1.png", 50_000_001)
    archive = FolderArchive(folder)
    sizes = [len(chunk) for chunk in archive.chunks()]
    assert max(sizes) <= 2 * 1024 * 1024 + 2048
    assert sum(sizes) == archive.size_bytes


def test_a_file_that_becomes_shorter_is_said(tmp_path: Path) -> None:
    """Rather than an archive that is not what its header says."""
    folder = write(tmp_path / "x", {"a/1.png": b"x" * 1000, "b/1.png": b"x" * 1000})
    archive = FolderArchive(folder)
    (folder / "b" / "1.png").write_bytes(b"x")
    with pytest.raises(ClientError, match="became shorter"):
        list(archive.chunks())


@pytest.mark.parametrize("send", [upload, upload_async])
def test_a_folder_is_uploaded_as_its_archive_would_be(server: ServerProcess, tmp_path: Path, send: Upload) -> None:
    """The same data set, with the folder's name; progress goes up to the whole."""
    folder = write(tmp_path / "pets", pets())
    (tmp_path / "pets.tar").write_bytes(tarred({f"pets/{name}": content for name, content in pets().items()}))
    seen: list[tuple[int, int]] = []
    dataset = send(server.url, folder, seen)
    assert [(item.name, item.train) for item in dataset.classes] == [("cat", 3), ("dog", 3)]
    assert (dataset.name, dataset.refused) == ("pets", {})
    assert seen == sorted(seen)
    assert seen[-1] == (FolderArchive(folder).size_bytes,) * 2
    assert send(server.url, tmp_path / "pets.tar", []).id == dataset.id


def test_both_clients_do_the_same(server: ServerProcess, tmp_path: Path) -> None:
    """Each verb of data sets, models and fine-tunes, by the one and by the other."""
    folder = write(tmp_path / "some pets", pets(first=1000))  # no other test's, for it is deleted

    async def awaiting() -> list[object]:
        async with AsyncClient(server.url) as client:
            return [await call for call in calls(client)]

    def calls(client: Client | AsyncClient) -> list[Awaitable[object]]:
        body = FineTuneBody(budget=BudgetBody(depth=2), learngene="tiny-tleg", dataset=dataset.id)
        return [
            client.get_dataset(dataset.id),
            client.list_datasets(limit=1),
            client.list_learngenes(),
            client.list_models(limit=2),
            client.create_fine_tune(body, idempotency_key=f"the same {dataset.id}"),
            client.list_fine_tunes(dataset=dataset.id),
        ]  # type: ignore[list-item]

    with Client(server.url) as client:
        dataset = client.upload_dataset(folder)
        job = client.create_fine_tune(
            FineTuneBody(budget=BudgetBody(depth=2), learngene="tiny-tleg", dataset=dataset.id),
            idempotency_key=f"the same {dataset.id}",
        )
        assert calls(client) == asyncio.run(awaiting())
        assert client.list_fine_tunes(dataset=dataset.id).data[0].id == job.id
        with pytest.raises(ClientError, match=job.id):
            client.delete_dataset(dataset.id)
        assert client.pause_fine_tune(job.id).status == "paused"
        assert client.resume_fine_tune(job.id).status == "queued"
        assert client.cancel_fine_tune(job.id).status == "cancelled"
        assert client.list_checkpoints(job.id).data == []
        client.delete_dataset(dataset.id)
        with pytest.raises(ClientError, match="no data set"):
            client.get_dataset(dataset.id)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "cannot be read"),
        (lambda path: path.mkdir(), "no folders of images"),
        (lambda path: path.write_text("hello"), "zip"),
        (lambda path: write(path, {"a/1.txt": b"x", "b/2.txt": b"y"}), "image"),
    ],
    ids=["missing", "empty", "text", "no images"],
)
def test_what_is_no_data_set_is_said(
    server: ServerProcess, tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    """By the client where it can, by the server where not."""
    make(tmp_path / "thing")
    with Client(server.url) as client, pytest.raises(ClientError, match=message):
        client.upload_dataset(tmp_path / "thing")


JOB = FineTuneBody(model="m-1", dataset="ds-1")


def test_a_creation_that_is_sent_again_has_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a 503 and a broken connection, and another call has another one."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        match len(keys):
            case 1:
                return httpx.Response(503, headers={"Retry-After": "1"})
            case 2:
                raise httpx.ReadError("cut", request=request)
        return httpx.Response(422, json={"type": "x", "title": "x", "status": 422, "detail": "refused", "code": "x"})

    with Client("http://server", transport=httpx.MockTransport(answer)) as client:
        for _ in range(2):
            with pytest.raises(ClientError, match="refused"):
                client.create_fine_tune(JOB)
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 2


@pytest.mark.parametrize("after", ["1000000", "soon", "", "-1"])
def test_503s_are_not_waited_out_for_ever(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Whatever the server says about when to come back."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    answer = httpx.Response(503, headers={"Retry-After": after})
    transport = httpx.MockTransport(lambda _: answer)
    with Client("http://server", transport=transport) as client, pytest.raises(ClientError, match="503"):
        client.list_models()
    assert clock[0] <= 31


def test_the_time_of_an_answer_is_not_patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An upload that took a minute and found the server busy is sent again, but not for ever."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    answers = [httpx.Response(status) for status in (503, 422, 503, 503, 503)]

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        clock[0] += 60
        return answers.pop(0)

    (tmp_path / "pets.tar").write_bytes(tarred(pets()))
    with Client("http://server", transport=httpx.MockTransport(answer)) as client:
        for last in ("422", "503"):
            with pytest.raises(ClientError, match=last):
                client.upload_dataset(tmp_path / "pets.tar")
    assert answers == []


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_deletion_whose_answer_was_lost_has_happened(monkeypatch: pytest.MonkeyPatch, is_lost: bool) -> None:
    """Sent again, the server knows the data set no more; sent once, that is an error."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if is_lost and len(requests) == 1:
            raise httpx.ReadError("cut", request=request)
        return httpx.Response(404)

    with Client("http://server", transport=httpx.MockTransport(answer)) as client:
        if is_lost:
            client.delete_dataset("ds-1")
        else:
            with pytest.raises(ClientError, match="404"):
                client.delete_dataset("ds-1")
    assert len(requests) == 1 + is_lost


def test_an_error_that_waiting_does_not_mend_is_raised_at_once() -> None:
    """The learngene is not loaded: 503, but not for a while."""
    requests = []
    problem = {"type": "x", "title": "x", "status": 503, "detail": "not held", "code": "learngene_not_loaded"}

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(503, json=problem)

    with Client("http://server", transport=httpx.MockTransport(answer)) as client, pytest.raises(ClientError, match="not held"):
        client.get_model("m-1")
    assert len(requests) == 1
