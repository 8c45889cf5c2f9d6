"""A fine-tuned model is a model like any other: its resource, its file, its configuration, its repository and its card."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors.torch import load as load_safetensors
from starlette.requests import Request
from starlette.testclient import TestClient

from service.api.file_response import StoredFileResponse
from service.api.hub_repository import git_blob_sha1
from service.domain.errors import ObjectStoreError
from service.domain.model import Model
from service.storage.embedded_redis import EmbeddedRedis
from service.storage.object_store import CHUNK_BYTES, ObjectStore
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import CLASS_NAMES, METRICS, SETTINGS, Workshop, data_set


@pytest.fixture(scope="module")
def workshop(redis_url: str, data_dir: Path, learngene_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The Redis and the object store of the application in this process."""
    objects = ObjectStore((data_dir / "objects").as_uri())
    folder = tmp_path_factory.mktemp("workshop")
    return Workshop(redis_url=redis_url, objects=objects, learngenes=learngene_files, folder=folder)


@pytest.fixture(scope="module")
def base(api: TestClient) -> dict[str, Any]:
    """A descendant of depth 3."""
    created: dict[str, Any] = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}}).json()
    return created


@pytest.fixture(scope="module")
def tuned(base: dict[str, Any], workshop: Workshop) -> Model:
    """A fine-tune of it."""
    return workshop.publish(base["id"])


@pytest.fixture(scope="module")
def large(base: dict[str, Any], workshop: Workshop) -> Model:
    """A fine-tune on 20,000 classes, whose file has several chunks."""
    return workshop.publish(base["id"], dataset=data_set([f"class {index}" for index in range(20_000)], name=""))


@pytest.fixture(scope="module")
def content(workshop: Workshop, large: Model) -> bytes:
    """The large one's file, as it lies in the object store."""
    return workshop.file(large).read_bytes()


def test_the_resource_says_how_it_came_about(api: TestClient, base: dict[str, Any], tuned: Model) -> None:
    """Parent, job, data set, settings and numbers; its accuracy is that of its own data set."""
    resource = api.get(f"/models/{tuned.id}").json()
    assert (resource["kind"], base["kind"], base["fine_tuning"]) == ("fine_tuned", "expanded", None)
    tuning = resource["fine_tuning"]
    assert (tuning["parent"], tuning["job"], tuning["dataset"]) == (base["id"], "ft-" + "1" * 32, data_set().id)
    assert (tuning["num_classes"], tuning["train_images"], tuning["held_out_images"]) == (3, 240, 60)
    assert (tuning["epoch"], tuning["step"], tuning["settings"]) == (3, 30, SETTINGS)
    assert tuning["metrics"] == METRICS
    assert resource["accuracy"] == {"petals": {"top1": 0.875, "images": 60}}
    assert (resource["learngene"], resource["member"], resource["recipe"]["num_classes"]) == (
        "tiny-tleg",
        {"depth": 3, "path": None},
        3,
    )
    assert api.get(resource["links"]["parent"]).json() == {key: base[key] for key in resource}
    assert resource["links"]["job"] == f"/fine-tunes/{tuning['job']}"
    assert resource["links"]["dataset"] == f"/datasets/{tuning['dataset']}"


def test_the_file_is_the_stored_one(api: TestClient, tuned: Model) -> None:
    """timm's network by config.json takes it strictly; size, digest and parameters are those of the answer."""
    resource = api.get(f"/models/{tuned.id}").json()
    answer = api.get(resource["links"]["weights"])
    assert resource["sha256"] == hashlib.sha256(answer.content).hexdigest() == answer.headers["ETag"].strip('"')
    assert resource["size_bytes"] == len(answer.content)
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{tuned.id}.safetensors"'
    config = api.get(resource["links"]["config"]).json()
    assert config["label_names"] == list(CLASS_NAMES)
    assert (config["num_classes"], config["pretrained_cfg"]["tag"]) == (3, tuned.id)
    assert config["pretrained_cfg"]["license"] == "Apache-2.0"
    network = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    network.load_state_dict(load_safetensors(answer.content), strict=True)
    assert sum(tensor.numel() for tensor in network.parameters()) == resource["params"]
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, *config["pretrained_cfg"]["input_size"])).shape == (1, 3)


