"""`POST /learngenes` and `DELETE /learngenes/{id}`: learngenes that join and leave running servers, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from starlette.testclient import TestClient

from service.storage import keys
from service.storage.embedded_redis import EmbeddedRedis
from tests.service import tiny
from tests.service.conftest import ApiFactory
from tests.service.test_bad_requests import assert_problem
from tleg_core.learngene import Learngene

WITHIN_S = 5.0  # other servers take about a second; a busy machine more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of the servers: an object store that they share."""
    return tmp_path / "data"


@pytest.fixture
def url(redis_url: str) -> str:
    """A database that holds nothing."""
    with redis.Redis.from_url(f"{redis_url}?db=10") as client:
        client.flushdb()
    return f"{redis_url}?db=10"


@pytest.fixture
def servers(open_api: ApiFactory, url: str, folder: Path) -> Iterator[tuple[TestClient, TestClient]]:
    """Two API processes on one Redis and one object store."""
    with open_api(url, data_dir=folder) as here, open_api(url, data_dir=folder) as there:
        yield here, there


@pytest.fixture
def here(servers: tuple[TestClient, TestClient]) -> TestClient:
    """One of them."""
    return servers[0]


@pytest.fixture
def there(servers: tuple[TestClient, TestClient]) -> TestClient:
    """The other."""
    return servers[1]


def content(learngene: Learngene) -> bytes:
    """Return a learngene's file."""
    return bytes(learngene.content)


def renamed(learngene: Learngene, name: str) -> Learngene:
    """Return the same weights under another name."""
    return learngene.with_description(name=name)


def publish(api: TestClient, learngene: Learngene, *statuses: int, **params: Any) -> dict[str, Any]:
    """Publish a learngene; return what is answered."""
    answer = api.post("/learngenes", content=content(learngene), params=params)
    assert answer.status_code in (statuses or (200, 201)), answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids(api: TestClient) -> list[str]:
    """Return the learngenes of a server."""
    return [item["id"] for item in api.get("/learngenes").json()["data"]]


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stored(folder: Path) -> list[Path]:
    """Return the published files in the object store."""
    return sorted((folder / "objects" / "learngenes").glob("*"))


def test_a_published_learngene_is_there_at_once(here: TestClient, folder: Path) -> None:
    """201 and its path; described, listed, expanded, on the front and the page, and its file is what was sent."""
    item = tiny.learngene("newcomer", accuracy=tiny.measured("shapes", {2: 0.99}), max_depth=7)
    answer = here.post("/learngenes", content=content(item))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["Location"] == "/learngenes/newcomer"
    assert here.get(answer.headers["Location"]).json() == body
    assert (body["id"], body["digest"], body["source"]) == ("newcomer", item.digest, "published")
    assert body["sha256"] == hashlib.sha256(item.content).hexdigest()
    assert body["published_at"] is not None
    assert [member["depth"] for member in body["members"]] == list(range(1, 8))
    assert ids(here) == ["newcomer", "tiny-polynomial", "tiny-stagewise", "tiny-tleg"]
    model = here.post("/models", json={"learngene": "newcomer", "budget": {"depth": 5}}).json()
    file = here.get(model["links"]["weights"])
    assert hashlib.sha256(file.content).hexdigest() == model["sha256"]
    assert here.get("/tleg/newcomer-d5/resolve/main/model.safetensors").content == file.content
    assert "newcomer" in here.get("/").text
    assert "newcomer" in [entry["learngene"] for entry in here.get("/frontier").json()["data"]]
    download = here.get("/learngenes/newcomer/weights")
    assert download.content == content(item)
    assert download.headers["ETag"] == f'"{body["sha256"]}"'
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in stored(folder)] == [body["sha256"]]


def test_a_servers_own_learngenes_say_where_they_come_from(here: TestClient, open_api: ApiFactory, url: str) -> None:
    """`configured`, or `shipped` with the package; neither was published at a time."""
    for body in here.get("/learngenes").json()["data"]:
        assert (body["source"], body["published_at"]) == ("configured", None)
        assert body["sha256"] == hashlib.sha256(here.get(body["links"]["weights"]).content).hexdigest()
    with open_api(url, shipped=True) as api:
        assert {body["source"] for body in api.get("/learngenes").json()["data"]} == {"configured", "shipped"}


