"""Downloads over HTTP: ranges, conditions, headers; and clients that go away or read slowly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from service.api.file_response import ComputedFileResponse
from tests.service.server import ServerProcess


@pytest.fixture(scope="module")
def model(api: TestClient) -> dict[str, Any]:
    """A model of the tiny TLEG learngene."""
    created: dict[str, Any] = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 7}}).json()
    return created


@pytest.fixture(scope="module")
def content(api: TestClient, model: dict[str, Any]) -> bytes:
    """Its whole file."""
    return api.get(model["links"]["weights"]).content


def test_the_whole_file_comes_with_all_headers(api: TestClient, model: dict[str, Any], content: bytes) -> None:
    """Length, strong tag, ranges, name, type, and caching for ever: the path means these bytes."""
    headers = api.get(model["links"]["weights"]).headers
    assert headers["Content-Length"] == str(len(content)) == str(model["size_bytes"])
    assert headers["ETag"].startswith('"')
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == f'attachment; filename="{model["id"]}.safetensors"'
    assert "immutable" in headers["Cache-Control"]
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize("headers", [{}, {"If-None-Match": "*"}, {"If-Match": '"other"'}])
def test_head_has_the_headers_of_get(api: TestClient, model: dict[str, Any], headers: dict[str, str]) -> None:
    """HEAD answers what GET would, without the body."""
    get, head = (api.request(method, model["links"]["weights"], headers=headers) for method in ("GET", "HEAD"))
    assert head.content == b""
    assert (head.status_code, head.headers) == (get.status_code, get.headers)


def test_head_is_for_the_whole_file_whatever_the_range(api: TestClient, model: dict[str, Any]) -> None:
    """RFC 9110 defines ranges for GET alone."""
    plain, ranged = (api.head(model["links"]["weights"], headers=headers) for headers in ({}, {"Range": "bytes=5-90"}))
    assert (ranged.status_code, ranged.headers) == (200, plain.headers)


def test_random_ranges_are_slices_of_the_whole(api: TestClient, model: dict[str, Any], content: bytes) -> None:
    """Three hundred ranges of all lengths, of all three forms, at the borders of the file too."""
    rng, size = random.Random(0), len(content)
    for _ in range(300):
        first = rng.choice([rng.randrange(size), rng.randrange(3000), size - 1, 0])
        last = min(first + rng.choice([0, 1, 7, rng.randrange(size), 2 * size]), 3 * size)
        form = rng.randrange(3)
        text = (f"{first}-{last}", f"{first}-", f"-{last + 1}")[form]
        expected = (content[first : last + 1], content[first:], content[-(last + 1) :])[form]
        answer = api.get(model["links"]["weights"], headers={"Range": f"bytes={text}"})
        assert (answer.status_code, answer.content) == (206, expected), text
        start = size - len(expected) if form == 2 else first
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{size}"
        assert answer.headers["Content-Length"] == str(len(expected))


def test_pieces_make_the_file(api: TestClient, model: dict[str, Any], content: bytes) -> None:
    """A download in parallel pieces, as download managers do it, gives the same bytes."""
    step = 10_007
    pieces = [
        api.get(model["links"]["weights"], headers={"Range": f"bytes={start}-{start + step - 1}"}).content
        for start in range(0, len(content), step)
    ]
    assert b"".join(pieces) == content


def test_a_range_past_the_end_is_a_416_that_says_the_size(api: TestClient, model: dict[str, Any], content: bytes) -> None:
    """With Content-Range and as a problem."""
    answer = api.get(model["links"]["weights"], headers={"Range": f"bytes={len(content)}-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(content)}"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("header", ["bytes=0-9,20-29", "bytes=9-0", "lines=0-9", "nonsense"])
def test_other_ranges_give_the_whole_file(api: TestClient, model: dict[str, Any], content: bytes, header: str) -> None:
    """Several ranges and malformed ones are ignored, as the RFC allows."""
    answer = api.get(model["links"]["weights"], headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, content)
    assert "Content-Range" not in answer.headers


def test_conditions_spare_a_download(api: TestClient, model: dict[str, Any], content: bytes) -> None:
    """If-None-Match with the file's tag is a 304 without a body; If-Range with another tag sends everything."""
    path = model["links"]["weights"]
    etag = api.head(path).headers["ETag"]
    unchanged = api.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", etag)
    assert "Content-Length" not in unchanged.headers
    same = api.get(path, headers={"If-Range": etag, "Range": "bytes=0-9"})
    other = api.get(path, headers={"If-Range": '"other"', "Range": "bytes=0-9"})
    assert (same.status_code, same.content) == (206, content[:10])
    assert (other.status_code, other.content) == (200, content)