def test_ranges_are_slices_across_chunks(api: TestClient, large: Model, content: bytes) -> None:
    """Of all three forms, at the borders of chunks and of the file; HEAD and GET agree."""
    path, rng = f"/models/{large.id}/weights", random.Random(0)
    assert len(content) > 2 * CHUNK_BYTES
    assert api.get(path).content == content
    head, get = api.head(path), api.get(path)
    assert (head.status_code, head.content, head.headers) == (200, b"", get.headers)
    firsts = [0, CHUNK_BYTES - 1, CHUNK_BYTES, len(content) - 1]
    for first in firsts + [rng.randrange(len(content)) for _ in range(12)]:
        last = first + rng.choice([0, 9, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES])
        answer = api.get(path, headers={"Range": f"bytes={first}-{last}"})
        expected = content[first : last + 1]
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(content)}"
    assert api.get(path, headers={"Range": "bytes=-5"}).content == content[-5:]
    assert api.get(path, headers={"Range": f"bytes={len(content) - 3}-"}).content == content[-3:]


def test_conditions_hold_for_it(api: TestClient, large: Model, content: bytes) -> None:
    """304, 412, 416, and If-Range with the tag and with another one."""
    path = f"/models/{large.id}/weights"
    etag = api.head(path).headers["ETag"]
    assert api.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert api.get(path, headers={"If-Match": '"other"'}).status_code == 412
    assert api.get(path, headers={"Range": f"bytes={len(content)}-"}).status_code == 416
    resumed = api.get(path, headers={"Range": "bytes=100-", "If-Range": etag})
    assert (resumed.status_code, resumed.content) == (206, content[100:])
    changed = api.get(path, headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, content)


def test_the_list_can_be_of_one_kind(open_api: ApiFactory, workshop: Workshop) -> None:
    """Newest first, each once, in pages of any size; a cursor of the other kind is refused."""
    url = workshop.redis_url + "?db=4"
    here = replace(workshop, redis_url=url)
    with open_api(url) as api:
        ids: dict[str, list[str]] = {"expanded": [], "fine_tuned": []}
        for depth in (1, 2, 3):
            ids["expanded"].append(
                api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": depth}}).json()["id"]
            )
            ids["fine_tuned"] += [here.publish(ids["expanded"][-1], seed=seed).id for seed in range(depth)]
        for kind, expected in ids.items():
            for limit in (1, 2, 100):
                seen: list[str] = []
                while True:
                    query = {"kind": kind, "limit": limit} | ({"after": seen[-1]} if seen else {})
                    page = api.get("/models", params=query).json()
                    seen += [item["id"] for item in page["data"]]
                    if not page["has_more"]:
                        break
                assert seen == expected[::-1]
            other = next(name for name in ids if name != kind)
            assert api.get("/models", params={"kind": kind, "after": ids[other][0]}).json()["code"] == "cursor_unknown"
        assert len(api.get("/models").json()["data"]) == 9
        assert api.get("/models", params={"kind": "other"}).status_code == 422


def test_a_model_recorded_twice_keeps_its_first_record(api: TestClient, tuned: Model, workshop: Workshop) -> None:
    """Another job that ends in the same bytes is the same model; it stays the first one's."""
    again = workshop.publish(tuned.fine_tuning.parent, job="ft-" + "9" * 32)  # type: ignore[union-attr]
    assert again.id == tuned.id
    assert api.get(f"/models/{again.id}").json()["fine_tuning"]["job"] == "ft-" + "1" * 32


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b"")],
    ids=["gone", "cut", "empty"],
)
def test_a_file_that_is_not_there_whole_is_a_503(
    api: TestClient, base: dict[str, Any], workshop: Workshop, damage: Callable[[Path], object]
) -> None:
    """A problem, before any byte is sent, on every way to the file; what needs no file is answered."""
    model = workshop.publish(base["id"], seed=77)
    damage(workshop.file(model))
    for url in (f"/models/{model.id}/weights", f"/tleg/{model.id}/resolve/main/model.safetensors"):
        answer = api.get(url)
        assert (answer.status_code, answer.json()["code"]) == (503, "weights_missing")
        assert "Retry-After" in answer.headers
        assert "ETag" not in answer.headers
        assert api.head(url).status_code == 503
    for url in (f"/models/{model.id}", f"/models/{model.id}/config.json", f"/tleg/{model.id}/resolve/main/README.md"):
        assert api.get(url).status_code == 200


def test_an_object_store_that_is_away_is_a_503(open_api: ApiFactory, redis_url: str, tuned: Model) -> None:
    """The file is not to be had for now; everything else is."""
    with open_api(redis_url, store_url="https://127.0.0.1:1/") as api:
        answer = api.get(f"/models/{tuned.id}/weights")
        assert (answer.status_code, answer.json()["code"]) == (503, "object_store_unavailable")
        assert "Retry-After" in answer.headers
        assert api.get(f"/models/{tuned.id}/config.json").status_code == 200
        assert api.get(f"/models/{tuned.fine_tuning.parent}/weights").status_code == 200  # type: ignore[union-attr]


