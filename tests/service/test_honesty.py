"""What the API says of a model is what the model is."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from starlette.testclient import TestClient

from service.storage import keys
from tests.service import tiny
from tests.service.conftest import ApiFactory
from tleg_core.learngene import Learngene


@pytest.mark.parametrize("change", [{}, {"head": "none"}, {"num_classes": 0}, {"num_classes": 77}, {"image_size": 64}])
def test_what_is_budgeted_is_what_is_made(api: TestClient, change: dict[str, object]) -> None:
    """A limit of exactly what a model has gets that model, and one less does not."""
    body = {"learngene": "tiny-tleg", "objective": "largest"} | change
    for cost in ("params", "macs", "weights_bytes", "memory_bytes"):
        model = api.post("/models", json=body | {"budget": {"depth": 5}}).json()
        again = api.post("/models", json=body | {"budget": {f"max_{cost}": model[cost]}}).json()
        assert again["id"] == model["id"]
        less = api.post("/models", json=body | {"budget": {f"max_{cost}": model[cost] - 1}}).json()
        assert less["member"]["depth"] == 4


def test_what_a_refusal_says_to_relax_is_enough(api: TestClient) -> None:
    """Each limit set to what the nearest member has, the same request is met."""
    body = {"learngene": "tiny-tleg", "budget": {"depth": 12, "max_params": 50_000, "max_macs": 10**9}}
    problem = api.post("/models", json=body).json()
    assert problem["code"] == "budget_infeasible"
    relaxed = {name: limit["required"] for name, limit in problem["exceeded"].items()}
    answer = api.post("/models", json=body | {"budget": body["budget"] | relaxed})  # type: ignore[operator]
    assert answer.status_code in (200, 201)
    assert answer.json()["member"] == problem["nearest_feasible"]["member"]


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"head": "random"}, {"head": "none"}, {"image_size": 64}])
def test_accuracy_is_of_the_network_that_was_measured(api: TestClient, change: dict[str, object]) -> None:
    """A network with another head or image size was never measured, and says nothing."""
    body = {"learngene": "tiny-tleg", "budget": {"depth": 5}}
    assert api.post("/models", json=body).json()["accuracy"]["shapes"]["images"] == 1000
    changed = api.post("/models", json=body | change).json()
    assert changed["accuracy"] == {}
    assert api.get(changed["links"]["self"]).json()["accuracy"] == {}


@pytest.fixture
def own_redis(redis_url: str) -> str:
    """A database that holds nothing."""
    url = f"{redis_url}?db=2"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def test_a_measurement_shows_on_models_that_were_there_before(open_api: ApiFactory, own_redis: str, tmp_path: Path) -> None:
    """Accuracy is the learngene's to say, now; no model's id changes by it."""
    path = tmp_path / "x.safetensors"
    before = tiny.learngene("measured-later", accuracy=tiny.measured("shapes", {3: 0.25}))
    before.write(path)
    with open_api(own_redis, learngenes=(path,)) as api:
        created = api.post("/models", json={"budget": {"depth": 3}}).json()
    Learngene.open(path).with_description(accuracy=tiny.measured("shapes", {3: 0.75})).write(path)
    with open_api(own_redis, learngenes=(path,)) as api:
        for found in (api.get(created["links"]["self"]).json(), api.get("/models").json()["data"][0]):
            assert (found["id"], found["accuracy"]["shapes"]["top1"]) == (created["id"], 0.75)
        for name in (created["id"], "measured-later-d3"):
            assert "75.00%" in api.get(f"/tleg/{name}/resolve/main/README.md").text


@pytest.mark.parametrize("damage", ["{", '{"version": 99, "recipe": {"format": 1}}', "[]", '"x"', "{}"])
def test_a_damaged_record_hides_no_other(open_api: ApiFactory, own_redis: str, damage: str) -> None:
    """It is left out of the list, and asked for by its id it is a problem with a code."""
    with open_api(own_redis) as api, redis.Redis.from_url(own_redis) as client:
        ids = [api.post("/models", json={"budget": {"depth": depth}}).json()["id"] for depth in (1, 2, 3)]
        client.hset(keys.model(ids[1]), "record", damage)
        assert {model["id"] for model in api.get("/models").json()["data"]} == {ids[0], ids[2]}
        answer = api.get(f"/models/{ids[1]}")
        assert (answer.status_code, answer.json()["code"]) == (500, "record_unreadable")
