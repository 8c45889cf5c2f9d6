"""Trainings of pools and of inherited layers: by the route and fields of all others, or refused before anything is queued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from service.domain.job import Progress
from service.storage import keys
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import data_set
from tests.service.jobs import Store, run
from tests.service.tiny import CLASS_NAMES, learngene, write_other_designs
from tleg_core.description import Preprocessing
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.pool_config import PoolConfig
from tleg_core.vit import VIT_SIZES

PATH = "/learngenes/trainings"
SHAPES = data_set(CLASS_NAMES, name="shapes")
PETALS = data_set()
ANCHORS = [
    {"name": "small", "size": "test", "embed_dim": 16, "num_heads": 2, "depth": 2},
    {"name": "large", "size": "test", "embed_dim": 32, "num_heads": 2, "depth": 3},
]
SN_NET: dict[str, Any] = {"pool": {"method": "sn-net"}, "anchors": ANCHORS}
DISTILLED: dict[str, Any] = {"anchors": ANCHORS, "anchor_training": {"rule": "distilled"}}
STABILITY: dict[str, Any] = {"selection": {"num_layers": 2}, "stability": {"num_tasks": 2, "classes_per_task": 3}}


@pytest.fixture(scope="module")
def store_url(redis_url: str) -> str:
    """Where the application's jobs are."""
    return f"{redis_url}?db=8"


@pytest.fixture(scope="module")
def application(open_api: ApiFactory, store_url: str) -> Iterator[TestClient]:
    """The application on a database of its own, one for all tests: none of them changes what it holds itself."""
    with redis.Redis.from_url(store_url) as database:
        database.flushdb()
    with open_api(store_url) as client:
        yield client


@pytest.fixture
def client(application: TestClient, store_url: str) -> TestClient:
    """The application, with two data sets and nothing else."""
    with redis.Redis.from_url(store_url, decode_responses=True) as database:
        database.flushdb()
        for dataset in (SHAPES, PETALS):
            fields = {"record": json.dumps(dataset.to_json()), "created_at": "2026-01-01T00:00:00+00:00"}
            database.hset(keys.dataset(dataset.id), mapping=fields)
    return application