def test_another_server_has_it_within_about_a_second(here: TestClient, there: TestClient) -> None:
    """In its list, without being asked for it by name; and deleted, it goes there too."""
    publish(here, tiny.learngene("newcomer"))
    eventually(lambda: "newcomer" in ids(there))
    assert here.delete("/learngenes/newcomer").status_code == 204
    assert "newcomer" not in ids(here)
    eventually(lambda: "newcomer" not in ids(there))
    assert_problem(there.get("/learngenes/newcomer"), 404)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda api: api.get("/learngenes/newcomer"), id="itself"),
        pytest.param(lambda api: api.head("/learngenes/newcomer/weights"), id="its file"),
        pytest.param(lambda api: api.post("/models", json={"learngene": "newcomer"}), id="a model"),
        pytest.param(lambda api: api.post("/models", json={"learngene": "newcomer"}, params={"dry_run": True}), id="dry run"),
        pytest.param(lambda api: api.get("/api/models/tleg/newcomer-d3"), id="a Hub repository"),
        pytest.param(lambda api: api.get("/tleg/newcomer-d3/resolve/main/config.json"), id="a Hub file"),
    ],
)
def test_a_request_that_names_it_finds_it_anywhere_at_once(
    here: TestClient, there: TestClient, ask: Callable[[TestClient], httpx.Response]
) -> None:
    """A server that has not heard of it yet looks before it says no."""
    publish(here, tiny.learngene("newcomer"))
    assert ask(there).status_code in (200, 201)


def test_a_model_of_it_is_downloaded_from_any_server_at_once(here: TestClient, there: TestClient) -> None:
    """Its recipe names the digest; the other server fetches the learngene by it, the superseded one too."""
    old = tiny.learngene("newcomer")
    publish(here, old)
    model = here.post("/models", json={"learngene": "newcomer", "budget": {"depth": 4}}).json()
    paths = [model["links"]["weights"], f"/models/{model['id']}/config.json", f"/tleg/{model['id']}/resolve/main/README.md"]
    before = [there.get(path) for path in paths]
    assert [answer.status_code for answer in before] == [200, 200, 200]
    publish(here, renamed(tiny.learngene("better"), "newcomer"), 200, replace=True)
    eventually(lambda: bool(there.get("/learngenes/newcomer").json()["digest"] != old.digest))
    for api in (here, there):
        assert [api.get(path).content for path in paths] == [answer.content for answer in before]
    newer = there.post("/models", json={"learngene": "newcomer", "budget": {"depth": 4}}).json()
    assert newer["id"] != model["id"]


def test_a_server_that_starts_later_has_it_from_the_start(
    here: TestClient, open_api: ApiFactory, url: str, folder: Path
) -> None:
    """Restarted, too."""
    publish(here, tiny.learngene("newcomer"))
    with open_api(url, data_dir=folder) as later:
        assert "newcomer" in ids(later)


def test_publishing_again_is_idempotent(here: TestClient, there: TestClient, folder: Path) -> None:
    """The same file is 200 with what was there, from any server; more accuracy takes the file's place and changes no model."""
    item = tiny.learngene("newcomer")
    first = publish(here, item, 201)
    assert publish(here, item, 200) == first
    assert publish(there, item, 200) == first
    assert len(stored(folder)) == 1
    model = here.post("/models", json={"learngene": "newcomer", "budget": {"depth": 3}}).json()
    assert model["accuracy"] == {}
    second = publish(there, item.with_description(accuracy=tiny.measured("shapes", {3: 0.5})), 200)
    assert second["digest"] == first["digest"]
    assert second["sha256"] != first["sha256"]
    assert second["published_at"] > first["published_at"]
    again = there.post("/models", json={"learngene": "newcomer", "budget": {"depth": 3}}).json()
    assert again["id"] == model["id"]
    assert there.get(model["links"]["self"]).json()["accuracy"]["shapes"]["top1"] == 0.5
    eventually(lambda: here.get(model["links"]["self"]).json()["accuracy"] != {})
    assert here.get(model["links"]["weights"]).content == there.get(model["links"]["weights"]).content