def answered(chunks: Callable[[int, int], AsyncGenerator[memoryview]], leaves_after: int | None = None) -> list[dict[str, Any]]:
    """Answer a GET with a file of 5 kB in these chunks and return what was sent; the client may leave."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        while leaves_after is None or len(sent) < leaves_after:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    response = StoredFileResponse(Request(scope), size=5000, etag="e", chunks=chunks, filename="x", immutable=True)
    try:
        asyncio.run(response(scope, receive, send))
    except ObjectStoreError:
        sent.append({"type": "raised"})
    return sent


def test_a_store_that_fails_cuts_the_download_and_never_ends_it() -> None:
    """Before the first chunk nothing is sent, so that the error becomes the answer; after it the body stays open."""

    def failing(after: int) -> Callable[[int, int], AsyncGenerator[memoryview]]:
        async def chunks(_start: int, _stop: int) -> AsyncGenerator[memoryview]:
            for _ in range(after):
                yield memoryview(bytes(1000))
            raise ObjectStoreError

        return chunks

    assert answered(failing(0)) == [{"type": "raised"}]
    cut = answered(failing(2))
    assert [message["type"] for message in cut] == ["http.response.start", "http.response.body", "http.response.body"]
    assert all(message.get("more_body", True) for message in cut)


def test_a_client_that_goes_away_ends_the_reading(workshop: Workshop, large: Model) -> None:
    """Its generator is closed at once, and no read is left behind."""
    closed = []

    async def chunks(_start: int, _stop: int) -> AsyncGenerator[memoryview]:
        try:
            for _ in range(5):
                await asyncio.sleep(0)
                yield memoryview(bytes(1000))
        finally:
            closed.append(True)

    assert len(answered(chunks, leaves_after=2)) < 5
    assert closed == [True]

    async def leave() -> None:
        assert large.fine_tuning is not None
        reading = workshop.objects.chunks(large.fine_tuning.weights_key, 0, large.size_bytes)
        await anext(reading)
        await reading.aclose()
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(leave())


def test_it_needs_no_learngene(open_api: ApiFactory, redis_url: str, tuned: Model) -> None:
    """On a server without the learngene it is all there, while its base can only be described."""
    with open_api(redis_url, learngenes=()) as api:
        assert tuned.fine_tuning is not None
        assert api.get(f"/models/{tuned.fine_tuning.parent}/weights").json()["code"] == "learngene_not_loaded"
        assert api.get(f"/models/{tuned.id}").json()["accuracy"]["petals"]["images"] == 60
        assert hashlib.sha256(api.get(f"/models/{tuned.id}/weights").content).hexdigest() == tuned.content_digest
        assert api.get(f"/models/{tuned.id}/config.json").json()["label_names"] == list(CLASS_NAMES)
        assert "petals" in api.get(f"/tleg/{tuned.id}/resolve/main/README.md").text


def test_a_fine_tune_of_a_fine_tune_has_both_behind_it(api: TestClient, tuned: Model, workshop: Workshop) -> None:
    """Its parent is the first one, its learngene still the same, its classes its own."""
    second = workshop.publish(tuned.id, dataset=data_set(("cat", "dog"), name="pets"), seed=5)
    resource = api.get(f"/models/{second.id}").json()
    assert resource["fine_tuning"]["parent"] == tuned.id
    assert (resource["learngene"], resource["recipe"]["num_classes"]) == ("tiny-tleg", 2)
    assert set(resource["accuracy"]) == {"pets"}
    config = api.get(f"/models/{second.id}/config.json").json()
    assert config["label_names"] == ["cat", "dog"]
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    card = api.get(f"/tleg/{second.id}/resolve/main/README.md").text
    assert f"(/tleg/{tuned.id})" in card


def test_its_repository_lists_files_with_their_digests(api: TestClient, tuned: Model) -> None:
    """The weights by their sha256, the rest by git's sha1; a readable name means members only."""
    info = api.get(f"/api/models/tleg/{tuned.id}").json()
    assert "fine-tuned" in info["tags"]
    for entry in api.get(f"/api/models/tleg/{tuned.id}/tree/{info['sha']}").json():
        answer = api.get(f"/tleg/{tuned.id}/resolve/{info['sha']}/{entry['path']}")
        assert entry["size"] == len(answer.content)
        if entry["path"] == "model.safetensors":
            assert entry["lfs"]["oid"] == answer.headers["X-Linked-Etag"].strip('"') == tuned.content_digest
        else:
            assert entry["oid"] == git_blob_sha1(answer.content)


