"""Bad input: every field is refused by name, with a 4xx problem, whatever stands in it."""

from __future__ import annotations

import itertools

import httpx
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.api.schemas.budget import BudgetBody
from service.api.schemas.fine_tunes import FineTuneBody
from service.api.schemas.models import ModelRequestBody
from tests.service.server import ServerProcess

JSON = {"Content-Type": "application/json"}

# Values as they stand in the JSON text.
NOT_WHOLE = ['"3"', "1.5", "2.0", "true", "[]", "{}", "NaN", "Infinity", "-Infinity", "1e400", "-1", str(2**63), "9" * 4000]
NOT_POSITIVE = [*NOT_WHOLE, "0"]
NOT_TEXT = ["5", "true", "[]", "{}", "1.5", "NaN"]
NOT_A_CHOICE = [*NOT_TEXT, '""', '"nope"', '"\\ud800"', '"\\u0000"', '"' + "x" * 5000 + '"']
NOT_A_LEARNGENE = [*NOT_A_CHOICE, '"TINY-TLEG"', '"../tiny-tleg"', '"tiny-tleg\\n"']
NOT_AN_OBJECT = ["5", '"x"', "[]", "null", "true", "[{}]"]

HOSTILE: dict[str, list[str]] = {
    "budget": NOT_AN_OBJECT,
    "budget.depth": [*NOT_POSITIVE, "1001"],
    "budget.path": ["7", "true", '""', '"0"', '"0.0"', '"0.1-0"', '"0.0-1000"', '"64.0-1"', '"0.0-1_0.2-3"', '["0.0-1"]', "{}"],
    "budget.max_params": NOT_POSITIVE,
    "budget.max_macs": NOT_POSITIVE,
    "budget.max_flops": NOT_POSITIVE,
    "budget.max_weights_bytes": NOT_POSITIVE,
    "budget.max_memory_bytes": NOT_POSITIVE,
    "budget.batch_size": [*NOT_POSITIVE, "null", "1000000000"],
    "learngene": NOT_A_LEARNGENE,
    "method": NOT_A_CHOICE,
    "objective": [*NOT_A_CHOICE, "null"],
    "accuracy_on": [*NOT_A_CHOICE, '"SHAPES"', '"shapes\\n"'],
    "num_classes": [*NOT_WHOLE, "65537"],
    "image_size": [*NOT_POSITIVE, "4097", "4095"],
    "head": NOT_A_CHOICE,
    "seed": [*NOT_WHOLE, "null"],
    "dtype": [*NOT_A_CHOICE, "null", '"int8"'],
    "fine_tune": [value for value in NOT_AN_OBJECT if value != "null"],
}


def body_with(field: str, value: str) -> str:
    """Return a request body, as text, with `value` at `field`."""
    for name in reversed(field.split(".")):
        value = f'{{"{name}": {value}}}'
    return value


def assert_problem(answer: httpx.Response, *statuses: int) -> dict[str, object]:
    """Check that an answer is a problem with one of the statuses, and return it."""
    problem: dict[str, object] = answer.json()
    assert answer.status_code in statuses, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == answer.status_code
    assert {"type", "title", "detail", "code"} <= problem.keys()
    return problem


def hostile_cases() -> list[object]:
    """Return every field with every value that it must refuse."""
    return [pytest.param(field, value, id=f"{field}={value[:20]}") for field, values in HOSTILE.items() for value in values]


def test_every_field_of_the_body_is_attacked() -> None:
    """The table of hostile values misses no field of the request."""
    fields = {*ModelRequestBody.model_fields, *(f"budget.{name}" for name in BudgetBody.model_fields)}
    assert fields == HOSTILE.keys()


@pytest.mark.parametrize(("field", "value"), hostile_cases())
def test_a_bad_value_is_refused_by_name(api: TestClient, field: str, value: str) -> None:
    """The problem names the field as the user wrote it, alone and as part of a batch."""
    body = body_with(field, value)
    problem = assert_problem(api.post("/models", content=body, headers=JSON), 422)
    names = [error["field"] for error in problem["errors"]]  # type: ignore[attr-defined]
    assert names == [field]
    assert field in str(problem["detail"])
    answer = api.post("/models/batch", content=f'{{"requests": [{{}}, {body}]}}', headers=JSON)
    if answer.status_code == 200:  # valid by itself, but not to be had here: the result of that one request
        result = answer.json()["data"][1]
        assert (result["status"], result["error"]["errors"][0]["field"]) == (422, field)
    else:
        problem = assert_problem(answer, 422)
        assert [error["field"] for error in problem["errors"]] == [f"requests.1.{field}"]  # type: ignore[attr-defined]


