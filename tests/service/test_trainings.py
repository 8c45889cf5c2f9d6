"""`/learngenes/trainings`: what is accepted can be trained, what cannot is named at once, and a training is no fine-tune."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from service.domain.dataset import Dataset
from service.domain.job import JobError, Progress
from service.storage import keys
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import data_set
from tests.service.jobs import Store, run
from tests.service.tiny import CLASS_NAMES
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.training_recipe import read_recipe, recipe_names

PATH = "/learngenes/trainings"
PETALS = data_set()
SHAPES = data_set(CLASS_NAMES, name="shapes")
BODY: dict[str, Any] = {"name": "petals", "dataset": PETALS.id}
SMALL = {"network": {"embed_dim": 16, "num_heads": 2, "img_size": 8, "patch_size": 4}}


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
    answer = client.post(PATH, json=BODY | changes)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def teacher_of(client: TestClient) -> str:
    """Return the id of a model with the classes of the shapes."""
    model_id: str = client.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}}).json()["id"]
    return model_id


# Acceptance.


def test_a_name_and_a_data_set_are_enough(client: TestClient) -> None:
    """202, where to look and when; the whole configuration is there, made for the data set, and labels alone teach."""
    answer = client.post(PATH, json=BODY)
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{PATH}/{job['id']}" == job["links"]["self"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert job["id"].startswith("lt-")
    assert (job["object"], job["status"], job["name"], job["teacher"]) == ("training", "queued", "petals", None)
    assert job["licence"] == ""  # what nobody said is not asserted
    config = job["config"]
    assert config["training"].pop("precision") == "auto"
    assert LearngeneConfig.from_json(config).to_json()["network"] == config["network"]
    assert (config["network"]["img_size"], config["network"]["patch_size"]) == (32, 4)
    assert (config["distillation"]["alpha"], config["depths"]["rule"]) == (0.0, "sandwich")
    assert config["training"]["epochs"] == job["progress"]["epochs"] > 10
    assert 2 <= config["training"]["batch_size"] <= 240
    assert client.get(job["links"]["self"]).json() == client.get(f"{PATH}/{job['id']}").json()
    for name in ("events", "dataset"):
        assert client.get(job["links"][name]).is_success


def test_what_is_asked_for_is_what_is_used(client: TestClient) -> None:
    """By the names of a recipe's file; what must follow from a change follows unless it is said."""
    config = SMALL | {"training": {"epochs": 3, "precision": "bfloat16"}, "depths": {"train": 3}}
    job = created(client, config=config, licence="MIT", holdout=0.5, replace=True)
    for section, values in config.items():
        assert values.items() <= job["config"][section].items()
    assert (job["config"]["training"]["warmup_epochs"], job["config"]["depths"]["train_min"]) == (0, 1)
    assert (job["licence"], job["holdout"], job["replace"]) == ("MIT", 0.5, True)
    assert job["requested"] == {"config": config, "holdout": 0.5}


def test_another_size_of_image_brings_its_own_patches(client: TestClient) -> None:
    """Those, and the shift, that a data set of such images would have had."""
    config = created(client, config={"network": {"img_size": 96}})["config"]
    assert (config["network"]["patch_size"], config["augmentation"]["shift"]) == (16, 6)


def test_a_recipe_is_followed_where_nothing_is_said(client: TestClient) -> None:
    """Every recipe that comes with tleg can be named; without a teacher it learns from labels, or says that it cannot."""
    for number, name in enumerate(recipe_names()):
        recipe = read_recipe(name)
        small = {"training": {"batch_size": 8}} | ({"joint": {"batch_size": 8}} if isinstance(recipe, PoolConfig) else {})
        answer = client.post(PATH, json=BODY | {"name": f"recipe-{number}", "recipe": name, "config": small})
        if isinstance(recipe, InheritanceConfig) or (isinstance(recipe, PoolConfig) and recipe.anchor_training.rule != "alone"):
            assert [item["field"] for item in answer.json()["errors"]] == ["teacher"], (name, answer.text)
            continue
        assert answer.status_code == 202, (name, answer.text)
        config = answer.json()["config"]
        parts = ("anchor_training", "joint") if isinstance(recipe, PoolConfig) else ("distillation",)
        assert {config[part]["alpha"] for part in parts} == {0.0}
        assert config["training"]["precision"] != "auto"


