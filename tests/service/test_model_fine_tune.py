"""`POST /models` with `fine_tune`: a model and its job in one call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from service.domain.dataset import Dataset
from service.storage import keys
from tests.service import tiny
from tests.service.fine_tuned import data_set
from tests.service.tiny import CLASS_NAMES

PETALS = data_set()
SHAPES = data_set(CLASS_NAMES, name="shapes")
BODY = {"learngene": "tiny-tleg", "budget": {"depth": 3}, "fine_tune": {"dataset": PETALS.id, "settings": {"epochs": 2}}}


@pytest.fixture
def store(empty_api: TestClient, redis_url: str) -> Any:
    """The application's Redis, with two data sets and nothing else."""
    assert empty_api.get("/livez").is_success
    with redis.Redis.from_url(f"{redis_url}?db=1", decode_responses=True) as client:
        for dataset in (PETALS, SHAPES):
            _record(client, dataset)
        yield client


def _record(client: Any, dataset: Dataset) -> None:
    fields = {"record": json.dumps(dataset.to_json()), "created_at": "2026-01-01T00:00:00+00:00"}
    client.hset(keys.dataset(dataset.id), mapping=fields)


@pytest.mark.usefixtures("store")
def test_the_answer_is_the_model_with_its_job(empty_api: TestClient) -> None:
    """202 with the job's place; the model has the data set's classes, and is there already."""
    answer = empty_api.post("/models", json=BODY)
    model = answer.json()
    job = model["fine_tune"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/fine-tunes/{job['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert (job["status"], job["model"], job["dataset"], job["settings"]["epochs"]) == ("queued", model["id"], PETALS.id, 2)
    assert model["recipe"]["num_classes"] == 3
    assert empty_api.get(answer.headers["Location"]).json()["requested_settings"] == {"epochs": 2}
    assert empty_api.get(f"/models/{model['id']}").json()["kind"] == "expanded"


@pytest.mark.usefixtures("store")
def test_a_head_of_the_same_classes_is_kept_and_the_user_has_the_last_word(empty_api: TestClient) -> None:
    """Named alike, the learngene's head is inherited; a number or a head that is asked for is made."""

    def recipe(dataset: Dataset, **fields: Any) -> dict[str, Any]:
        body = BODY | {"fine_tune": {"dataset": dataset.id}} | fields
        made: dict[str, Any] = empty_api.post("/models", json=body).json()["recipe"]
        return made

    assert recipe(SHAPES)["head"] == "inherit"
    assert recipe(PETALS)["head"] == "zero"
    assert (recipe(PETALS, head="random", num_classes=3, seed=4)["head"], recipe(PETALS, num_classes=7)["num_classes"]) == (
        "random",
        7,
    )


def test_the_same_key_makes_one_job(empty_api: TestClient, store: Any) -> None:
    """The same answer again, also once the data set is gone; another request with the key is refused."""
    headers = {"Idempotency-Key": "once"}
    first, second = (empty_api.post("/models", json=BODY, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert len(empty_api.get("/fine-tunes").json()["data"]) == 1
    other = empty_api.post("/models", json=BODY | {"budget": {"depth": 4}}, headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"
    assert empty_api.post("/models", json=BODY).json()["fine_tune"]["id"] != first.json()["fine_tune"]["id"]
    store.delete(keys.dataset(PETALS.id))
    assert empty_api.post("/models", json=BODY, headers=headers).json() == first.json()


@pytest.mark.usefixtures("store")
def test_the_same_key_finds_its_job_when_the_learngene_has_gone(empty_api: TestClient) -> None:
    """The model is as recorded, whatever the request could name then."""
    gene = tiny.learngene("for-a-while", accuracy=tiny.measured("digits", {3: 0.5}))
    assert empty_api.post("/learngenes", content=bytes(gene.content)).status_code == 201
    body = BODY | {"learngene": "for-a-while", "accuracy_on": "digits"}
    first = empty_api.post("/models", json=body, headers={"Idempotency-Key": "gone"})
    assert first.status_code == 202
    assert empty_api.delete("/learngenes/for-a-while").status_code == 204
    assert empty_api.post("/models", json=body).status_code == 422
    again = empty_api.post("/models", json=body, headers={"Idempotency-Key": "gone"})
    assert again.status_code == 202, again.text
    assert again.json() == first.json()


@pytest.mark.usefixtures("store")
def test_each_request_of_a_batch_may_have_its_job(empty_api: TestClient) -> None:
    """Each its own, once for a key; one that cannot be had disturbs none."""
    bad = BODY | {"fine_tune": {"dataset": "ds-" + "0" * 32}}
    batch = {"requests": [BODY, {"budget": {"depth": 2}}, bad, BODY]}
    headers = {"Idempotency-Key": "batch"}
    first, again = (empty_api.post("/models/batch", json=batch, headers=headers).json()["data"] for _ in range(2))
    assert [item["status"] for item in first] == [202, 201, 422, 202]
    jobs = [item["model"]["fine_tune"]["id"] for item in (first[0], first[3])]
    assert len(set(jobs)) == 2
    assert [item["model"]["fine_tune"]["id"] for item in (again[0], again[3])] == jobs
    assert first[2]["error"]["errors"][0]["field"] == "fine_tune.dataset"
    assert len(empty_api.get("/fine-tunes").json()["data"]) == 2


@pytest.mark.parametrize(
    ("fine_tune", "named"),
    [
        ({}, "fine_tune.dataset"),
        ({"dataset": "ds-" + "0" * 32}, "fine_tune.dataset"),
        ({"dataset": PETALS.id, "settings": {"epochs": 0}}, "fine_tune.settings.epochs"),
        ({"dataset": PETALS.id, "settings": {"batch_size": 60_000}}, "fine_tune.settings.batch_size"),
        ({"dataset": PETALS.id, "settings": {"head": "keep"}}, "fine_tune.settings.head"),
        ({"dataset": PETALS.id, "settings": {"learning_rate": 1}}, "fine_tune.settings.learning_rate"),
        ({"dataset": PETALS.id, "more": 1}, "fine_tune.more"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.usefixtures("store")
def test_what_is_wrong_is_named_and_nothing_is_recorded(
    empty_api: TestClient, fine_tune: dict[str, Any], named: str, dry_run: bool
) -> None:
    """By its place in the body; neither model nor job is there afterwards, and a dry run says the same."""
    answer = empty_api.post("/models", params={"dry_run": dry_run}, json=BODY | {"fine_tune": fine_tune})
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["errors"]] == [named]
    assert empty_api.get("/models").json()["data"] == []
    assert empty_api.get("/fine-tunes").json()["data"] == []


@pytest.mark.usefixtures("store")
def test_a_dry_run_makes_no_job(empty_api: TestClient) -> None:
    """It says which model would be fine-tuned."""
    answer = empty_api.post("/models", params={"dry_run": True}, json=BODY)
    assert (answer.status_code, answer.json()["fine_tune"], answer.json()["recipe"]["num_classes"]) == (200, None, 3)
    assert empty_api.get("/models").json()["data"] == []
    assert empty_api.get("/fine-tunes").json()["data"] == []