def test_all_bad_fields_are_named_at_once(api: TestClient) -> None:
    """A user with three mistakes reads of three."""
    answer = api.post("/models", json={"budget": {"depth": 0, "max_params": "many"}, "dtype": "int4"})
    names = [error["field"] for error in assert_problem(answer, 422)["errors"]]  # type: ignore[attr-defined]
    assert names == ["budget.depth", "budget.max_params", "dtype"]


@pytest.mark.parametrize("name", ["max_parms", "", "0", "__proto__", "\\ud800", "\\u0000", "x" * 3000, "dépth"])
@pytest.mark.parametrize("place", ["", "budget"])
def test_an_unknown_field_is_refused_by_name(api: TestClient, place: str, name: str) -> None:
    """A misspelt limit is never silently no limit."""
    body = body_with(place, f'{{"{name}": 1}}') if place else f'{{"{name}": 1}}'
    problem = assert_problem(api.post("/models", content=body.encode(), headers=JSON), 422)
    assert len(problem["errors"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        ("/models", {"budget": {"max_parms": 1}}, "budget.max_parms", "is no field here; did you mean `max_params`?"),
        ("/models", {"zzz": 1}, "zzz", "is no field here"),
        ("/models", {"budget": {"depth": 0}}, "budget.depth", "Input should be greater than or equal to 1, not 0"),
        ("/models", {"dtype": "int4"}, "dtype", "Input should be 'float32', 'float16' or 'bfloat16', not 'int4'"),
        ("/models/batch", {"requests": [{"bugdet": {}}]}, "requests.0.bugdet", "is no field here; did you mean `budget`?"),
        (
            "/fine-tunes",
            {"model": "m-1", "dataset": "ds-1", "settings": {"epoch": 3}},
            "settings.epoch",
            "is no field here; did you mean `epochs`?",
        ),
        (
            "/fine-tunes",
            {"model": "m-1", "dataset": "ds-1", "settings": {"lr": 11.5}},
            "settings.lr",
            "Input should be less than or equal to 10, not 11.5",
        ),
        ("/fine-tunes", {"dataset": "ds-1"}, "body", "give either `model` or `budget`"),
    ],
)
def test_a_bad_value_is_told_in_words(api: TestClient, path: str, body: dict[str, object], field: str, message: str) -> None:
    """What was given, what may be given instead, and no word of the library that checks it."""
    problem = assert_problem(api.post(path, json=body), 422)
    assert problem["errors"] == [{"field": field, "message": message}]


def test_a_bad_query_is_told_in_words(api: TestClient) -> None:
    """As a body's field is."""
    problem = assert_problem(api.get("/fine-tunes", params={"status": "done", "limit": 101}), 422)
    messages = {error["field"]: error["message"] for error in problem["errors"]}  # type: ignore[attr-defined]
    assert messages["status"].endswith("or 'cancelled', not 'done'")
    assert messages["limit"] == "Input should be less than or equal to 100, not 101"


@pytest.mark.parametrize(
    ("method", "path", "field", "message"),
    [
        ("POST", "/models?dryrun=true", "dryrun", "is no parameter here; did you mean `dry_run`?"),
        ("POST", "/models/batch?dry-run=1", "dry-run", "is no parameter here; did you mean `dry_run`?"),
        ("GET", "/models?limt=3", "limt", "is no parameter here; did you mean `limit`?"),
        ("GET", "/models/m-1/weights?fmt=onnx", "fmt", "is no parameter here; did you mean `format`?"),
        ("GET", "/fine-tunes?stat=queued", "stat", "is no parameter here; did you mean `status`?"),
        ("GET", "/learngenes?zzz", "zzz", "is no parameter here"),
        ("GET", "/frontier?limit=3", "limit", "is no parameter here"),
        ("DELETE", "/datasets/ds-1?force=1", "force", "is no parameter here"),
        ("POST", "/models?dry_run=true&dry_run=false", "dry_run", "is given more than once"),
        ("GET", "/models?limit=1&limit=1", "limit", "is given more than once"),
        ("GET", "/models?=1", "query", "has a parameter without a name"),
    ],
)
def test_an_odd_parameter_is_refused_by_name(api: TestClient, method: str, path: str, field: str, message: str) -> None:
    """A misspelt `?dryrun=true` makes nothing."""
    before = api.get("/models").json()["data"]
    problem = assert_problem(api.request(method, path, json={} if method == "POST" else None), 422)
    assert problem["errors"] == [{"field": field, "message": message}]
    assert api.get("/models").json()["data"] == before


