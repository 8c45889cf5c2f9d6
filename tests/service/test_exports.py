"""Models as ONNX and as `torch.export` programs: queued once, kept, sent as any file. The test plays the worker."""

from __future__ import annotations

import asyncio
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from starlette.testclient import TestClient

from service.domain.export import ExportFormat
from service.domain.job import ExportSpec
from service.storage import keys
from service.storage.job_store import JobStore
from service.storage.object_store import CHUNK_BYTES, ObjectStore
from tests.service import tiny
from tests.service.exporter import fail, make_file
from tests.service.fine_tuned import Workshop
from tests.service.jobs import Store, run
from tests.service.test_bad_requests import assert_problem

CONTENT = random.Random(0).randbytes(2 * CHUNK_BYTES + 12_345)
FORMATS = [("onnx", ".onnx"), ("torch-export", ".pt2")]


@pytest.fixture
def url(redis_url: str) -> str:
    """Where the jobs of `empty_api` are."""
    return f"{redis_url}?db=1"


@pytest.fixture
def objects(data_dir: Path) -> ObjectStore:
    """The application's object store."""
    return ObjectStore((data_dir / "objects").as_uri())


@pytest.fixture
def model(empty_api: TestClient) -> str:
    """The id of a descendant."""
    return created(empty_api)


def created(api: TestClient, **changes: Any) -> str:
    """Return the id of a new model."""
    model_id: str = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 2}} | changes).json()["id"]
    return model_id


def path_of(model: str, file_format: str = "onnx") -> str:
    """Return where an export is to be had."""
    return f"/models/{model}/weights?format={file_format}"


@pytest.mark.parametrize(("file_format", "suffix"), FORMATS)
def test_a_first_request_queues_a_job_and_a_later_one_gets_the_file(
    *, empty_api: TestClient, model: str, url: str, objects: ObjectStore, file_format: str, suffix: str
) -> None:
    """202 with the job as often as it is asked, then 200 with length, tag and name; its resource says what was made."""
    path = path_of(model, file_format)
    first, second = empty_api.get(path), empty_api.get(path)
    assert (first.status_code, second.json()) == (202, first.json())
    job = first.json()
    assert (job["object"], job["status"], job["model"], job["format"]) == ("export", "queued", model, file_format)
    assert first.headers["Location"] == job["links"]["self"] == f"/exports/{job['id']}"
    assert int(first.headers["Retry-After"]) >= 1
    assert job["links"]["weights"] == path
    head = empty_api.head(path)
    assert (head.status_code, head.content, head.headers["Location"]) == (202, b"", first.headers["Location"])
    make_file(url, objects, job["id"], CONTENT)
    answer = empty_api.get(path)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert answer.headers["ETag"] == f'"{sha256}"'
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{model}{suffix}"'
    assert "immutable" not in answer.headers["Cache-Control"]
    done = empty_api.get(job["links"]["self"]).json()
    assert (done["status"], done["progress"]) == ("succeeded", {"fraction": 1.0, "step": 3, "steps": 3})
    assert done["result"] == {"size_bytes": len(CONTENT), "sha256": sha256, "deviation": 1e-6}
    assert empty_api.post(f"/models/{model}/exports", json={"format": file_format}).json() == done


def test_it_is_sent_like_any_file(empty_api: TestClient, model: str, url: str, objects: ObjectStore) -> None:
    """HEAD, ranges across chunks, If-None-Match, If-Range, 412 and 416."""
    path = path_of(model)
    make_file(url, objects, empty_api.get(path).json()["id"], CONTENT)
    get, head = empty_api.get(path), empty_api.head(path)
    assert (head.status_code, head.content, head.headers) == (200, b"", get.headers)
    rng = random.Random(1)
    for _ in range(20):
        first = rng.randrange(len(CONTENT))
        last = first + rng.choice([0, 7, CHUNK_BYTES])
        part = empty_api.get(path, headers={"Range": f"bytes={first}-{last}"})
        assert (part.status_code, part.content) == (206, CONTENT[first : last + 1])
    tag = get.headers["ETag"]
    assert empty_api.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert empty_api.get(path, headers={"Range": "bytes=3-", "If-Range": '"other"'}).content == CONTENT
    assert_problem(empty_api.get(path, headers={"If-Match": '"other"'}), 412)
    assert_problem(empty_api.get(path, headers={"Range": f"bytes={len(CONTENT)}-"}), 416)


