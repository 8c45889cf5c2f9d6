"""Uploads as streams: their types and limits, slow and broken clients, killed servers, full disks; nothing left of any."""

from __future__ import annotations

import functools
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.testclient import TestClient

from tests.processes import children_with, is_running
from tests.service.archives import image, pets, tarred, zipped
from tests.service.conftest import ApiFactory
from tests.service.server import ServerProcess
from tests.service.test_bad_requests import assert_problem

MAX_BYTES = 20_000
IDLE_S = 1.0
MEBIBYTE = 1024**2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the small server."""
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="module")
def small(open_api: ApiFactory, redis_url: str, folder: Path) -> Iterator[TestClient]:
    """An application that takes 20,000 bytes."""
    with open_api(f"{redis_url}?db=7", data_dir=folder, max_upload_bytes=MAX_BYTES) as client:
        yield client
    assert left_in(folder) == []


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own that has little patience."""
    data_dir = tmp_path_factory.mktemp("streams") / "data"
    with ServerProcess(data_dir, [], TLEG_UPLOAD_IDLE_S=str(IDLE_S), TLEG_WORKERS="0") as server:
        yield server
        assert "Traceback" not in server.log.read_text()


def left_in(data_dir: Path) -> list[str]:
    """Return what uploads left behind: everything but the objects."""
    return sorted(str(path) for path in (data_dir / "uploads").rglob("*"))


def wait_until(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def validators(server: ServerProcess) -> list[psutil.Process]:
    """Return the server's validating processes."""
    return children_with("service.ingest", server.pid, recursive=True)


@functools.cache
def large_zip(images: int = 60, side: int = 700) -> bytes:
    """Return a zip that takes some time to validate."""
    four = [image(number, size=(side, side)) for number in range(4)]
    return zipped({f"{'ab'[number % 2]}/{number}.png": four[number % 4] for number in range(images)}, 0)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/html", "text/csv", "image/png", "application/x-www-form-urlencoded", "nonsense", "a/b/c", "é"],
)
def test_other_content_types_are_refused(small: TestClient, content_type: str) -> None:
    """Whatever the content is."""
    headers = {b"Content-Type": content_type.encode()}
    assert assert_problem(small.post("/datasets", content=zipped(pets()), headers=headers), 415)["code"] == "upload_type"


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"<html>" * 200,
        image(1),
        b"7z\xbc\xaf\x27\x1c" + bytes(600),
        b"Rar!\x1a\x07" + bytes(600),
        b"BZh9" + bytes(600),
        b"\xfd7zXZ\0" + bytes(600),
        b"\0" * 1000,
        b"PK",
        b"PARE" + bytes(600),
        b"ARROW1" + bytes(600),
    ],
    ids=lambda content: repr(content[:6]),
)
@pytest.mark.parametrize("as_form", [False, True])
def test_other_content_is_refused(small: TestClient, content: bytes, as_form: bool) -> None:
    """By its first bytes, raw and in a form."""
    answer = small.post("/datasets", files={"file": content}) if as_form else small.post("/datasets", content=content)
    assert assert_problem(answer, 415)["code"] == "upload_type"


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (zipped(pets()), "application/gzip"),
        (zipped(pets()), "application/vnd.apache.parquet"),
        (tarred(pets()), "application/zip"),
        (tarred(pets(), compressed=True), "application/zip"),
    ],
)
def test_a_content_type_that_is_not_true_is_refused(small: TestClient, content: bytes, content_type: str) -> None:
    """A zip that is sent as gzip is a mistake somewhere."""
    assert_problem(small.post("/datasets", content=content, headers={"Content-Type": content_type}), 415)
    assert_problem(small.post("/datasets", content=zipped(pets()), headers={"Content-Encoding": "gzip"}), 415)


def test_nothing_is_no_data_set(small: TestClient) -> None:
    """An empty body says so."""
    assert_problem(small.post("/datasets", content=b""), 422)
    assert_problem(small.post("/datasets", files={"file": b""}), 422)