def test_every_route_refuses_unknown_parameters(api: TestClient) -> None:
    """But for those that other programs ask in their own ways: the probes, and the Hub's clients."""
    strict = 0
    for path, operations in api.get("/openapi.json").json()["paths"].items():
        if path in ("/livez", "/readyz") or path.startswith(("/api/", "/{namespace}/")):
            continue
        for method in operations:
            answer = api.request(method, path, params={"zzz": "1"})
            assert answer.status_code == 422, (method, path)
            if method != "head":
                assert answer.json()["errors"] == [{"field": "zzz", "message": "is no parameter here"}]
            strict += 1
    assert strict >= 38


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/docs"])
def test_pages_and_probes_take_any_query(api: TestClient, path: str) -> None:
    """Proxies and browsers add what they like."""
    assert api.get(path, params={"utm_source": "paper"}).status_code == 200


def test_many_unknown_parameters_are_answered_shortly(api: TestClient) -> None:
    """However many come, the answer names the first of them."""
    problem = assert_problem(api.get("/models?" + "&".join(f"x{i}=1" for i in range(5000))), 422)
    assert len(problem["errors"]) == 50  # type: ignore[arg-type]


def test_a_client_hears_of_no_library() -> None:
    """A body that is made in Python says what is wrong, and refers nobody to the checker's own pages."""
    for given in ({}, {"model": "m-1", "method": "tleg"}):
        with pytest.raises(ValidationError) as caught:
            FineTuneBody.model_validate({"dataset": "ds-1", **given})
        assert "pydantic.dev" not in str(caught.value)
        assert "Value error" not in str(caught.value)


def test_a_field_that_stands_twice_is_no_way_around_the_checks(api: TestClient) -> None:
    """Of two values the last is taken, as JSON readers do, and it is checked."""
    body = '{"budget": {"depth": 3, "depth": -1}}'
    assert_problem(api.post("/models", content=body, headers=JSON), 422)
    answer = api.post("/models", content='{"budget": {"depth": -1, "depth": 3}, "learngene": "tiny-tleg"}', headers=JSON)
    assert answer.json()["member"]["depth"] == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"\xff\xfe",
        b'{"learngene": "\xff"}',
        b'{"budget": {"max_params": ' + b"9" * 5000 + b"}}",
        b"[" * 100_000,
        b'{"budget":' * 100_000,
        b'{"a": ' * 5_000 + b"1" + b"}" * 5_000,
        b"5",
        b"null",
        b"[]",
        b'"text"',
        b"\x00" * 100,
        b'\xef\xbb\xbf{"budget": {"depth": "x"}}',
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("path", ["/models", "/models/batch"])
def test_a_body_that_is_no_object_is_refused(api: TestClient, path: str, body: bytes) -> None:
    """Whatever is sent, it is a problem of the client's, never a 500."""
    assert_problem(api.post(path, content=body, headers=JSON), 400, 422)


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b/c", "application/"]
)
def test_a_body_that_is_not_declared_as_json_is_refused(api: TestClient, content_type: str | None) -> None:
    """Another content type is a 4xx; a browser's form cannot post here."""
    request = api.build_request("POST", "/models", content=b'{"budget": {"depth": 3}}')
    request.headers.pop("Content-Type", None)
    if content_type is not None:
        request.headers["Content-Type"] = content_type
    assert_problem(api.send(request), 415, 422)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"]
)
def test_json_under_its_other_names_is_accepted(api: TestClient, content_type: str) -> None:
    """Parameters, capitals and `+json` types are JSON too."""
    answer = api.post("/models", content=b'{"budget": {"depth": 3}}', headers={"Content-Type": content_type})
    assert answer.status_code in (200, 201)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        *(
            (path, "limit", value)
            for path, value in itertools.product(
                ("/models", "/learngenes"), ("0", "-1", "101", "x", "", "1.5", "NaN", "9" * 5000, "%00")
            )
        ),
        ("/models", "after", "m" * 129),
        ("/learngenes", "after", "m" * 129),
        ("/frontier", "cost", "depth"),
        ("/frontier", "data_set", "\x00"),
    ],
)
def test_a_bad_query_value_is_refused_by_name(api: TestClient, path: str, name: str, value: str) -> None:
    """Query parameters are checked like the body's fields."""
    problem = assert_problem(api.get(path, params={name: value}), 422)
    assert [error["field"] for error in problem["errors"]] == [name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ["maybe", "2", "[]", ""])
