"""The client against servers that do not keep their word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.client import Client, ClientError

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def model(api: TestClient) -> dict[str, Any]:
    """A real model, as a server describes it."""
    created: dict[str, Any] = api.post("/models", json={"budget": {"depth": 3}}).json()
    return api.get(created["links"]["self"]).json()  # type: ignore[no-any-return]


def sends(content: bytes) -> Answer:
    """Return an answer of 200 with that content."""
    return lambda _: httpx.Response(200, stream=httpx.ByteStream(content))


def download(model: dict[str, Any], weights: Answer, path: Path, *, asked: str | None = None) -> int:
    """Download from a server that describes `model` and answers its weights with `weights`; return the requests for them."""
    requests = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal requests
        if request.url.path.endswith("/weights"):
            requests += 1
            return weights(request)
        return httpx.Response(200, content=json.dumps(model))

    try:
        with Client("http://server", transport=httpx.MockTransport(answer)) as client:
            client.download(asked or model["id"], path)
    finally:
        assert requests <= 6  # whatever the server does, it is not asked for ever
    return requests


def test_a_download_is_what_was_asked_for(api: TestClient, model: dict[str, Any], tmp_path: Path) -> None:
    """An honest server's bytes arrive under the file's name, and nothing else is left."""
    content = api.get(model["links"]["weights"]).content
    assert download(model, sends(content), tmp_path / "x.safetensors") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (sends(b""), "the server sent nothing"),
        (lambda _: httpx.Response(302, headers={"Location": "/elsewhere"}), "302"),
        (lambda _: httpx.Response(204), "204"),
        (sends(b"x" * 10_000_000), "sends more than"),
    ],
    ids=["empty", "redirect", "no content", "endless"],
)
def test_a_server_that_does_not_deliver_is_given_up(
    model: dict[str, Any], tmp_path: Path, weights: Answer, message: str
) -> None:
    """In a few tries, with a reason, and without a file."""
    with pytest.raises(ClientError, match=message):
        download(model, weights, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_wrong_bytes_are_thrown_away(model: dict[str, Any], tmp_path: Path) -> None:
    """Of the right length, but not of the right digest."""
    with pytest.raises(ClientError, match="digest"):
        download(
            model,
            sends(b"x" * model["size_bytes"]),
            tmp_path / "x.safetensors",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answered", ["../../outside", "a/b", "m-\0", "m-" + "0" * 32])
def test_a_server_does_not_choose_where_the_client_writes(model: dict[str, Any], tmp_path: Path, answered: str) -> None:
    """A model of another id than the one asked for is refused before anything is written."""
    with pytest.raises(ClientError, match="another model"):
        download(
            model | {"id": answered},
            sends(b""),
            tmp_path / "x",
            asked=model["id"],
        )
    assert list(tmp_path.iterdir()) == []


def test_weights_are_asked_of_the_same_server(model: dict[str, Any], tmp_path: Path) -> None:
    """A link to another host is not followed."""
    hosts = []

    def weights(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(404)

    elsewhere = model | {"links": model["links"] | {"weights": "http://elsewhere/weights"}}
    with pytest.raises(ClientError, match="404"):
        download(elsewhere, weights, tmp_path / "x.safetensors")
    assert set(hosts) == {"server"}