def test_the_limit_of_bytes_holds(small: TestClient) -> None:
    """413 with the limit: declared, streamed, in a form; up to the limit all is well; other routes have their own."""
    padding = MAX_BYTES - len(zipped(pets() | {"cat/pad.txt": b""}, 0))
    exact, longer = (zipped(pets() | {"cat/pad.txt": bytes(padding + more)}, 0) for more in (0, 1))
    assert (len(exact), len(longer)) == (MAX_BYTES, MAX_BYTES + 1)
    for body in (longer, (longer[place : place + 1000] for place in range(0, len(longer), 1000))):
        problem = assert_problem(small.post("/datasets", content=body), 413)
        assert (problem["code"], problem["limit"]) == ("upload_too_large", MAX_BYTES)
    assert assert_problem(small.post("/datasets", files={"file": longer}), 413)["limit"] == MAX_BYTES
    assert small.post("/datasets", content=exact).status_code == 201
    assert small.post("/datasets", files={"file": exact}).status_code == 200
    body = b'{"a": "' + b"x" * 2 * MEBIBYTE + b'"}'
    for path in ("/models", "/datasets/", "/fine-tunes"):
        assert small.post(path, content=body, headers={"Content-Type": "application/json"}).status_code == 413


BOUNDARY = "b0undary"


def form(*parts: tuple[str, bytes], end: str = "--") -> bytes:
    """Return a form as it is sent."""
    texts = [f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts]
    return b"".join(texts) + f"--{BOUNDARY}{end}\r\n".encode()


