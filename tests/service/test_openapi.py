"""The OpenAPI document: complete, and true under requests that are made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from starlette.testclient import TestClient

from service.api.app import create_app
from service.settings import Settings
from service.storage import keys
from tests.service.fine_tuned import data_set
from tests.service.server import ServerProcess

JOBS = {"POST /fine-tunes", "POST /learngenes/trainings", "POST /models/{model_id}/exports"}
METHODS = {"get", "post", "put", "patch", "delete", "head"}


@pytest.fixture(scope="module")
def document(api: TestClient) -> dict[str, Any]:
    """The document."""
    loaded: dict[str, Any] = api.get("/openapi.json").json()
    return loaded


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every operation with a name."""
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            yield f"{method.upper()} {path}", item[method]


def test_every_operation_and_parameter_is_described(document: dict[str, Any]) -> None:
    """Each operation has a summary, a description and a tag, each parameter a description."""
    missing = []
    for name, operation in operations(document):
        missing += [f"{name}: {key}" for key in ("summary", "description", "tags") if not operation.get(key)]
        missing += [
            f"{name}: parameter {parameter['name']}"
            for parameter in operation.get("parameters", [])
            if not parameter.get("description")
        ]
    assert not missing


def test_every_field_of_every_schema_is_described(document: dict[str, Any]) -> None:
    """No field leaves its meaning or its unit to be guessed."""
    missing = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, about in schema.get("properties", {}).items()
        if not about.get("description")
    ]
    assert not missing


def test_every_body_has_an_example_that_works(document: dict[str, Any], api: TestClient, redis_url: str) -> None:
    """Each example can be posted as it stands, where there is such a data set."""
    bodies = 0
    model = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}}).json()["id"]
    for name, operation in operations(document):
        media = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if media is None:
            continue
        bodies += 1
        schema = document["components"]["schemas"][media["schema"]["$ref"].rsplit("/", 1)[1]]
        example = media.get("example") or schema.get("example") or (schema.get("examples") or [None])[0]
        assert example, f"{name} has no example"
        put_data_set(redis_url, example.get("dataset"))
        path = name.split()[1].format(model_id=model)
        dry = {"dry_run": True} if any(item["name"] == "dry_run" for item in operation["parameters"]) else None
        answer = api.post(path, params=dry, json=example)
        assert answer.status_code == (202 if name in JOBS else 200), answer.text
    assert bodies >= 3


def put_data_set(redis_url: str, dataset_id: str | None) -> None:
    """Record a data set of that id, if there is one."""
    if dataset_id is None:
        return
    record = json.dumps(replace(data_set(), id=dataset_id).to_json())
    with redis.Redis.from_url(redis_url) as client:
        client.hset(keys.dataset(dataset_id), mapping={"record": record, "created_at": "2026-01-01T00:00:00+00:00"})
        client.zadd(keys.DATASETS, {dataset_id: 0})


def test_errors_are_documented_as_problems_only(document: dict[str, Any]) -> None:
    """Every 4xx and 5xx of the document is application/problem+json with the schema of a problem."""
    wrong = [
        f"{name}: {status}: {sorted(answer.get('content', {}))}"
        for name, operation in operations(document)
        for status, answer in operation["responses"].items()
        if status[0] in "45" and set(answer.get("content", {})) != {"application/problem+json"}
    ]
    assert not wrong


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    """Code generators name functions after them."""
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def real_ids(http: httpx.Client, server: ServerProcess) -> dict[str, str]:
    """Path parameters that name something."""
    model = http.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}}).json()
    dataset_id = "ds-0123456789abcdef0123456789abcdef"
    put_data_set(f"unix://{server.data_dir}/redis/redis.sock", dataset_id)
    job = http.post("/fine-tunes", json={"model": model["id"], "dataset": dataset_id}).json()
    return {
        "dataset_id": dataset_id,
        "job_id": job["id"],
        "model_id": model["id"],
        "learngene_id": "tiny-tleg",
        "namespace": "tleg",
        "name": model["id"],
        "revision": "main",
        "file": "model.safetensors",
    }


UPLOADS = ["application/gzip", "application/vnd.apache.parquet", "application/x-tar", "application/zip"]
schemathesis.serializer.alias(UPLOADS, "application/octet-stream")
schema = schemathesis.openapi.from_dict(create_app(Settings(redis_url="redis://not-used", shipped=False)).openapi())

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_requests_made_from_the_document_get_documented_answers(
    case: schemathesis.Case, server: ServerProcess, real_ids: dict[str, str]
) -> None:
    """No 500, no undocumented status, type or shape; with ids that name nothing, and with ids that do."""
    case.call_and_validate(base_url=server.url, checks=CHECKS)
    known = {name: value for name, value in real_ids.items() if name in (case.path_parameters or {})}
    if known:
        case.path_parameters = {**case.path_parameters, **known}
        case.call_and_validate(base_url=server.url, checks=CHECKS)