@pytest.mark.parametrize("path", ["/models", "/models/batch"])
def test_a_bad_dry_run_is_refused_by_name(api: TestClient, path: str, value: str) -> None:
    """A value that is neither true nor false is never taken for false, which would record a model."""
    body = {"requests": [{}]} if path.endswith("batch") else {}
    problem = assert_problem(api.post(path, params={"dry_run": value}, json=body), 422)
    assert [error["field"] for error in problem["errors"]] == ["dry_run"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("requests", ["[]", "{}", "5", "null", "[" + "{}," * 100 + "{}]", "[5]", "[null]"])
def test_a_bad_batch_is_refused_by_name(api: TestClient, requests: str) -> None:
    """A batch has 1 to 100 requests, each an object."""
    problem = assert_problem(api.post("/models/batch", content=f'{{"requests": {requests}}}', headers=JSON), 422)
    assert str(problem["errors"][0]["field"]).startswith("requests")  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/models/m-1/nothing", 404, None),
        ("DELETE", "/models", 405, {"GET", "POST"}),
        ("PUT", "/models/batch", 405, {"GET", "POST"}),
        ("PUT", "/learngenes", 405, {"GET", "POST"}),
        ("PATCH", "/frontier", 405, {"GET"}),
        ("POST", "/livez", 405, {"GET", "HEAD"}),
        ("TRACE", "/readyz", 405, {"GET", "HEAD"}),
        ("DELETE", "/models/m-1/weights", 405, {"GET", "HEAD"}),
    ],
)
def test_the_frameworks_own_errors_are_problems(
    api: TestClient, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    """404 and 405 have the one form of all errors, and a 405 names in Allow every method of the path, as RFC 9110 demands."""
    answer = api.request(method, path)
    problem = assert_problem(answer, status)
    assert path in str(problem["detail"])
    if allow is not None:
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allow


@pytest.mark.parametrize("path", ["/models", "/models/batch"])
def test_a_body_above_the_limit_is_refused(api: TestClient, path: str) -> None:
    """1 MiB is the limit; a byte more is a 413, declared or sent in chunks."""
    fits = b'{"budget": ' + b" " * (1024 * 1024 - 14) + b"{}}"
    assert len(fits) == 1024 * 1024
    expected = 422 if path.endswith("batch") else 201
    assert api.post(path, content=fits, headers=JSON).status_code in (expected, 200)
    too_large = fits + b" "
    assert_problem(api.post(path, content=too_large, headers=JSON), 413)
    assert_problem(api.post(path, content=iter([too_large[:1000], too_large[1000:]]), headers=JSON), 413)


def test_a_declared_body_above_the_limit_is_refused_before_it_is_sent(server: ServerProcess) -> None:
    """The server answers to the headers alone, so a client need not send a gigabyte to learn that."""
    request = b"POST /models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999999\r\n\r\n"
    answer = server.exchange(request)
    assert_problem(answer, 413)
    assert answer.headers["Connection"] == "close"


def test_an_endless_chunked_body_is_cut_off(server: ServerProcess) -> None:
    """The server stops reading soon after the limit, and answers 413."""
    head = b"POST /models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        try:
            for _ in range(2000):  # 131 MB, if it were read
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return  # the server has closed the connection: that it took no more is the point
        pytest.fail("the server read a body far above its limit")


@pytest.mark.parametrize(
    "request_line", [b"GET /models?limit=\xff HTTP/1.1", b"GET /%zz HTTP/1.1", b"\x00\x01\x02", b"GET / HTTP/9.9", b"GET"]
)
def test_what_is_no_http_is_a_400_or_a_404(server: ServerProcess, request_line: bytes) -> None:
    """Bytes that are no request do not disturb the server."""
    answer = server.exchange(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.status_code in (400, 404, 422)
    assert httpx.get(f"{server.url}/livez").is_success