def test_safetensors_are_what_is_sent_unless_asked_otherwise(empty_api: TestClient, model: str, url: str) -> None:
    """The same answer with and without the parameter, and no job."""
    plain = empty_api.get(f"/models/{model}/weights")
    named = empty_api.get(path_of(model, "safetensors"))
    assert (plain.content, plain.headers["ETag"]) == (named.content, named.headers["ETag"])
    assert empty_api.get("/exports").json()["data"] == []
    with redis.Redis.from_url(url) as client:
        assert not client.exists(keys.EXPORTS)


def test_however_many_ask_at_once_there_is_one_job(empty_api: TestClient, model: str) -> None:
    """By GET and by POST; another format, and another model, has its own."""

    def ask(number: int) -> str:
        if number % 2:
            job_id: str = empty_api.get(path_of(model)).json()["id"]
        else:
            job_id = empty_api.post(f"/models/{model}/exports", json={"format": "onnx"}).json()["id"]
        return job_id

    with ThreadPoolExecutor(8) as pool:
        (job_id,) = set(pool.map(ask, range(40)))
    others = {
        empty_api.get(path_of(model, "torch-export")).json()["id"],
        empty_api.get(path_of(created(empty_api, dtype="float16"))).json()["id"],
    }
    assert len(others | {job_id}) == 3
    assert {job["id"] for job in empty_api.get("/exports").json()["data"]} == others | {job_id}
    assert {job["id"] for job in empty_api.get("/exports", params={"model": model, "limit": 1}).json()["data"]} < others


def test_two_processes_that_create_at_once_make_one_job(empty_api: TestClient, model: str, url: str) -> None:
    """The store decides, not the API: neither a first job nor the one after it is made twice."""
    assert empty_api.get("/livez").is_success
    spec = ExportSpec(model=model, format=ExportFormat.ONNX)

    async def use(_: object) -> None:
        async with Redis.from_url(url, decode_responses=True) as one, Redis.from_url(url, decode_responses=True) as two:
            stores = [JobStore(client, heartbeat_s=60, max_deaths=3) for client in (one, two)]
            made = await asyncio.gather(*(store.create(spec) for store in stores * 5))
            assert len({job.id for job, _ in made}) == sum(new for _, new in made) == 1
            before = made[0][0].id
            again = await asyncio.gather(*(store.create(spec, instead_of=before) for store in stores * 5))
            assert len({job.id for job, _ in again}) == sum(new for _, new in again) == 1
            assert again[0][0].id != before

    run(url, use)


def test_a_worker_that_dies_leaves_the_one_job(empty_api: TestClient, model: str, url: str, objects: ObjectStore) -> None:
    """Queued again, and the next attempt's file is what everybody gets."""
    path = path_of(model)
    job_id = empty_api.get(path).json()["id"]

    async def die(store: Store) -> None:
        await store.died(await store.claimed(job=await store.get(job_id)), "signal 9")

    run(url, die)
    again = empty_api.get(path)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (202, job_id, "queued")
    make_file(url, objects, job_id, CONTENT)
    assert empty_api.get(path).content == CONTENT
    assert empty_api.get(f"/exports/{job_id}").json()["attempt"] == 2
    assert len(empty_api.get("/exports").json()["data"]) == 1


def test_a_failed_export_says_why_until_it_is_tried_again(empty_api: TestClient, model: str, url: str) -> None:
    """409 with the job and the reason for each that asks; POST queues another, which GET then names."""
    path = path_of(model)
    job_id = empty_api.get(path).json()["id"]
    fail(url, job_id, "export_deviates", "its logits deviate by 0.5 from the network's")
    for _ in range(2):
        problem = assert_problem(empty_api.get(path), 409)
        assert (problem["code"], problem["jobs"]) == ("export_failed", [job_id])
        for part in ("its logits deviate by 0.5", "export_deviates", f"POST /models/{model}/exports"):
            assert part in str(problem["detail"])
    assert empty_api.head(path).status_code == 409
    again = empty_api.post(f"/models/{model}/exports", json={"format": "onnx"})
    assert again.status_code == 202
    assert again.headers["Location"] == f"/exports/{again.json()['id']}" != f"/exports/{job_id}"
    assert empty_api.get(path).json()["id"] == again.json()["id"]
    assert empty_api.get(f"/exports/{job_id}").json()["error"]["code"] == "export_deviates"


def test_a_cancelled_export_is_no_dead_end(empty_api: TestClient, model: str) -> None:
    """As one that failed."""
    job = empty_api.get(path_of(model)).json()
    assert empty_api.post(job["links"]["cancel"]).json()["status"] == "cancelled"
    problem = assert_problem(empty_api.get(path_of(model)), 409)
    assert "was cancelled" in str(problem["detail"])
    assert empty_api.post(f"/models/{model}/exports", json={"format": "onnx"}).json()["status"] == "queued"