def test_a_taken_name_is_a_conflict(here: TestClient, learngene_files: list[Path]) -> None:
    """Another learngene's, unless it is to be replaced; one of the server's own, whatever is asked for; known weights."""
    item = tiny.learngene("newcomer")
    publish(here, item)
    other = renamed(tiny.learngene("other"), "newcomer")
    problem = publish(here, other, 409)
    assert problem["code"] == "learngene_taken"
    assert item.digest[:16] in problem["detail"]
    for replace in (False, True):
        for conflicting in (
            renamed(tiny.learngene("x1"), "tiny-tleg"),
            renamed(Learngene.open(learngene_files[0]), "my-own-name"),
            renamed(item, "alias"),
        ):
            assert publish(here, conflicting, 409, replace=replace)["code"] == "learngene_taken"
    assert publish(here, other, 200, replace=True)["digest"] == other.digest
    assert here.get("/learngenes/tiny-tleg").json()["source"] == "configured"


def test_only_published_ones_can_be_deleted(here: TestClient, folder: Path) -> None:
    """204, then 404; 409 for the server's own; models of it say that their learngene is not loaded."""
    publish(here, tiny.learngene("newcomer"))
    model = here.post("/models", json={"learngene": "newcomer", "budget": {"depth": 2}}).json()
    assert here.delete("/learngenes/newcomer").status_code == 204
    assert assert_problem(here.delete("/learngenes/newcomer"), 404)["code"] == "learngene_not_found"
    assert assert_problem(here.delete("/learngenes/tiny-tleg"), 409)["code"] == "learngene_fixed"
    for path in (model["links"]["weights"], f"/models/{model['id']}/config.json"):
        assert assert_problem(here.get(path), 503)["code"] == "learngene_not_loaded"
    assert here.get(model["links"]["self"]).status_code == 200
    assert stored(folder) == []
    publish(here, tiny.learngene("newcomer"), 201)
    assert here.get(model["links"]["weights"]).status_code == 200


