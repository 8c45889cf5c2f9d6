"""Members of every design through the API: along paths, with inherited layers, from scratch; the same fields and routes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from tests.service import tiny
from tests.service.conftest import ApiFactory
from tleg_core.cost import stack_cost
from tleg_core.descendant import Descendant
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member

STITCHED = "0.0-1_1.3-3"
"""The cheapest stitched path of `tiny-pool`: less than the whole wide anchor, more than the narrow one."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a pool, of inherited layers and of scratch."""
    return tiny.write_other_designs(tmp_path_factory.mktemp("designs"))


@pytest.fixture(scope="module")
def api(open_api: ApiFactory, redis_url: str, files: list[Path]) -> Iterator[TestClient]:
    """The application with these learngenes alone, on a database of its own."""
    url = f"{redis_url}?db=2"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    with open_api(url, learngenes=tuple(files)) as client:
        yield client


@pytest.fixture(scope="module")
def pool(files: list[Path]) -> Learngene:
    """The pool."""
    return Learngene.open(files[0])


def create(api: TestClient, **body: Any) -> dict[str, Any]:
    """Return the model that a request gets."""
    answer = api.post("/models", json=body)
    assert answer.status_code in (200, 201), answer.text
    created: dict[str, Any] = answer.json()
    return created


def test_a_pools_members_are_listed_by_path(api: TestClient, pool: Learngene) -> None:
    """The whole anchors and then the stitched paths, each with depth, path, costs and accuracy; and how many stitches."""
    answer = api.get("/learngenes/tiny-pool").json()
    family = Family(pool)
    assert [(item["depth"], item["path"]) for item in answer["members"]] == [
        (member.depth, str(member.path)) for member in family.members
    ]
    for item, member in zip(answer["members"], family.members, strict=True):
        cost = stack_cost(family.stack(member))
        assert (item["params"], item["macs"], item["memory_bytes"]) == (cost.params, cost.macs, cost.memory_bytes)
    assert answer["members"][0]["accuracy"] == {"shapes": {"top1": 0.6, "images": 1000}}
    assert answer["members"][3]["accuracy"] == {}
    anchors = [(anchor["name"], anchor["depth"], anchor["config"]["embed_dim"]) for anchor in answer["anchors"]]
    assert anchors == [("narrow", 3, 32), ("wide", 4, 48)]
    assert (answer["method"], answer["stitches"], answer["config"]["embed_dim"]) == ("pool", 3, 48)
    assert (answer["trained_depth"], answer["selection"]) == (None, None)


def test_a_selection_comes_with_its_evidence(api: TestClient) -> None:
    """Rule, scores, chosen layers and details of inherited layers; a depth alone names each member."""
    answer = api.get("/learngenes/tiny-inherited").json()
    assert answer["selection"] == {
        "rule": "the two highest",
        "scores": [0.1, 0.7, 0.2, 0.6],
        "chosen": [1, 3],
        "details": {"tasks": 2},
    }
    assert (answer["anchors"], answer["stitches"]) == ([], 0)
    assert [(item["depth"], item["path"]) for item in answer["members"]] == [(depth, None) for depth in range(2, 7)]


def test_a_path_is_a_budget(api: TestClient, pool: Learngene) -> None:
    """Exactly that member, as a plain module of stages, its file what the family writes."""
    model = create(api, learngene="tiny-pool", budget={"path": STITCHED})
    assert model["member"] == {"depth": 3, "path": STITCHED}
    assert model["recipe"]["member"] == {"path": STITCHED}
    assert model["architecture"] == "tleg_stitched_vit"
    assert [(stage["embed_dim"], stage["depth"]) for stage in model["model_args"]["stages"]] == [(32, 2), (48, 1)]
    assert model["selected_by"] == {"objective": "accuracy", "data_set": "shapes"}
    family = Family(pool)
    expected = Descendant(family, family.recipe(Member.along(PoolPath.parse(STITCHED)), Variation()))
    content = api.get(model["links"]["weights"]).content
    assert content == expected.read(0, expected.size)
    assert model["sha256"] == hashlib.sha256(content).hexdigest()
    assert model["size_bytes"] == len(content)
    assert api.get(model["links"]["self"]).json()["member"] == model["member"]
    assert api.get("/models").json()["data"][0]["member"] == model["member"]


def test_a_whole_anchor_is_a_plain_network(api: TestClient) -> None:
    """timm's own architecture, by the path that is the whole anchor."""
    model = create(api, learngene="tiny-pool", budget={"path": "1.0-3"})
    assert model["architecture"].startswith("vit_")
    assert (model["model_args"]["embed_dim"], model["model_args"]["depth"]) == (48, 4)


@pytest.mark.parametrize("cost", ["params", "macs", "flops", "weights_bytes", "memory_bytes"])
def test_a_budget_that_only_a_stitched_member_meets_best(api: TestClient, cost: str) -> None:
    """Between both anchors a stitched path is the most accurate that fits; dry or not, alone or in a batch."""
    members = {item["path"]: item for item in api.get("/learngenes/tiny-pool").json()["members"]}
    limit = members[STITCHED][cost]
    assert members["0.0-2"][cost] < limit < members["1.0-3"][cost]
    body = {"learngene": "tiny-pool", "budget": {f"max_{cost}": limit}}
    model = create(api, **body)
    assert model["member"]["path"] == STITCHED
    dry = api.post("/models", params={"dry_run": True}, json=body).json()
    batch = api.post("/models/batch", json={"requests": [body, {"budget": {"path": STITCHED}}]}).json()
    assert [dry["id"], *(entry["model"]["id"] for entry in batch["data"])] == [model["id"]] * 3


