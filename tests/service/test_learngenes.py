"""`GET /learngenes`, one learngene, and its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from tests.service import tiny
from tests.service.commands import Tleg
from tests.service.conftest import ApiFactory
from tleg_core.learngene import Learngene


def test_learngenes_are_listed_by_name(api: TestClient) -> None:
    """The list holds every learngene, sorted, and says that nothing follows."""
    body = api.get("/learngenes").json()
    assert body["object"] == "list"
    assert [item["id"] for item in body["data"]] == ["tiny-polynomial", "tiny-stagewise", "tiny-tleg"]
    assert body["has_more"] is False


def test_cursors_walk_through_all_learngenes(api: TestClient) -> None:
    """Pages of one, each asked for after the last, give the whole list once."""
    seen, after = [], {}
    for _ in range(3):
        page = api.get("/learngenes", params={"limit": 1} | after).json()
        (item,) = page["data"]
        seen.append(item["id"])
        after = {"after": item["id"]}
        assert page["has_more"] is (len(seen) < 3)
    assert seen == ["tiny-polynomial", "tiny-stagewise", "tiny-tleg"]
    assert api.get("/learngenes", params=after).json()["data"] == []


@pytest.fixture
def deep_learngenes(http: httpx.Client) -> Iterator[list[str]]:
    """The names of six learngenes of a thousand members each, published on the server for a while."""
    names = [f"deep-{number}" for number in range(6)]
    for name in names:
        content = bytes(tiny.learngene(name, max_depth=1000).content)
        assert http.post("/learngenes", content=content).status_code == 201
    yield names
    for name in names:
        assert http.delete(f"/learngenes/{name}").status_code == 204


def test_a_page_ends_early_where_members_are_many(http: httpx.Client, online: Tleg, deep_learngenes: list[str]) -> None:
    """At 5,000 members and accuracies, whatever its limit; `has_more` leads to the rest, and the command follows it."""
    page = http.get("/learngenes", params={"limit": 100}).json()
    assert [item["id"] for item in page["data"]] == deep_learngenes[:5]
    assert page["has_more"] is True
    rest = http.get("/learngenes", params={"limit": 100, "after": "deep-4"}).json()
    assert [item["id"] for item in rest["data"]] == ["deep-5", "large-tleg", "tiny-polynomial", "tiny-stagewise", "tiny-tleg"]
    assert rest["has_more"] is False
    listed = json.loads(online("learngenes", "list", "--limit", 6, "--json").out)
    assert (listed["data"], listed["has_more"]) == (page["data"] + rest["data"][:1], True)


def test_an_unknown_cursor_is_refused(api: TestClient) -> None:
    """`after` must name a learngene of the list."""
    answer = api.get("/learngenes", params={"after": "nobody"})
    assert (answer.status_code, answer.json()["code"]) == (422, "cursor_unknown")
    assert "after" in answer.json()["detail"]


def test_a_learngene_says_what_it_is(api: TestClient, learngene_files: list[Path]) -> None:
    """One learngene carries its digest, network, provenance and every member with costs and accuracy."""
    opened = Learngene.open(learngene_files[0])
    body = api.get("/learngenes/tiny-tleg").json()
    assert body["digest"] == opened.digest
    assert body["method"] == "tleg"
    assert body["config"] == opened.description.config.to_json()
    assert body["provenance"]["data_set"] == "shapes"
    assert body["class_names"] == list(opened.description.class_names)
    assert body["size_bytes"] == learngene_files[0].stat().st_size
    assert [member["depth"] for member in body["members"]] == list(range(1, 13))
    for member in body["members"]:
        assert member["flops"] == 2 * member["macs"]
        assert member["weights_bytes"] == 4 * member["params"]
        assert member["memory_bytes"] > member["weights_bytes"]
        assert member["accuracy"]["shapes"]["images"] == 1000
    assert api.get(body["links"]["self"]).json() == body


def test_members_begin_at_the_smallest_depth_of_their_schedule(api: TestClient) -> None:
    """A stage-wise learngene of five stages offers no network shallower than that."""
    members = api.get("/learngenes/tiny-stagewise").json()["members"]
    assert [member["depth"] for member in members] == list(range(5, 13))
    assert all(member["accuracy"] == {} for member in members)


@pytest.mark.parametrize("name", ["nobody", "TINY-TLEG", "%00", "..%2f..%2fetc%2fpasswd", "x" * 2000, "%ff", "tiny-tleg%0a"])
@pytest.mark.parametrize("tail", ["", "/weights"])
def test_an_unknown_learngene_is_a_404(api: TestClient, name: str, tail: str) -> None:
    """Names that are not in the catalogue, hostile ones too, are a problem with status 404."""
    answer = api.get(f"/learngenes/{name}{tail}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_learngenes_file_is_served_as_it_is(api: TestClient, learngene_files: list[Path]) -> None:
    """The download equals the file, whole and in part, under its sha256 as entity tag."""
    content = learngene_files[0].read_bytes()
    whole = api.get("/learngenes/tiny-tleg/weights")
    assert whole.content == content
    assert whole.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert whole.headers["Content-Disposition"] == 'attachment; filename="tiny-tleg.safetensors"'
    part = api.get("/learngenes/tiny-tleg/weights", headers={"Range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, content[100:300])
    head = api.head("/learngenes/tiny-tleg/weights")
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(content)), b"")


def test_the_front_holds_the_members_that_nothing_beats(api: TestClient) -> None:
    """On `shapes` no other measured member is both cheaper and at least as accurate as one of the front."""
    body = api.get("/frontier").json()
    assert (body["data_set"], body["cost"]) == ("shapes", "macs")
    assert body["data_sets"] == ["shapes", "digits"]
    costs = [item["macs"] for item in body["data"]]
    accuracies = [item["accuracy"]["shapes"]["top1"] for item in body["data"]]
    assert costs == sorted(set(costs))
    assert accuracies == sorted(set(accuracies))
    everything = [
        (member["macs"], member["accuracy"]["shapes"]["top1"])
        for item in api.get("/learngenes").json()["data"]
        for member in item["members"]
        if "shapes" in member["accuracy"]
    ]
    for macs, top1 in everything:
        assert any(cost <= macs and accuracy >= top1 for cost, accuracy in zip(costs, accuracies, strict=True))


@pytest.mark.parametrize("cost", ["params", "macs", "flops", "weights_bytes", "memory_bytes"])
def test_the_front_is_had_for_every_cost_and_data_set(api: TestClient, cost: str) -> None:
    """`cost` and `data_set` choose the axes."""
    body = api.get("/frontier", params={"cost": cost, "data_set": "digits"}).json()
    assert (body["cost"], body["data_set"]) == (cost, "digits")
    assert [(item["learngene"], item["member"]["depth"]) for item in body["data"]] == [
        ("tiny-polynomial", 2),
        ("tiny-polynomial", 8),
    ]


@pytest.mark.parametrize(("name", "value"), [("cost", "latency"), ("data_set", "nothing"), ("data_set", "x" * 200)])
def test_a_wrong_axis_of_the_front_is_named(api: TestClient, name: str, value: str) -> None:
    """An unknown cost or data set is a 422 that names the parameter."""
    answer = api.get("/frontier", params={name: value})
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["errors"]] == [name]


def test_an_unknown_data_set_of_the_front_is_answered_with_those_that_there_are(
    open_api: ApiFactory, redis_url: str, tmp_path: Path
) -> None:
    """With twenty of them at most: anybody may publish thousands."""
    accuracy = [entry for number in range(30) for entry in tiny.measured(f"set {number:02}", {1: 0.5})]
    tiny.learngene("measured", accuracy=tuple(accuracy)).write(tmp_path / "measured.safetensors")
    with open_api(redis_url, learngenes=(tmp_path / "measured.safetensors",)) as api:
        detail = api.get("/frontier", params={"data_set": "nothing"}).json()["detail"]
    assert detail.startswith("data_set: nothing was measured on 'nothing'; there is 'set 00', 'set 01', ")
    assert detail.endswith(", 'set 19'")
