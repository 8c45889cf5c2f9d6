"""`/fine-tunes`: what is accepted is durable, what is wrong is named, and a job obeys its owner."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from service.api.schemas.fine_tunes import FineTuneSettingsBody
from service.domain.dataset import Dataset
from service.domain.job import JobCheckpoint, JobError, JobStatus, Progress
from service.storage import keys
from service.storage.embedded_redis import EmbeddedRedis
from service.storage.job_store import Claim
from service.storage.object_store import ObjectStore
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import data_set
from tests.service.jobs import Store, run
from tests.service.tiny import CLASS_NAMES
from tleg_core.fine_tuning import NAMES, FineTuneSettings

PETALS = data_set()
SHAPES = data_set(CLASS_NAMES, name="shapes")
BODY: dict[str, Any] = {"budget": {"depth": 3}, "learngene": "tiny-tleg", "dataset": PETALS.id}


def put(client: Any, dataset: Dataset) -> None:
    """Record a data set."""
    fields = {"record": json.dumps(dataset.to_json()), "created_at": "2026-01-01T00:00:00+00:00"}
    client.hset(keys.dataset(dataset.id), mapping=fields)


@pytest.fixture
def database(empty_api: TestClient, redis_url: str) -> Any:
    """The application's Redis, with two data sets and nothing else."""
    assert empty_api.get("/livez").is_success
    with redis.Redis.from_url(f"{redis_url}?db=1", decode_responses=True) as client:
        for dataset in (PETALS, SHAPES):
            put(client, dataset)
        yield client


@pytest.fixture
def client(empty_api: TestClient, database: Any) -> TestClient:
    """The application, with data sets."""
    assert database.ping()
    return empty_api


@pytest.fixture
def store_url(redis_url: str) -> str:
    """Where the application's jobs are."""
    return f"{redis_url}?db=1"


def created(client: TestClient, **changes: Any) -> dict[str, Any]:
    """Return a new job."""
    answer = client.post("/fine-tunes", json=BODY | changes)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


# Acceptance.


def test_a_job_is_accepted_with_its_place_and_its_settings(client: TestClient) -> None:
    """202, where to look and when; every setting is decided, and what was asked for stands beside it."""
    settings = {"epochs": 7, "lr": "auto", "clip_grad": None}
    answer = client.post("/fine-tunes", json=BODY | {"settings": settings})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/fine-tunes/{job['id']}" == job["links"]["self"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert (job["object"], job["status"], job["attempt"]) == ("fine_tune", "queued", 0)
    assert job["requested_settings"] == settings
    assert set(job["settings"]) == set(NAMES)
    assert (job["settings"]["epochs"], job["progress"]["epochs"], job["settings"]["clip_grad"]) == (7, 7, None)
    assert isinstance(job["settings"]["lr"], float)
    FineTuneSettings.from_json(job["settings"])
    assert client.get(answer.headers["Location"]).json() == job
    for name in ("model", "events", "checkpoints"):
        assert client.get(job["links"][name]).is_success


def test_every_setting_can_be_asked_for() -> None:
    """The body has the core's settings and no others, in its order."""
    assert tuple(FineTuneSettingsBody.model_fields) == NAMES


def test_the_model_of_a_budget_is_recorded_with_the_data_sets_classes(client: TestClient) -> None:
    """A head of the same classes by name is kept, any other begins at zero."""
    for dataset, head, start in ((PETALS, "zero", "zero"), (SHAPES, "inherit", "keep")):
        job = created(client, dataset=dataset.id)
        model = client.get(job["links"]["model"]).json()
        assert (model["recipe"]["num_classes"], model["recipe"]["head"]) == (len(dataset.class_names), head)
        assert job["settings"]["head"] == start


def test_as_many_classes_with_other_names_begin_with_a_zero_head(client: TestClient, database: Any) -> None:
    """Ten classes are not the learngene's ten classes, nor are its own in another order."""
    for names in ([f"flower {index}" for index in range(10)], CLASS_NAMES[::-1]):
        other = data_set(names)
        put(database, other)
        job = created(client, dataset=other.id)
        assert client.get(job["links"]["model"]).json()["recipe"]["head"] == "zero"
        assert job["settings"]["head"] == "zero"


def test_a_model_that_is_there_is_fine_tuned_whatever_its_head(client: TestClient) -> None:
    """With as many classes, with others, with none: the head is replaced where it does not fit."""
    for fields, dataset, head in (
        ({}, SHAPES, "keep"),
        ({}, PETALS, "zero"),
        ({"num_classes": 10, "head": "zero"}, SHAPES, "zero"),
        ({"num_classes": 3}, PETALS, "zero"),
        ({"head": "none"}, PETALS, "zero"),
    ):
        model = client.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 2}} | fields).json()
        answer = client.post("/fine-tunes", json={"model": model["id"], "dataset": dataset.id})
        assert (answer.status_code, answer.json()["model"]) == (202, model["id"])
        assert answer.json()["settings"]["head"] == head


