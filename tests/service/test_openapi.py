"""The OpenAPI document: complete, and true under requests that are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from starlette.testclient import TestClient

from service.api.app import create_app
from service.settings import Settings
from tests.service.server import ServerProcess

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


def test_every_body_has_an_example_that_works(document: dict[str, Any], api: TestClient) -> None:
    """Each example can be posted as it stands."""
    bodies = 0
    for name, operation in operations(document):
        if "requestBody" not in operation:
            continue
        bodies += 1
        media = operation["requestBody"]["content"]["application/json"]
        schema = document["components"]["schemas"][media["schema"]["$ref"].rsplit("/", 1)[1]]
        example = media.get("example") or schema.get("example") or (schema.get("examples") or [None])[0]
        assert example, f"{name} has no example"
        answer = api.post(name.split()[1], params={"dry_run": True}, json=example)
        assert answer.status_code == 200, answer.text
    assert bodies >= 2


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
def real_ids(http: httpx.Client) -> dict[str, str]:
    """Path parameters that name something."""
    model = http.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}}).json()
    return {
        "model_id": model["id"],
        "learngene_id": "tiny-tleg",
        "namespace": "tleg",
        "name": model["id"],
        "revision": "main",
        "file": "model.safetensors",
    }


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