FILE = 'Content-Disposition: form-data; name="file"; filename="x.zip"'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (form(("Content-Disposition: form-data; name=a", b"x")), "field 'a'"),
        (form(("Content-Disposition: form-data; name=name", b"x")), "no field `file`"),
        (form((FILE, zipped(pets())), (FILE, zipped(pets()))), "two fields"),
        (form((FILE, zipped(pets())))[:-20], "cut short"),
        (form((FILE, zipped(pets())), end=""), "cut short"),
        (form((FILE, zipped(pets())), ("Content-Disposition: form-data; name=name", b"x" * 5000)), "1,024 bytes"),
        (form(("x" * 10_000 + ": y", b"x")), "cannot be read"),
        (b"no form at all", "cannot be read"),
        (b"", "cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forms_that_are_none_are_refused(small: TestClient, body: bytes, reason: str) -> None:
    """Each with its reason."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert reason in str(assert_problem(small.post("/datasets", content=body, headers=headers), 422)["detail"])


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_form_is_not_read_for_ever(small: TestClient, place: str) -> None:
    """What it has beside its file is limited too, where no length was declared."""

    def endless() -> Iterator[bytes]:
        part = form(("Content-Disposition: form-data; name=name", b""))[: -len(f"--{BOUNDARY}--\r\n")]
        whole = form((FILE, zipped(pets())))
        yield b"" if place == "before" else whole
        for _ in range(20_000):
            yield part if place == "before" else bytes(100)

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert_problem(small.post("/datasets", content=endless(), headers=headers), 413)


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 5000],
)
def test_forms_without_a_boundary_are_refused(small: TestClient, content_type: str) -> None:
    """Nothing is read of them."""
    assert_problem(small.post("/datasets", content=form((FILE, zipped(pets()))), headers={"Content-Type": content_type}), 422)


def head(length: int) -> bytes:
    """Return the head of an upload's request."""
    return f"POST /datasets HTTP/1.1\r\nHost: tleg\r\nContent-Length: {length}\r\n\r\n".encode()


def status(connection: socket.socket) -> int:
    """Return the status of the answer."""
    answer = b""
    while b"\r\n" not in answer and (piece := connection.recv(65536)):
        answer += piece
    return int(answer.split()[1])


def test_an_upload_that_pauses_is_given_up(process: ServerProcess) -> None:
    """408 after the time that the operator allows, and nothing is left."""
    with process.connect() as connection:
        start = time.monotonic()
        connection.sendall(head(10**6) + large_zip(1)[:5000])
        assert status(connection) == 408
        assert time.monotonic() - start >= IDLE_S
    wait_until(lambda: left_in(process.data_dir) == [])


def test_an_upload_that_trickles_is_given_up(process: ServerProcess) -> None:
    """A byte now and then is no upload; others are served meanwhile."""
    with process.connect() as connection, httpx.Client(base_url=process.url, timeout=60) as client:
        connection.sendall(head(10**6) + zipped(pets())[:600])
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(IDLE_S / 5):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.post("/datasets", content=zipped(pets())).status_code in (200, 201)
            assert status(connection) == 408
        finally:
            stop.set()
            thread.join()


def test_a_client_that_goes_away_leaves_nothing(process: ServerProcess) -> None:
    """In the middle of its upload, and in the middle of the validation, which is killed."""
    content = large_zip()
    with process.connect() as connection:
        connection.sendall(head(len(content)) + content[: len(content) // 2])
        wait_until(lambda: left_in(process.data_dir) != [])
    wait_until(lambda: left_in(process.data_dir) == [])
    with process.connect() as connection:
        connection.sendall(head(len(content)) + content)
        wait_until(lambda: validators(process) != [])
    wait_until(lambda: left_in(process.data_dir) == [] and validators(process) == [])


def test_a_decoder_that_crashes_refuses_the_upload_only(process: ServerProcess) -> None:
    """The answer names where it was; the server lives."""
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=process.url, timeout=60) as client:
        answer = pool.submit(client.post, "/datasets", content=large_zip())
        wait_until(lambda: validators(process) != [] and any(Path(path).name == "spool" for path in left_in(process.data_dir)))
        validators(process)[0].send_signal(signal.SIGSEGV)
        problem = assert_problem(answer.result(), 422)
        assert "SIGSEGV" in str(problem["detail"])
        assert client.get("/readyz").status_code == 200
    assert left_in(process.data_dir) == []


def test_the_same_upload_many_times_at_once_is_one_data_set(process: ServerProcess) -> None:
    """One is new, the others find it; one object is stored."""
    content = zipped(pets() | {"cat/x.png": image(500)})
    with ThreadPoolExecutor(6) as pool, httpx.Client(base_url=process.url, timeout=100) as client:
        answers = list(pool.map(lambda _: client.post("/datasets", content=content), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    (dataset_id,) = {answer.json()["id"] for answer in answers}
    objects = process.data_dir / "objects" / "datasets"
    assert len(list(objects.glob(f"{dataset_id.removeprefix('ds-')}*"))) == 1
    assert left_in(process.data_dir) == []


def test_without_redis_nothing_is_read(open_api: ApiFactory, tmp_path: Path) -> None:
    """503 at once, whatever the content is."""
    with open_api(f"unix://{tmp_path}/none.sock", data_dir=tmp_path) as client:
        problem = assert_problem(client.post("/datasets", content=b"no data set at all"), 503)
    assert problem["code"] == "store_unavailable"


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """507 while receiving and while validating; nothing half-written is left, and smaller uploads go on."""
    with (
        ServerProcess(tmp_path / "data", [], TLEG_WORKERS="0") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (MEBIBYTE, MEBIBYTE))  # a file fails as it does on a full disk
        problem = assert_problem(client.post("/datasets", content=large_zip()), 507)
        assert problem["code"] == "storage_full"
        alike = {f"{'ab'[number % 2]}/{number}.png": image(1, size=(64, 64)) for number in range(400)}
        growing = tarred(alike, compressed=True)
        assert len(growing) < MEBIBYTE
        assert_problem(client.post("/datasets", content=growing), 507)
        assert left_in(server.data_dir) == []
        assert not list((server.data_dir / "objects").rglob("*.arrow"))
        assert client.post("/datasets", content=zipped(pets())).status_code == 201


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["upload", "spool"])
def test_a_killed_server_leaves_nothing(tmp_path: Path, moment: str) -> None:
    """kill -9 while it receives or validates: after a restart the folder is empty, and no process goes on."""
    content = large_zip()
    server = ServerProcess(tmp_path / "data", [], TLEG_WORKERS="0")
    with server:
        with server.connect() as connection:
            connection.sendall(head(len(content)) + (content if moment == "spool" else content[:-1000]))
            wait_until(lambda: any(Path(path).name == moment for path in left_in(server.data_dir)))
            children = validators(server)
            server.stop(signal_number=signal.SIGKILL)
        wait_until(lambda: not any(is_running(child.pid) for child in children))
        assert left_in(server.data_dir) != []
        server.start()
        assert left_in(server.data_dir) == []
        assert not list((server.data_dir / "objects").rglob("*.arrow"))
        answer = httpx.post(f"{server.url}/datasets", content=zipped(pets()), timeout=60)
        assert answer.status_code == 201


@pytest.mark.slow
def test_memory_does_not_grow_with_an_upload(server: ServerProcess) -> None:
    """Some hundred megabytes pass through a server that grows by a few."""
    one = large_zip(300, 1000)
    assert len(one) > 250 * MEBIBYTE
    process, highest = psutil.Process(server.pid), 0
    before = process.memory_info().rss
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, timeout=110) as client:
        answer = pool.submit(client.post, "/datasets", content=one)
        while not answer.done():
            highest = max(highest, process.memory_info().rss)
            time.sleep(0.02)
    assert answer.result().status_code == 201, answer.result().text
    assert answer.result().json()["images"] == 300
    assert highest - before < 60 * MEBIBYTE