def test_a_batch_that_nobody_asked_for_fits_a_small_data_set(client: TestClient, database: Any) -> None:
    """One image of each of two classes is enough."""
    smallest = replace(data_set(("a", "b")), train_counts=(1, 1))
    put(database, smallest)
    assert created(client, dataset=smallest.id)["settings"]["batch_size"] <= 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": None}, "dataset"),
        ({"dataset": "ds-" + "0" * 32}, "dataset"),
        ({"dataset": "../../etc/passwd"}, "dataset"),
        ({"budget": None}, "body"),
        ({"model": "m-" + "0" * 32}, "body"),
        ({"model": "m-" + "0" * 32, "budget": None}, "body"),
        ({"model": "m-" + "0" * 32, "budget": None, "learngene": None}, "model"),
        ({"model": "x\n*", "budget": None, "learngene": None}, "model"),
        ({"learngene": "nobody"}, "learngene"),
        ({"accuracy_on": "nothing"}, "accuracy_on"),
        ({"model": "m-" + "0" * 32, "budget": None, "learngene": None, "accuracy_on": "shapes"}, "body"),
        ({"image_size": 33}, "image_size"),
        ({"more": 1}, "more"),
        ({"settings": {"epochs": 0}}, "settings.epochs"),
        ({"settings": {"epochs": 10_001}}, "settings.epochs"),
        ({"settings": {"epochs": "many"}}, "settings.epochs"),
        ({"settings": {"epochs": None}}, "settings.epochs"),
        ({"settings": {"epochs": True}}, "settings.epochs"),
        ({"settings": {"epochs": 3, "warmup_epochs": 3}}, "settings.warmup_epochs"),
        ({"settings": {"lr": 0}}, "settings.lr"),
        ({"settings": {"augmentation": "strong"}}, "settings.augmentation"),
        ({"settings": {"batch_size": 241}}, "settings.batch_size"),
        ({"settings": {"batch_size": 9, "mixup": 0.2}}, "settings.batch_size"),
        ({"settings": {"batch_size": 9, "nproc": 2}}, "settings.batch_size"),
        ({"settings": {"head": "keep"}}, "settings.head"),
        ({"settings": {"freeze": 4}}, "settings.freeze"),
        ({"settings": {"precision": None}}, "settings.precision"),
        ({"settings": {"learning_rate": 0.1}}, "settings.learning_rate"),
        ({"settings": []}, "settings"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_recorded(client: TestClient, changes: dict[str, Any], named: str) -> None:
    """By its place in the body; neither model nor job is there afterwards."""
    body = {name: value for name, value in (BODY | changes).items() if value is not None}
    answer = client.post("/fine-tunes", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [item["field"] for item in answer.json()["errors"]] == [named]
    assert client.get("/models").json()["data"] == []
    assert client.get("/fine-tunes").json()["data"] == []


def test_a_batch_that_is_too_large_is_told_the_limit(client: TestClient, database: Any) -> None:
    """300 images, a fifth of each class held out: 240; with a test split of its own all 300 are for training."""
    answer = client.post("/fine-tunes", json=BODY | {"settings": {"batch_size": 241}})
    assert "240" in answer.json()["errors"][0]["message"]
    created(client, settings={"batch_size": 240})
    split = replace(data_set(("with", "a", "split")), test_counts=(5, 5, 5))
    put(database, split)
    created(client, dataset=split.id, settings={"batch_size": 300})


@pytest.mark.parametrize("counts", [(0, 0, 0), (9, 0, 0)])
def test_a_data_set_with_nothing_to_tell_apart_is_refused(client: TestClient, database: Any, counts: tuple[int, ...]) -> None:
    """At least two classes must have images."""
    lonely = replace(data_set(("a", "b", "c")), train_counts=counts)
    put(database, lonely)
    answer = client.post("/fine-tunes", json=BODY | {"dataset": lonely.id})
    assert (answer.status_code, [item["field"] for item in answer.json()["errors"]]) == (422, ["dataset"])


def test_a_budget_that_nothing_meets_is_told_what_would(client: TestClient) -> None:
    """As with `POST /models`."""
    answer = client.post("/fine-tunes", json={"budget": {"max_params": 1}, "dataset": PETALS.id})
    assert (answer.status_code, answer.json()["code"]) == (422, "budget_infeasible")


# The Idempotency-Key.


def test_the_same_key_and_request_make_one_job(client: TestClient, database: Any) -> None:
    """However often, from however many, and also when the data set is gone by then."""
    headers = {"Idempotency-Key": "4f1c b/~!"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/fine-tunes", json=BODY, headers=headers), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert len(client.get("/fine-tunes").json()["data"]) == 1
    database.delete(keys.dataset(PETALS.id))
    assert client.post("/fine-tunes", json=BODY, headers=headers).json()["id"] == answers[0].json()["id"]


def test_a_key_with_another_request_is_refused(client: TestClient) -> None:
    """Another field, or the same body at another route; one with other spaces is the same request."""
    headers = {"Idempotency-Key": "k"}
    first = client.post("/fine-tunes", json=BODY, headers=headers).json()
    spaced = client.post(
        "/fine-tunes", content=json.dumps(BODY, indent=4), headers=headers | {"Content-Type": "application/json"}
    )
    assert spaced.json()["id"] == first["id"]
    elsewhere = {"budget": {"depth": 3}, "fine_tune": {"dataset": PETALS.id}}
    for path, body in (("/fine-tunes", BODY | {"settings": {"epochs": 2}}), ("/models", elsewhere)):
        answer = client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert len(client.get("/fine-tunes").json()["data"]) == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "ü"])
def test_a_key_that_is_none_is_named(client: TestClient, key: str) -> None:
    """Empty, too long, not printable."""
    answer = client.post("/fine-tunes", json=BODY, headers={"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert created(client)


# The job, as it goes.


def test_a_job_shows_how_far_it_is_and_what_came_of_it(client: TestClient, store_url: str) -> None:
    """From the queue over training to the model."""
    job = created(client, settings={"epochs": 4})
    links = job["links"]
    finish = datetime.now(UTC) + timedelta(minutes=5)
    progress = Progress(
        epoch=1, step=25, steps=100, images_per_s=50.5, metrics={"loss": 1.5, "top1": 0.5}, estimated_finish=finish
    )

    async def train(store: Store) -> Claim:
        claim = await store.claim(job["id"], "w1")
        assert claim is not None
        await store.started(claim, job["settings"] | {"precision": "float32"}, progress)
        at = datetime.now(UTC)
        await store.add_checkpoint(
            claim, JobCheckpoint(model=job["model"], epoch=1, step=25, metrics={"top1": 0.5}, created_at=at)
        )
        return claim

    claim = run(store_url, train)
    running = client.get(links["self"]).json()
    assert (running["status"], running["attempt"], running["settings"]["precision"]) == ("running", 1, "float32")
    assert running["progress"] == {"fraction": 0.25, "epoch": 1, "epochs": 4, "step": 25, "steps": 100}
    assert (running["images_per_s"], running["metrics"]) == (50.5, {"loss": 1.5, "top1": 0.5})
    assert datetime.fromisoformat(running["estimated_finish_at"]) == finish
    assert running["started_at"] >= running["created_at"]
    (kept,) = client.get(links["checkpoints"]).json()["data"]
    assert (kept["epoch"], kept["step"], kept["metrics"], kept["model"]) == (1, 25, {"top1": 0.5}, job["model"])
    assert client.get(kept["links"]["self"]).is_success

    run(store_url, lambda store: store.succeed(claim, job["model"], progress))
    done = client.get(links["self"]).json()
    assert (done["status"], done["progress"]["fraction"], done["error"]) == ("succeeded", 1.0, None)
    assert done["result"]["model"] == job["model"]
    assert done["result"]["links"]["weights"] == f"/models/{job['model']}/weights"
    assert (done["images_per_s"], done["estimated_finish_at"]) == (None, None)
    assert done["finished_at"] >= done["started_at"]


def test_a_failed_job_says_why(client: TestClient, store_url: str) -> None:
    """A code for programs, a message for people."""
    job = created(client)

    async def fail(store: Store) -> None:
        claim = await store.claim(job["id"], "w1")
        assert claim is not None
        await store.fail(claim, JobError(code="out_of_memory", message="a batch of 1 does not fit"))

    run(store_url, fail)
    failed = client.get(job["links"]["self"]).json()
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert failed["error"] == {"code": "out_of_memory", "message": "a batch of 1 does not fit"}


def test_a_waiting_job_is_paused_resumed_and_cancelled(client: TestClient) -> None:
    """Asked twice it is no error; an order that comes too late is a conflict."""
    links = created(client)["links"]
    for order, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        for _ in range(2):
            answer = client.post(links[order])
            assert (answer.status_code, answer.json()["status"]) == (200, status)
    for order in ("pause", "resume"):
        answer = client.post(links[order])
        assert (answer.status_code, answer.json()["code"]) == (409, "job_state")
    assert client.get(links["self"]).json()["finished_at"] is not None


def test_a_running_job_is_asked_to_pause_or_to_end(client: TestClient, store_url: str) -> None:
    """It says so until its worker has let go."""
    job = created(client)
    run(store_url, lambda store: store.claim(job["id"], "w1"))
    assert client.post(job["links"]["pause"]).json()["pause_requested"]
    assert not client.post(job["links"]["resume"]).json()["pause_requested"]
    assert client.post(job["links"]["cancel"]).json()["status"] == "cancelling"
    assert client.post(job["links"]["cancel"]).json()["status"] == "cancelling"
    assert client.post(job["links"]["pause"]).status_code == 409


def test_the_state_of_a_job_that_is_cancelled_while_it_waits_is_deleted(
    open_api: ApiFactory, redis_url: str, tmp_path: Path
) -> None:
    """Nobody will go on from it; a running one's is its worker's to delete."""
    folder = tmp_path / "objects"
    objects = ObjectStore(folder.as_uri())
    source = tmp_path / "state"
    source.write_bytes(b"state")
    url = f"{redis_url}?db=1"
    with redis.Redis.from_url(url) as database:
        database.flushdb()
        put(database, PETALS)
    with open_api(url, store_url=folder.as_uri()) as client:
        job = created(client)
        key, unreported = (f"jobs/{job['id']}/1-{step}.safetensors" for step in (1, 2))
        objects.put_file(key, source)
        objects.put_file(unreported, source)

        async def drain(store: Store) -> None:
            claim = await store.claim(job["id"], "w1")
            assert claim is not None
            await store.save_state(claim, key, 1)
            await store.release(claim, JobStatus.QUEUED)

        run(url, drain)
        assert objects.exists(key)
        assert client.post(job["links"]["cancel"]).json()["status"] == "cancelled"
        assert not objects.exists(key)
        assert not objects.exists(unreported)


def test_lists_are_filtered_and_come_in_pages(client: TestClient) -> None:
    """Newest first."""
    jobs = [created(client, dataset=(PETALS, SHAPES)[index % 2].id)["id"] for index in range(5)]
    client.post(f"/fine-tunes/{jobs[0]}/cancel")

    def listed(**params: Any) -> list[str]:
        return [job["id"] for job in client.get("/fine-tunes", params=params).json()["data"]]

    assert listed() == jobs[::-1]
    assert listed(status="cancelled") == [jobs[0]]
    assert listed(status="queued", dataset=PETALS.id) == [jobs[4], jobs[2]]
    assert listed(model=client.get(f"/fine-tunes/{jobs[1]}").json()["model"]) == [jobs[3], jobs[1]]
    page = client.get("/fine-tunes", params={"limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (jobs[:2:-1], True)
    assert listed(limit=2, after=jobs[3]) == [jobs[2], jobs[1]]
    unknown = client.get("/fine-tunes", params={"after": "nobody"}).json()
    assert (unknown["code"], [error["field"] for error in unknown["errors"]]) == ("cursor_unknown", ["after"])
    assert client.get("/fine-tunes", params={"status": "done"}).status_code == 422


@pytest.mark.parametrize("job_id", ["ft-" + "0" * 32, "nobody", "..%2f..", "*", "ft-" + "0" * 32 + ":events"])
def test_a_job_that_is_not_there_is_a_404(client: TestClient, job_id: str) -> None:
    """On every route."""
    for path in ("", "/events", "/checkpoints"):
        assert client.get(f"/fine-tunes/{job_id}{path}").status_code == 404
    for order in ("cancel", "pause", "resume"):
        assert client.post(f"/fine-tunes/{job_id}/{order}").status_code == 404


def test_without_redis_everything_is_a_503_that_says_when_to_come_back(open_api: ApiFactory, tmp_path: Path) -> None:
    """A request is never half accepted: tried again later it makes its one job."""
    with EmbeddedRedis(tmp_path) as embedded:
        with redis.Redis.from_url(embedded.url) as database:
            put(database, PETALS)
        with open_api(embedded.url) as client:
            headers = {"Idempotency-Key": "k"}
            job = client.post("/fine-tunes", json=BODY, headers=headers).json()
            with redis.Redis.from_url(embedded.url) as database:
                database.config_set("maxmemory", "1")
                answer = client.post("/fine-tunes", json=BODY)
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                assert int(answer.headers["Retry-After"]) >= 1
                assert client.get(job["links"]["self"]).json() == job
                database.config_set("maxmemory", "0")
            assert client.post("/fine-tunes", json=BODY, headers=headers).json() == job
            assert len(client.get("/fine-tunes").json()["data"]) == 1
            embedded.__exit__(None, None, None)
            for method, path in (
                ("POST", "/fine-tunes"),
                ("GET", "/fine-tunes"),
                ("GET", job["links"]["self"]),
                ("GET", job["links"]["events"]),
                ("GET", job["links"]["checkpoints"]),
                ("POST", job["links"]["cancel"]),
            ):
                answer = client.request(method, path, json=BODY if path == "/fine-tunes" and method == "POST" else None)
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                assert "Retry-After" in answer.headers