def test_files_of_other_recipes_have_other_tags(api: TestClient, model: dict[str, Any]) -> None:
    """A cache never mixes two models up."""
    other = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 7}, "dtype": "float16"}).json()
    tags = {api.head(item["links"]["weights"]).headers["ETag"] for item in (model, other)}
    assert len(tags) == 2


def answered(method: str, headers: dict[str, str], *, leaves_after: int | None = None) -> tuple[list[int], int]:
    """Answer with a file of 100 blocks of 1 kB; return which blocks were computed, and the bytes sent.

    The client goes away once `leaves_after` messages were sent.
    """
    computed: list[int] = []
    sent: list[dict[str, Any]] = []

    def blocks(start: int, stop: int) -> Iterator[memoryview]:
        for position in range(start, stop, 1000):
            computed.append(position // 1000)
            yield memoryview(bytes(min(1000, stop - position)))

    async def receive() -> dict[str, Any]:
        while leaves_after is None or len(sent) < leaves_after:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw, "query_string": b""}
    response = ComputedFileResponse(
        Request(scope), size=100_000, etag="e", blocks=blocks, filename="x.safetensors", immutable=True
    )
    asyncio.run(response(scope, receive, send))
    return computed, sum(len(message.get("body", b"")) for message in sent)


def test_only_what_is_asked_for_is_computed() -> None:
    """The whole, a range, and nothing at all for HEAD, 304 and 416."""
    assert answered("GET", {}) == (list(range(100)), 100_000)
    assert answered("GET", {"Range": "bytes=0-1999"}) == ([0, 1], 2000)
    assert answered("HEAD", {}) == ([], 0)
    assert answered("GET", {"If-None-Match": '"e"'}) == ([], 0)
    assert answered("GET", {"Range": "bytes=100000-"})[0] == []


def test_a_client_that_goes_away_stops_the_computation() -> None:
    """After the disconnect at most a block or two more are computed."""
    computed, _ = answered("GET", {}, leaves_after=5)
    assert 3 <= len(computed) <= 7


@pytest.mark.slow
def test_slow_clients_cost_neither_memory_nor_time(server: ServerProcess, http: httpx.Client) -> None:
    """Eight clients that stop reading a file of 455 MB: the server waits for them, and keeps nothing for them."""
    model = http.post("/models", json={"learngene": "large-tleg", "budget": {"depth": 64}}).json()
    http.get(model["links"]["weights"], headers={"Range": "bytes=0-50000000"})  # warm: buffers, code, the plan
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    request = f"GET {model['links']['weights']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    connections = [server.connect(receive_buffer=65536) for _ in range(8)]
    try:
        for connection in connections:
            connection.sendall(request)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        time.sleep(1)
        used_before = sum(process.cpu_times()[:2])
        started = time.monotonic()
        assert http.get("/livez").is_success
        assert time.monotonic() - started < 5  # generous: the machine is shared
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) - used_before < 0.3  # s; computing what nobody reads would take all of it
        assert process.memory_info().rss - before < 64 * 1024 * 1024
    finally:
        for connection in connections:
            connection.close()
    time.sleep(0.5)
    used_before = sum(process.cpu_times()[:2])
    time.sleep(0.5)
    assert sum(process.cpu_times()[:2]) - used_before < 0.3  # and the ends of the connections ended the work
    assert http.get(model["links"]["weights"], headers={"Range": "bytes=0-9"}).status_code == 206