def test_a_teacher_is_distilled_by_default(client: TestClient) -> None:
    """It has the data set's classes in the same order; the resource links to it, and the list can be asked for it."""
    teacher = teacher_of(client)
    job = created(client, dataset=SHAPES.id, teacher=teacher)
    assert (job["teacher"], job["config"]["distillation"]["alpha"]) == (teacher, 1.0)
    assert client.get(job["links"]["teacher"]).json()["id"] == teacher
    created(client, name="other")
    assert [item["id"] for item in client.get(PATH, params={"teacher": teacher}).json()["data"]] == [job["id"]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": None}, "name"),
        ({"name": "With Spaces"}, "name"),
        ({"name": "../etc"}, "name"),
        ({"name": "trainings"}, "name"),
        ({"name": "a--b"}, "name"),
        ({"dataset": None}, "dataset"),
        ({"dataset": "ds-" + "0" * 32}, "dataset"),
        ({"recipe": "nobody"}, "recipe"),
        ({"recipe": "/etc/passwd"}, "recipe"),
        ({"recipe": "../recipes/x"}, "recipe"),
        ({"teacher": "m-" + "0" * 32}, "teacher"),
        ({"licence": "x" * 201}, "licence"),
        ({"licence": "a\u0007b"}, "licence"),
        ({"holdout": 0}, "holdout"),
        ({"nproc": 65}, "nproc"),
        ({"more": 1}, "more"),
        ({"config": []}, "config"),
        ({"config": {"training": 3}}, "config.training"),
        ({"config": {"optimiser": {}}}, "config.optimiser"),
        ({"config": {"training": {"epochs": 0}}}, "config.training.epochs"),
        ({"config": {"training": {"epochs": 10_001}}}, "config.training.epochs"),
        ({"config": {"training": {"epochs": "many"}}}, "config.training.epochs"),
        ({"config": {"training": {"epochs": True}}}, "config.training.epochs"),
        ({"config": {"training": {"learning_rate": 1}}}, "config.training.learning_rate"),
        ({"config": {"training": {"batch_size": 241}}}, "config.training.batch_size"),
        ({"config": {"training": {"batch_size": 9}}, "nproc": 2}, "config.training.batch_size"),
        ({"config": {"training": {"precision": "auto"}}}, "config.training.precision"),
        ({"config": {"network": {"img_size": 33}}}, "config.network.img_size"),
        ({"config": {"network": {"size": "gigantic"}}}, "config.network.size"),
        ({"config": {"depths": {"train": 0}}}, "config.depths.train_min"),
        ({"config": {"schedule": {"method": "magic"}}}, "config.schedule.method"),
        ({"config": {"distillation": {"alpha": 0.5}}}, "config.distillation.alpha"),
        ({"config": {"augmentation": {"rand_augment": "rand-m9"}}}, "config.augmentation.rand_augment"),
        ({"config": {"augmentation": {"repeats": 10**400}}}, "config"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_queued(client: TestClient, changes: dict[str, Any], named: str) -> None:
    """By its place in the body."""
    body = {name: value for name, value in (BODY | changes).items() if value is not None}
    answer = client.post(PATH, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert [item["field"] for item in answer.json()["errors"]] == [named]
    assert client.get(PATH).json()["data"] == []


def test_a_teacher_of_other_classes_or_without_use_is_refused(client: TestClient) -> None:
    """The classes must be the same, in the same order, and something must be learned from it."""
    teacher = teacher_of(client)
    alpha = {"config": {"distillation": {"alpha": 0.0}}, "dataset": SHAPES.id}
    for changes, named in (({}, "teacher"), (alpha, "config.distillation.alpha")):
        answer = client.post(PATH, json=BODY | {"teacher": teacher} | changes)
        assert (answer.status_code, [item["field"] for item in answer.json()["errors"]]) == (422, [named])


def test_a_learngene_that_could_not_be_published_is_not_trained(open_api: ApiFactory, store_url: str, database: Any) -> None:
    """It would be too large for the server; that is said before it takes hours."""
    assert database.ping()
    with open_api(store_url, max_learngene_bytes=100_000) as client:
        assert client.post(PATH, json=BODY | {"config": SMALL}).status_code == 202
        answer = client.post(PATH, json=BODY | {"name": "large"})
        assert (answer.status_code, [item["field"] for item in answer.json()["errors"]]) == (422, ["config.network"])


# Names.


def test_a_name_that_is_taken_is_refused_before_anything_is_queued(client: TestClient) -> None:
    """By one of the server's own learngenes, whether it may be replaced or not."""
    for more in ({}, {"replace": True}):
        answer = client.post(PATH, json=BODY | {"name": "tiny-tleg"} | more)
        assert (answer.status_code, answer.json()["code"]) == (409, "learngene_taken")
    assert client.get(PATH).json()["data"] == []


def test_of_many_trainings_of_one_name_one_is_queued(client: TestClient) -> None:
    """The others are told which; when it has ended the name is free again."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(PATH, json=BODY), range(8)))
    (accepted,) = [answer.json() for answer in answers if answer.status_code == 202]
    for answer in answers:
        if answer.status_code != 202:
            assert (answer.status_code, answer.json()["code"]) == (409, "learngene_in_training")
            assert answer.json()["jobs"] == [accepted["id"]]
    assert client.post(accepted["links"]["cancel"]).json()["status"] == "cancelled"
    assert created(client)["id"] != accepted["id"]


def test_the_same_key_and_request_make_one_training(client: TestClient) -> None:
    """However often; with another request, or at another route, the key is refused."""
    headers = {"Idempotency-Key": "k"}
    first, second = (client.post(PATH, json=BODY, headers=headers).json()["id"] for _ in range(2))
    assert first == second
    other = client.post(PATH, json=BODY | {"name": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


# Two kinds of jobs.


def test_a_training_is_no_fine_tune(client: TestClient) -> None:
    """Each list has its own, and what is asked of a job under the other's path finds none."""
    training = created(client)
    fine_tune = client.post("/fine-tunes", json={"budget": {"depth": 3}, "learngene": "tiny-tleg", "dataset": PETALS.id}).json()
    for path, own, other in ((PATH, training, fine_tune), ("/fine-tunes", fine_tune, training)):
        assert [job["id"] for job in client.get(path).json()["data"]] == [own["id"]]
        assert [job["id"] for job in client.get(path, params={"status": "queued"}).json()["data"]] == [own["id"]]
        assert client.get(path, params={"after": other["id"]}).json()["code"] == "cursor_unknown"
        assert client.get(f"{path}/{other['id']}").json()["code"] == "job_not_found"
        assert client.get(f"{path}/{other['id']}/events").status_code == 404
        for order in ("cancel", "pause", "resume"):
            assert client.post(f"{path}/{other['id']}/{order}").status_code == 404
    assert client.get(f"/fine-tunes/{training['id']}/checkpoints").status_code == 404
    assert client.get(fine_tune["links"]["self"]).json()["status"] == "queued"


def test_pages_of_one_kind_pass_over_the_other(client: TestClient) -> None:
    """However many of the other stand between."""
    fine_tune = {"budget": {"depth": 3}, "learngene": "tiny-tleg", "dataset": PETALS.id}
    ids = []
    for number in range(3):
        ids.append(created(client, name=f"petals-{number}")["id"])
        for _ in range(3):
            assert client.post("/fine-tunes", json=fine_tune).status_code == 202
    found, after = [], None
    while True:
        page = client.get(PATH, params={"limit": 1} | ({"after": after} if after else {})).json()
        found += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = found[-1]
    assert found == ids[::-1]


def test_a_record_without_a_kind_is_a_fine_tune(client: TestClient, database: Any) -> None:
    """As those that were there before trainings; a training's record is one that a server from before refuses."""
    fine_tune = client.post("/fine-tunes", json={"budget": {"depth": 3}, "learngene": "tiny-tleg", "dataset": PETALS.id}).json()
    record = json.loads(database.hget(keys.job(fine_tune["id"]), "record"))
    assert (record["version"], set(record)) == (1, {"version", "model", "dataset", "settings", "requested"})
    record = json.loads(database.hget(keys.job(created(client)["id"]), "record"))
    assert (record["version"], record["kind"]) == (2, "training")


# The job, as it goes.


def test_a_training_shows_how_far_it_is_and_what_came_of_it(client: TestClient, store_url: str) -> None:
    """From the queue over accuracy by depth to the learngene."""
    job = created(client, config={"training": {"epochs": 4}})
    metrics = {"train_loss": 1.0, "top1": 0.5, "top1_depth_8": 0.4, "top1_depth_4": 0.3}
    finish = datetime.now(UTC) + timedelta(minutes=5)
    progress = Progress(epoch=1, step=25, steps=100, images_per_s=50.5, metrics=metrics, estimated_finish=finish)

    async def work(store: Store) -> None:
        claim = await store.claim(job["id"], "w1")
        assert claim is not None
        config = job["config"] | {"training": job["config"]["training"] | {"precision": "bfloat16"}}
        await store.started(claim, {"config": config, "holdout": 0.2, "nproc": 1}, progress)
        running = client.get(job["links"]["self"]).json()
        assert running["progress"] == {"fraction": 0.25, "epoch": 1, "epochs": 4, "step": 25, "steps": 100}
        assert running["accuracy"] == {"4": 0.3, "8": 0.4, "12": 0.5}
        assert running["config"]["training"]["precision"] == "bfloat16"
        assert datetime.fromisoformat(running["estimated_finish_at"]) == finish
        await store.succeed(claim, "d" * 64, progress)

    run(store_url, work)
    done = client.get(job["links"]["self"]).json()
    assert (done["status"], done["progress"]["fraction"]) == ("succeeded", 1.0)
    assert (done["result"]["learngene"], done["result"]["digest"]) == ("petals", "d" * 64)
    assert done["result"]["links"]["weights"] == "/learngenes/petals/weights"
    created(client)


def test_a_training_that_failed_says_why_and_frees_its_name(client: TestClient, store_url: str) -> None:
    """A code for programs, a message for people."""
    job = created(client)

    async def fail(store: Store) -> None:
        claim = await store.claim(job["id"], "w1")
        assert claim is not None
        await store.fail(claim, JobError(code="out_of_memory", message="a batch of 1 does not fit"))

    run(store_url, fail)
    failed = client.get(job["links"]["self"]).json()
    assert (failed["status"], failed["result"], failed["error"]["code"]) == ("failed", None, "out_of_memory")
    created(client)


def test_a_waiting_training_is_paused_resumed_and_cancelled(client: TestClient) -> None:
    """Asked twice it is no error."""
    links = created(client)["links"]
    for order, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        for _ in range(2):
            answer = client.post(links[order])
            assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert client.post(links["pause"]).json()["code"] == "job_state"


def test_a_data_set_in_use_by_a_training_stays(client: TestClient) -> None:
    """409 with the job, until it has ended."""
    job = created(client)
    answer = client.delete(f"/datasets/{PETALS.id}")
    assert (answer.status_code, answer.json()["jobs"]) == (409, [job["id"]])


def test_a_data_set_that_is_gone_meanwhile_leaves_nothing_behind(store_url: str, client: TestClient, database: Any) -> None:
    """No name is held by a job that there is not."""
    smallest = replace(data_set(("a", "b")), train_counts=(1, 1))
    put(database, smallest)
    assert created(client, dataset=smallest.id)["config"]["training"]["batch_size"] <= 2
    assert database.hlen(keys.LEARNGENES_IN_TRAINING) == 1
    assert store_url
    database.delete(keys.dataset(PETALS.id))
    assert client.post(PATH, json=BODY | {"name": "other"}).status_code == 422
    assert database.hlen(keys.LEARNGENES_IN_TRAINING) == 1