def header(value: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file of that header."""
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


def described(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a learngene's file with its description changed, and nothing else."""
    original = content(tiny.learngene("newcomer"))
    (length,) = struct.unpack("<Q", original[:8])
    parsed = json.loads(original[8 : 8 + length])
    description = json.loads(parsed["__metadata__"]["tleg.learngene"])
    change(description)
    parsed["__metadata__"]["tleg.learngene"] = json.dumps(description)
    return header(parsed, original[8 + length :])


def flipped() -> bytes:
    """Return a learngene's file with one bit of a tensor flipped."""
    original = bytearray(content(tiny.learngene("newcomer")))
    original[-3] ^= 1
    return bytes(original)


def set_to(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of one field."""
    return lambda description: description.__setitem__(name, value)


HOSTILE: dict[str, tuple[Callable[[], bytes], int, str, str]] = {
    "empty": (lambda: b"", 422, "learngene_refused", "empty"),
    "a few bytes": (lambda: b"\0" * 5, 422, "learngene_refused", "cut short"),
    "a pickle": (lambda: pickle.dumps({"weights": list(range(1000))}, protocol=4), 415, "upload_type", "pickle"),
    "a zip, as torch.save writes": (lambda: b"PK\x03\x04" + b"\0" * 100, 415, "upload_type", "zip"),
    "a text": (lambda: b"hello, this is no learngene" * 10, 415, "upload_type", "first bytes"),
    "a huge header": (lambda: struct.pack("<Q", 2**62) + b"{" + b" " * 100, 422, "learngene_refused", "above the limit"),
    "a header cut short": (lambda: struct.pack("<Q", 4000) + b'{"a": ', 422, "learngene_refused", "cut short"),
    "a deep header": (lambda: struct.pack("<Q", 200_006) + b'{"a": ' + b"[" * 200_000, 422, "learngene_refused", "JSON"),
    "a header that is a list": (lambda: struct.pack("<Q", 2) + b" [" + b"]", 422, "learngene_refused", "JSON"),
    "no learngene": (
        lambda: header({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        422,
        "learngene_refused",
        "no",
    ),
    "cut": (lambda: content(tiny.learngene("newcomer"))[:-1000], 422, "learngene_refused", "bytes of data"),
    "more than it says": (lambda: content(tiny.learngene("newcomer")) + b"\0", 422, "learngene_refused", "bytes of data"),
    "another digest": (flipped, 422, "learngene_refused", "digest"),
    "a name of control characters": (lambda: described(set_to("name", "a\x1b[2Jb\n")), 422, "learngene_refused", "name"),
    "a name that is a path": (lambda: described(set_to("name", "../../etc/passwd")), 422, "learngene_refused", "name"),
    "a name that is no text": (lambda: described(set_to("name", ["a"])), 422, "learngene_refused", "name"),
    "class names of control characters": (
        lambda: described(set_to("class_names", ["\x00"] * 10)),
        422,
        "learngene_refused",
        "printable",
    ),
    "a depth without end": (lambda: described(set_to("depths", {"min": 1, "max": 10**9})), 422, "learngene_refused", "depths"),
    "an unknown method": (lambda: described(set_to("method", "magic")), 422, "learngene_refused", "method"),
    "an unknown field": (lambda: described(set_to("surprise", 1)), 422, "learngene_refused", "surprise"),
    "an endless network": (
        lambda: described(lambda about: about["config"].update(embed_dim=3 * 10**12)),
        422,
        "learngene_refused",
        "embed_dim",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_learngene_is_refused_and_leaves_nothing(here: TestClient, folder: Path, url: str, name: str) -> None:
    """A problem that says what is wrong, in printable characters; no record, no object, no upload stays."""
    make, status, code, said = HOSTILE[name]
    answer = here.post("/learngenes", content=make())
    problem = assert_problem(answer, status)
    assert problem["code"] == code
    assert said in str(problem["detail"])
    assert str(problem["detail"]).isprintable()
    assert str(folder) not in answer.text
    assert len(ids(here)) == 3
    assert stored(folder) == []
    assert list((folder / "uploads").iterdir()) == []
    with redis.Redis.from_url(url) as client:
        assert not client.exists(keys.LEARNGENES, keys.LEARNGENE_FILES, keys.LEARNGENES_ENDING)


def test_a_descendant_is_no_learngene(here: TestClient) -> None:
    """The weights that this server gives are told from a learngene."""
    model = here.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 2}}).json()
    answer = here.post("/learngenes", content=here.get(model["links"]["weights"]).content)
    assert "descendant" in str(assert_problem(answer, 422)["detail"])


def test_limits_are_named(open_api: ApiFactory, url: str, folder: Path) -> None:
    """A file that is too long is refused by what it says, and by what comes; all together have a limit too."""
    item = tiny.learngene("newcomer")
    size = len(item.content)
    with open_api(url, data_dir=folder, max_learngene_bytes=size - 1) as api:
        problem = assert_problem(api.post("/learngenes", content=content(item)), 413)
        assert (problem["code"], problem["limit"]) == ("upload_too_large", size - 1)
        chunks = (content(item)[start : start + 50_000] for start in range(0, size, 50_000))
        assert_problem(api.post("/learngenes", content=chunks), 413)
    with open_api(url, data_dir=folder, max_published_bytes=size + 10) as api:
        publish(api, item, 201)
        problem = publish(api, tiny.learngene("another"), 507)
        assert problem["code"] == "storage_full"
        assert "TLEG_MAX_PUBLISHED_BYTES" in str(problem["detail"])
        assert publish(api, item, 200)["id"] == "newcomer"
    assert len(stored(folder)) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/zip"}, 415),
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/octet-stream"}, 201),
        ({"Content-Type": "application/x-safetensors; charset=x"}, 201),
    ],
)
def test_a_learngene_is_sent_as_it_is(here: TestClient, headers: dict[str, str], status: int) -> None:
    """As bytes, not as a form, and not compressed."""
    answer = here.post("/learngenes", content=content(tiny.learngene("newcomer")), headers=headers)
    assert answer.status_code == status, answer.text


def test_without_redis_nothing_is_read_and_all_is_served_on(open_api: ApiFactory, folder: Path, tmp_path: Path) -> None:
    """503 for a publication, a deletion, and a name that may have been published; what was published is served on."""
    (tmp_path / "redis").mkdir()
    with EmbeddedRedis(tmp_path / "redis") as embedded:
        opened = open_api(embedded.url, data_dir=folder)
        api = opened.__enter__()
        publish(api, tiny.learngene("newcomer"))
    try:
        for answer in (
            api.post("/learngenes", content=content(tiny.learngene("another"))),
            api.delete("/learngenes/newcomer"),
            api.get("/learngenes/another"),
        ):
            assert assert_problem(answer, 503)["code"] == "store_unavailable"
        assert "newcomer" in ids(api)
        assert api.get("/learngenes/newcomer/weights").status_code == 200
        assert api.get("/tleg/newcomer-d3/resolve/main/config.json").status_code == 200
        time.sleep(1.5)  # the watch has looked in vain
        assert "newcomer" in ids(api)
    finally:
        opened.__exit__(None, None, None)


def test_an_object_deleted_behind_our_back_is_not_fatal(here: TestClient, open_api: ApiFactory, url: str, folder: Path) -> None:
    """Who holds it serves on; a server that starts leaves it out and serves the others; its models say what is missing."""
    publish(here, tiny.learngene("newcomer"))
    model = here.post("/models", json={"learngene": "newcomer", "budget": {"depth": 2}}).json()
    publish(here, tiny.learngene("sound"))
    for path in stored(folder):
        if hashlib.sha256(content(tiny.learngene("newcomer"))).hexdigest() in path.name:
            path.unlink()
    assert here.get(model["links"]["weights"]).status_code == 200
    with open_api(url, data_dir=folder) as later:
        assert "newcomer" not in ids(later)
        assert "sound" in ids(later)
        assert assert_problem(later.get(model["links"]["weights"]), 503)["code"] == "learngene_not_loaded"
        publish(later, tiny.learngene("newcomer"), 200)
        assert later.get(model["links"]["weights"]).status_code == 200


def test_of_concurrent_publications_of_a_name_one_wins(here: TestClient, there: TestClient, folder: Path) -> None:
    """Through both servers at once: one 201, the others 409; and the same file by many at once is there once."""
    files = [content(renamed(tiny.learngene(f"weights-{index}"), "newcomer")) for index in range(6)]
    with ThreadPoolExecutor(6) as threads:
        answers = list(
            threads.map(lambda job: (here, there)[job % 2].post("/learngenes", content=files[job]).status_code, range(6))
        )
        assert sorted(answers) == [201, 409, 409, 409, 409, 409]
        same = list(
            threads.map(
                lambda job: (here, there)[job % 2].post("/learngenes", content=content(tiny.learngene("twin"))).status_code,
                range(6),
            )
        )
        assert sorted(same) == [200, 200, 200, 200, 200, 201]
    assert len(stored(folder)) == 2
    assert here.get("/learngenes/newcomer").json() == there.get("/learngenes/newcomer").json()


def test_requests_are_answered_while_learngenes_come_and_go(here: TestClient, there: TestClient) -> None:
    """Not one fails that has nothing to do with them, while another server publishes, replaces and deletes."""
    failures: list[str] = []
    body = {"learngene": "tiny-tleg", "budget": {"depth": 3}}

    def ask(_: int) -> None:
        for path in ("/learngenes", "/frontier", "/learngenes/tiny-tleg", "/"):
            answer = there.get(path)
            if answer.status_code != 200:
                failures.append(f"{path}: {answer.status_code}")
        answer = there.post("/models", json=body)
        if answer.status_code not in (200, 201):
            failures.append(f"/models: {answer.status_code}")

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(ask, number) for number in range(8)]
        for number in range(6):
            publish(here, renamed(tiny.learngene(f"weights-{number}"), "newcomer"), replace=True)
            there.get("/learngenes/newcomer")
        here.delete("/learngenes/newcomer")
        for item in asked:
            item.result()
    assert failures == []