def test_the_card_can_be_read_by_programs_and_people(api: TestClient, workshop: Workshop, base: dict[str, Any]) -> None:
    """Its metadata names base and results, its text what was done; names from users are text and nothing else."""
    hostile = data_set(("a|b", "<img src=x>", "![x](http://e.com/i.png)"), name='p: "q"\n---\n# [x](http://e.com)')
    model = workshop.publish(base["id"], dataset=hostile)
    text = api.get(f"/tleg/{model.id}/resolve/main/README.md").text
    card = ModelCard(text)
    assert card.data.base_model == f"tleg/{base['id']}"
    (top1, *_) = card.data.eval_results
    assert (top1.metric_type, top1.metric_value, top1.dataset_name) == ("accuracy", 0.875, 'p: "q" --- # [x](http://e.com)')
    assert "87.50%" in text
    assert "60 images (20% of each class) that were held out of training" in text
    page = MarkdownIt("commonmark").enable("table").render(card.text)
    assert "<img" not in page
    assert 'href="http' not in page
    assert page.count("<table>") == 4
    rows = [line for line in card.text.splitlines() if line.startswith("| data set |")]
    assert len(rows) == 1
    scratch = workshop.publish(base["id"], settings=SETTINGS | {"start": "scratch"})
    assert "from scratch" in api.get(f"/tleg/{scratch.id}/resolve/main/README.md").text
    assert "from scratch" not in text


def test_the_card_shows_the_curve_up_to_the_models_own_epoch(
    api: TestClient, workshop: Workshop, base: dict[str, Any], open_api: ApiFactory
) -> None:
    """As bars and a table, the last row the model's own numbers; the commit is the same on another server."""
    job = workshop.job_with_epochs(base["id"], [1, 2, 3])
    model = workshop.publish(base["id"], job=job, epoch=3, seed=11)
    text = api.get(f"/tleg/{model.id}/resolve/main/README.md").text
    assert "\n| 1 | 2.0000 | 10.00% | 1.5000 |\n| 2 | 1.9000 | 15.00% | 1.4000 |\n" in text
    assert "\n| 3 | 0.5000 | 87.50% | 0.2500 |\n" in text
    assert "top-5" not in text  # of three classes
    assert "training loss | 0.5000" not in text  # it is no result
    assert "top-1 accuracy: ▁▁█" in text
    commit = api.get(f"/api/models/tleg/{model.id}").json()["sha"]

    with open_api(workshop.redis_url) as other:
        assert other.get(f"/api/models/tleg/{model.id}").json()["sha"] == commit
    first = workshop.publish(base["id"], job=job, epoch=1, seed=12)
    assert "Learning curve" not in api.get(f"/tleg/{first.id}/resolve/main/README.md").text
    assert "after epoch 1 of 3" in api.get(f"/tleg/{first.id}/resolve/main/README.md").text


def test_epochs_that_were_repeated_or_came_later_do_not_change_the_card(
    workshop: Workshop, base: dict[str, Any], open_api: ApiFactory
) -> None:
    """The first report of an epoch counts: the same commit whether the server looks before or after."""
    before = workshop.job_with_epochs(base["id"], [1])
    model = workshop.publish(base["id"], job=before, epoch=2, seed=13)
    with open_api(workshop.redis_url) as api:
        commit = api.get(f"/api/models/tleg/{model.id}").json()["sha"]
    after = workshop.job_with_epochs(base["id"], [1, 2, 1, 2, 3])
    same = workshop.publish(base["id"], job=after, epoch=2, seed=14)
    with open_api(workshop.redis_url) as api:
        cards = [api.get(f"/tleg/{item.id}/resolve/main/README.md").text for item in (model, same)]
        assert api.get(f"/api/models/tleg/{model.id}").json()["sha"] == commit
    curves = [card.partition("## Learning curve")[2].partition("## Data")[0] for card in cards]
    assert curves[0] == curves[1] != ""


def test_a_long_curve_is_thinned(api: TestClient, workshop: Workshop, base: dict[str, Any]) -> None:
    """At most forty rows, the first and the last among them."""
    job = workshop.job_with_epochs(base["id"], range(1, 150))
    model = workshop.publish(base["id"], job=job, epoch=150, seed=15)
    section = api.get(f"/tleg/{model.id}/resolve/main/README.md").text.partition("## Learning curve")[2].partition("## Data")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    assert (len(rows), rows[0], rows[-1]) == (40, "1", "150")


def test_without_redis_a_known_model_is_still_served(open_api: ApiFactory, tmp_path: Path, workshop: Workshop) -> None:
    """Its record and curve were read before; the object store is another thing."""
    with EmbeddedRedis(tmp_path) as embedded, open_api(embedded.url) as api:
        base = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 2}}).json()
        model = replace(workshop, redis_url=embedded.url).publish(base["id"])
        urls = [f"/models/{model.id}/weights", f"/tleg/{model.id}/resolve/main/model.safetensors"]
        contents = [api.get(url).content for url in urls]
        embedded.__exit__(None, None, None)
        assert [api.get(url).content for url in urls] == contents