def created(client: TestClient, config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a new job."""
    answer = client.post(PATH, json={"name": "shapes", "dataset": SHAPES.id, "config": config} | changes)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def refused(client: TestClient, config: dict[str, Any], **changes: Any) -> tuple[str, str]:
    """Return the field and the reason for which a request is refused, nothing being queued."""
    body = {"name": "shapes", "dataset": SHAPES.id, "config": config} | changes
    answer = client.post(PATH, json={name: value for name, value in body.items() if value is not None})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert client.get(PATH).json()["data"] == []
    return error["field"], error["message"]


def model_of(client: TestClient, **budget: Any) -> str:
    """Return the id of a plain ViT with the classes of the shapes, 32 wide, of 16 px in patches of 4."""
    request = {"learngene": "tiny-tleg", "budget": budget or {"depth": 6}}
    model_id: str = client.post("/models", json=request).json()["id"]
    return model_id


def test_anchors_make_it_a_pool(client: TestClient) -> None:
    """Whole, with the data set's defaults; labels alone teach, and progress counts the epochs of all phases."""
    job = created(client, SN_NET | {"training": {"epochs": 4}, "joint": {"epochs": 3}})
    config = job["config"]
    assert config["training"].pop("precision") == "auto"
    read = PoolConfig.from_json(config)
    assert (read.pool.method, [anchor.name for anchor in read.anchors]) == ("sn-net", ["small", "large"])
    assert (read.network.img_size, read.network.patch_size) == (32, 4)
    assert (read.anchor_training.alpha, read.joint.alpha, read.training.warmup_epochs) == (0.0, 0.0, 0)
    assert (job["progress"]["epochs"], job["accuracy"], job["teacher"]) == (11, {}, None)


def test_a_recipe_of_a_pool_is_changed_by_names_of_anchors(client: TestClient) -> None:
    """The others stay."""
    job = created(client, {"anchors": {"m.depth": 5}, "joint": {"epochs": 2}}, recipe="sn-net-cifar10")
    assert [anchor["depth"] for anchor in job["config"]["anchors"]] == [6, 5, 6]
    assert (job["config"]["joint"]["epochs"], job["config"]["training"]["precision"]) == (2, "bfloat16")


def test_a_pool_with_a_teacher_is_distilled_at_its_tokens(client: TestClient) -> None:
    """Image and patches are the teacher's where nobody says, and so is what the anchors learn."""
    job = created(client, {"anchors": ANCHORS}, teacher=model_of(client))
    assert job["config"]["anchor_training"]["rule"] == "distilled"
    assert {name: job["config"]["network"][name] for name in ("img_size", "patch_size", "class_token")} == {
        "img_size": 32,
        "patch_size": 8,
        "class_token": False,
    }


def test_models_are_anchors(client: TestClient) -> None:
    """Their sizes need not be said, nor those of the image; they are not trained alone again."""
    model = model_of(client, depth=3)
    anchors = [ANCHORS[0], {"name": "large", "model": model}]
    job = created(client, SN_NET | {"anchors": anchors, "training": {"epochs": 4}})
    small, large = job["config"]["anchors"]
    assert (small["embed_dim"], large["embed_dim"], large["num_heads"], large["depth"]) == (16, 32, 2, 3)
    assert job["config"]["network"]["patch_size"] == 8
    assert (job["progress"]["epochs"], job["requested"]["config"]["anchors"]) == (4, anchors)
    assert job["anchors"] == {"large": model}


def test_layers_of_a_model_are_inherited(client: TestClient) -> None:
    """By a rule over tasks, or by hand; the configuration is whole, and epochs are those of all tasks."""
    teacher = model_of(client)
    job = created(client, STABILITY | {"training": {"epochs": 2}}, teacher=teacher)
    config = job["config"]
    assert config["training"].pop("precision") == "auto"
    read = InheritanceConfig.from_json(config)
    assert (read.selection.rule, read.min_depth, read.depths.offer_max) == ("stability", 2, 12)
    assert (job["progress"]["epochs"], job["links"]["teacher"]) == (4, f"/models/{teacher}")
    given = created(client, {"selection": {"rule": "given", "layers": [0, 5]}}, name="by-hand", teacher=teacher)
    assert given["progress"]["epochs"] == 0
    transfer = created(client, {"selection": {"rule": "transfer", "num_layers": 2}}, name="auto", teacher=teacher)
    assert transfer["progress"]["epochs"] == transfer["config"]["training"]["epochs"]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"anchors": []}, "config.anchors"),
        ({"anchors": {"small.depth": 3}}, "config.anchors"),
        ({"anchors": "small"}, "config.anchors"),
        ({"anchors": [ANCHORS[0]]}, "config.anchors"),
        ({"anchors": ANCHORS[::-1]}, "config.anchors"),
        ({"anchors": [{"name": "small", "depth": 0}, ANCHORS[1]]}, "config.anchors.small.depth"),
        ({"anchors": [{"model": "m-1"}]}, "config.anchors.0.name"),
        ({"anchors": [{"name": "a", "model": 3}]}, "config.anchors.a.model"),
        ({"anchors": [{"name": "a", "model": "m-" + 32 * "0"}]}, "config.anchors.a.model"),
        (SN_NET | {"schedule": {}}, "config.schedule"),
        (SN_NET | {"pool": {"method": "tleg"}}, "config.pool.method"),
        (SN_NET | {"network": {"img_size": 33}}, "config.network.img_size"),
        (SN_NET | {"training": {"batch_size": 801}}, "config.training.batch_size"),
        (SN_NET | {"joint": {"epochs": 1, "batch_size": 801}}, "config.joint.batch_size"),
        (SN_NET | {"augmentation": {"views": 2, "repeats": 2}}, "config.augmentation.repeats"),
        (SN_NET | {"joint": {"epochs": 1, "alpha": 0.5}}, "teacher"),
        (SN_NET | {"stitching": {"init": "learned"}}, "config.stitching.init"),
        (DISTILLED, "teacher"),
        ({"selection": {}}, "teacher"),
        ({"selection": {"rule": "magic"}}, "config.selection.rule"),
        ({"selection": {"rule": "transfer"}, "stability": {}}, "config.stability"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_queued(client: TestClient, config: dict[str, Any], named: str) -> None:
    """By its place in the body."""
    assert refused(client, config)[0] == named


def test_a_teacher_that_does_not_fit_is_refused(client: TestClient) -> None:
    """Without use, of other tokens, of too few layers, or more than one process where gradients are looked at."""
    teacher = model_of(client)
    place, reason = refused(client, DISTILLED | {"network": {"img_size": 32, "patch_size": 4}}, teacher=teacher)
    assert (place, "patches" in reason) == ("teacher", True)
    assert refused(client, SN_NET, teacher=teacher)[0] == "teacher"
    many = {"selection": {"num_layers": 7}}
    assert refused(client, many, teacher=teacher)[0] == "config.selection.num_layers"
    assert refused(client, STABILITY, teacher=teacher, nproc=2)[0] == "nproc"
    few = STABILITY | {"stability": {"classes_per_task": 11}}
    assert refused(client, few, teacher=teacher)[0] == "config.stability.classes_per_task"
    large = STABILITY | {"training": {"batch_size": 241}}
    assert refused(client, large, teacher=teacher)[0] == "config.training.batch_size"
    windows = STABILITY | {"training": {"batch_size": 240, "epochs": 1}}
    place, reason = refused(client, windows, teacher=teacher)
    assert place == "config.stability.windows"
    assert "is more than the 1 update that a task may have: take a smaller training.batch_size" in reason
    assert refused(client, STABILITY, teacher=teacher, dataset=PETALS.id)[0] == "teacher"


def test_a_teacher_that_cannot_be_asked_is_refused(
    open_api: ApiFactory, store_url: str, client: TestClient, tmp_path: Path
) -> None:
    """Of grey images; or of another size, and by an interpolation that the engine has not; whatever is trained."""
    assert client.get("/livez").is_success
    grey = Preprocessing(mean=(0.5,), std=(0.5,))
    files = []
    for name, channels, preprocessing in (("grey", 1, grey), ("coarse", 3, Preprocessing(interpolation="nearest"))):
        vit = replace(VIT_SIZES["test"], in_chans=channels)
        files.append(tmp_path / f"{name}.safetensors")
        learngene(name, config=vit, class_names=CLASS_NAMES, preprocessing=preprocessing).write(files[-1])
    with open_api(store_url, learngenes=tuple(files)) as serving:
        models = {}
        for name in ("grey", "coarse"):
            answer = serving.post("/models", json={"learngene": name, "budget": {"depth": 6}})
            models[name] = answer.json()["id"]
        taught = {"joint": {"epochs": 1, "alpha": 0.5}}
        own_size, smaller = ({"network": {"img_size": side, "patch_size": 8}} for side in (32, 16))
        for config in (own_size, SN_NET | taught | own_size, DISTILLED, STABILITY):
            assert refused(serving, config, teacher=models["grey"]) == (
                "teacher",
                f"{models['grey']} has 1 input channels, not 3",
            )
        for config in (smaller, SN_NET | taught | smaller, DISTILLED):
            assert refused(serving, config, teacher=models["coarse"]) == (
                "teacher",
                f"{models['coarse']} is of images resized by nearest, not bilinear or bicubic",
            )
        for number, config in enumerate((own_size, SN_NET | taught | own_size, STABILITY)):
            created(serving, config, name=f"gene-{number}", teacher=models["coarse"])


def test_a_model_that_is_not_the_anchor_is_refused(client: TestClient) -> None:
    """Of another size, of other classes, or of another name than the recipe's."""
    model = model_of(client, depth=3)
    other = [ANCHORS[0], {"name": "large", "model": model, "depth": 4}]
    assert refused(client, SN_NET | {"anchors": other}) == (
        "config.anchors.large.model",
        f"{model} has depth 3, not 4",
    )
    assert refused(client, SN_NET | {"anchors": other}, dataset=PETALS.id)[0] == "config.anchors.large.model"
    named = {"anchors": {"xl.model": model}}
    assert refused(client, named, recipe="sn-net-cifar10")[0].startswith("config.anchors.xl")


def test_a_stitched_model_is_no_ancestry_of_layers(
    open_api: ApiFactory, store_url: str, client: TestClient, tmp_path: Path
) -> None:
    """A pool's member is none, and no anchor: what is joined by stitches is no plain ViT."""
    assert client.get("/livez").is_success
    pool = tuple(write_other_designs(tmp_path)[:1])
    with open_api(store_url, learngenes=pool) as serving:
        request = {"learngene": "tiny-pool", "budget": {"path": "0.0-0_1.1-3"}}
        stitched = serving.post("/models", json=request).json()["id"]
        place, reason = refused(serving, STABILITY, teacher=stitched)
        assert (place, "stitched" in reason) == ("teacher", True)
        assert refused(serving, DISTILLED, teacher=stitched)[0] == "teacher"
        anchors = [ANCHORS[0], {"name": "large", "model": stitched}]
        assert refused(serving, SN_NET | {"anchors": anchors})[0] == "config.anchors.large.model"
        created(serving, SN_NET | {"joint": {"epochs": 1, "alpha": 0.5}}, teacher=stitched)


def test_a_pool_that_could_not_be_published_is_not_trained(open_api: ApiFactory, store_url: str, client: TestClient) -> None:
    """It would be too large for the server; that is said before it takes hours."""
    assert client.get("/livez").is_success
    with open_api(store_url, max_learngene_bytes=100_000) as small:
        assert refused(small, SN_NET | {"network": {"img_size": 16, "patch_size": 8}})[0] == "config.anchors"


def test_a_configuration_that_a_learngene_could_not_say_is_refused(client: TestClient) -> None:
    """It is part of the provenance, which has a limit."""
    many = [{"name": f"anchor-{number:025}", "size": "test", "depth": 1} for number in range(24)]
    assert refused(client, SN_NET | {"anchors": many})[0] == "config"
    created(client, SN_NET | {"anchors": many[:8]})


def test_a_pool_shows_what_it_measured_by_path(client: TestClient, store_url: str) -> None:
    """As its phases end, and whatever its worker is."""
    job = created(client, SN_NET | {"training": {"epochs": 4}})
    metrics = {"train_loss": 1.0, "top1": 0.5, "top1_path_0.0-1": 0.4, "top1_path_0.0-0_1.1-2": 0.3}
    progress = Progress(epoch=1, step=25, steps=100, metrics=metrics)

    async def work(store: Store) -> None:
        claim = await store.claim(job["id"], "w1")
        assert claim is not None
        await store.started(claim, claim.job.spec.settings, progress)

    run(store_url, work)
    shown = client.get(job["links"]["self"]).json()
    assert shown["accuracy"] == {"0.0-1": 0.4, "0.0-0_1.1-2": 0.3}
    assert (shown["progress"]["epoch"], shown["progress"]["epochs"]) == (1, 8)