def test_only_a_stitched_member_has_that_depth(api: TestClient) -> None:
    """A floor and a ceiling that no anchor is between are met by a stitched path."""
    members = {item["path"]: item for item in api.get("/learngenes/tiny-pool").json()["members"]}
    budget = {"depth": 4, "max_params": members["1.0-3"]["params"] - 1}
    assert create(api, learngene="tiny-pool", budget=budget)["member"]["path"] == "0.0-0_1.1-3"


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"num_classes": 3}, {"image_size": 48}, {"head": "none"}])
def test_a_stitched_member_can_be_varied(api: TestClient, change: dict[str, Any]) -> None:
    """Another head, image size or element type changes the file as it says, and its id."""
    plain = create(api, learngene="tiny-pool", budget={"path": STITCHED})
    model = create(api, learngene="tiny-pool", budget={"path": STITCHED}, **change)
    assert model["id"] != plain["id"]
    assert len(api.get(model["links"]["weights"]).content) == model["size_bytes"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("0.0-0_1.2-3", "no member's"),
        ("0.0-7", "no member's"),
        ("", "must be like"),
        ("../../etc/passwd", "must be like"),
        ("0.0-1_0.2-2", "neighbouring segments of one anchor"),
        ("0.2-1", "ascending"),
        ("0.0-00", "must be like"),
        ("0.0-1\n", "must be like"),
        ("٠.0-2", "must be like"),  # noqa: RUF001 - a digit, though none of ours
        ("_".join(["0.0-1", "1.0-1"] * 9), "1 to 16 segments"),
        ("9" * 5000, "at most 256 characters"),
    ],
)
def test_a_wrong_path_is_refused(api: TestClient, path: str, says: str) -> None:
    """422 that names the field, whatever is wrong with it."""
    answer = api.post("/models", json={"learngene": "tiny-pool", "budget": {"path": path}})
    assert answer.status_code == 422
    assert "budget.path" in json.dumps(answer.json())
    assert says in answer.json()["detail"] + json.dumps(answer.json().get("errors"))


@pytest.mark.parametrize("path", [3, ["0.0-2"], {"segments": []}, True])
def test_a_path_of_another_type_is_refused(api: TestClient, path: object) -> None:
    """422, and no trace of it elsewhere."""
    answer = api.post("/models", json={"budget": {"path": path}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "budget.path"


def test_a_path_and_a_limit_are_both_kept(api: TestClient) -> None:
    """The path's member above the limit: it names the limit and the member."""
    answer = api.post("/models", json={"learngene": "tiny-pool", "budget": {"path": "1.0-3", "max_params": 1000}})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["binding_constraint"]) == (422, "budget_infeasible", "max_params")
    assert problem["nearest_feasible"]["member"] == {"depth": 4, "path": "1.0-3"}


def test_pool_members_are_on_the_front(api: TestClient) -> None:
    """The measured members that none beats, by rising MACs."""
    front = api.get("/frontier").json()
    assert [(item["learngene"], item["member"]["path"]) for item in front["data"]] == [
        ("tiny-pool", "0.0-2"),
        ("tiny-pool", STITCHED),
        ("tiny-pool", "0.0-0_1.1-3"),
        ("tiny-pool", "1.0-3"),
    ]


def test_fresh_layers_follow_the_seed(api: TestClient) -> None:
    """The seed decides the layers that are drawn, and has no influence where none is."""
    deep = [create(api, learngene="tiny-inherited", budget={"depth": 5}, seed=seed) for seed in (0, 1)]
    assert [model["recipe"]["seed"] for model in deep] == [0, 1]
    assert deep[0]["sha256"] != deep[1]["sha256"]
    whole = [create(api, learngene="tiny-inherited", budget={"depth": 2}, seed=seed)["id"] for seed in (0, 1)]
    assert whole[0] == whole[1]


def test_scratch_can_be_asked_for(api: TestClient) -> None:
    """By its method; each seed another network, of the depth asked for."""
    models = [create(api, method="scratch", budget={"depth": 4}, seed=seed) for seed in (0, 1)]
    assert {model["learngene"] for model in models} == {"tiny-scratch"}
    assert models[0]["member"] == {"depth": 4, "path": None}
    assert models[0]["sha256"] != models[1]["sha256"]
    answer = api.post("/models", json={"method": "scratch", "head": "inherit"})
    assert answer.status_code == 422
    assert "needs a trained head" in answer.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"objective": "largest"}, {"budget": {"depth": 12}}, {"num_classes": 7}])
def test_nobody_gets_scratch_unasked(api: TestClient, body: dict[str, Any]) -> None:
    """Where neither method nor learngene says so, a network without anything learned is no answer, not even the largest."""
    answer = api.post("/models", json=body)
    if answer.status_code == 422:
        assert answer.json()["nearest_feasible"]["learngene"] != "tiny-scratch"
    else:
        assert answer.json()["learngene"] != "tiny-scratch"