@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_is_gone_or_cut_is_made_again(
    empty_api: TestClient, model: str, url: str, objects: ObjectStore, cut: bool
) -> None:
    """Whoever needs the room may delete exports: the next request queues another job, one for all."""
    path = path_of(model)
    first = empty_api.get(path).json()["id"]
    file = make_file(url, objects, first, CONTENT)
    if cut:
        file.write_bytes(CONTENT[:-1])
    else:
        file.unlink()
    second = {empty_api.get(path).json()["id"] for _ in range(3)}
    assert len(second) == 1
    assert second != {first}
    make_file(url, objects, second.pop(), CONTENT)
    assert empty_api.get(path).content == CONTENT


def test_a_fine_tuned_model_is_exported_too(
    *, empty_api: TestClient, model: str, url: str, objects: ObjectStore, learngene_files: list[Path], tmp_path: Path
) -> None:
    """And where its own weights are gone, no job that could only fail is queued."""
    workshop = Workshop(redis_url=url, objects=objects, learngenes=learngene_files, folder=tmp_path)
    tuned = workshop.publish(model)
    job = empty_api.get(path_of(tuned.id)).json()
    make_file(url, objects, job["id"], CONTENT)
    workshop.file(tuned).unlink()
    assert empty_api.get(path_of(tuned.id)).content == CONTENT
    assert assert_problem(empty_api.get(path_of(tuned.id, "torch-export")), 503)["code"] == "weights_missing"
    assert len(empty_api.get("/exports").json()["data"]) == 1


def test_an_export_of_a_learngene_that_was_deleted(empty_api: TestClient, url: str, objects: ObjectStore) -> None:
    """A file that was made stays. Of others the answer says what is missing, and to try again once that is there."""
    content = bytes(tiny.learngene("fleeting").content)
    assert empty_api.post("/learngenes", content=content).status_code == 201
    model = created(empty_api, learngene="fleeting")
    made = empty_api.get(path_of(model)).json()["id"]
    make_file(url, objects, made, CONTENT)
    failed = empty_api.get(path_of(model, "torch-export")).json()["id"]
    assert empty_api.delete("/learngenes/fleeting").status_code == 204
    fail(url, failed, "learngene_not_loaded", "the learngene is not here")
    assert empty_api.get(path_of(model)).content == CONTENT
    missing = [
        empty_api.get(path_of(model, "torch-export")),
        empty_api.post(f"/models/{model}/exports", json={"format": "torch-export"}),
    ]
    for answer in missing:
        problem = assert_problem(answer, 503)
        assert problem["code"] == "learngene_not_loaded"
        assert "publish that learngene again" in str(problem["detail"])
    assert empty_api.post("/learngenes", content=content).status_code == 201
    problem = assert_problem(empty_api.get(path_of(model, "torch-export")), 409)
    assert "tries again" in str(problem["detail"])
    again = empty_api.post(f"/models/{model}/exports", json={"format": "torch-export"})
    assert (again.status_code, again.json()["status"]) == (202, "queued")
    assert again.json()["id"] != failed
    assert empty_api.delete("/learngenes/fleeting").status_code == 204


def test_what_does_not_exist_is_not_exported(empty_api: TestClient, model: str) -> None:
    """No such model, format or job; an export is no fine-tune."""
    nobody = "m-" + "0" * 32
    assert_problem(empty_api.get(path_of(nobody)), 404)
    assert_problem(empty_api.post(f"/models/{nobody}/exports", json={"format": "onnx"}), 404)
    for wrong in ("pickle", "", "ONNX"):
        problem: Any = assert_problem(empty_api.get(path_of(model, wrong)), 422)
        assert [error["field"] for error in problem["errors"]] == ["format"]
    for body in ({}, {"format": "safetensors"}, {"format": "onnx", "opset": 3}):
        assert_problem(empty_api.post(f"/models/{model}/exports", json=body), 422)
    job = empty_api.get(path_of(model)).json()
    assert_problem(empty_api.get(f"/fine-tunes/{job['id']}"), 404)
    problem = assert_problem(empty_api.get("/exports/ex-" + "0" * 32), 404)
    assert "GET /exports" in str(problem["detail"])
    assert_problem(empty_api.get(f"/exports/{job['id'].replace('ex-', 'ft-')}"), 404)
    assert empty_api.get("/fine-tunes").json()["data"] == []
    assert [event["facts"] for event in empty_api.get(job["links"]["events"]).json()["data"]] == [
        {"status": "queued", "attempt": 0}
    ]
