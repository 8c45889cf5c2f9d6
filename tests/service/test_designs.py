"""Members of every design through the API: along paths, with inherited layers, from scratch; the same fields and routes."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from huggingface_hub.utils import validate_repo_id
from safetensors.numpy import load
from starlette.testclient import TestClient

from service.api.front_plot import COLOURS, LETTER, LINE, FrontPlot
from service.client import Client
from service.storage import keys
from service.storage.embedded_redis import running_url
from service.storage.object_store import ObjectStore
from tests.service import tiny
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import Workshop, data_set
from tests.service.server import ServerProcess
from tests.service.test_hub import hub_client
from tleg_core.budget import Accuracy, Candidate
from tleg_core.cost import Cost, stack_cost
from tleg_core.descendant import Descendant
from tleg_core.description import Measurement
from tleg_core.designs.pool import Pool, Stitch
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member

STITCHED = "0.0-1_1.3-3"
"""The cheapest stitched path of `tiny-pool`: less than the whole wide anchor, more than the narrow one."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a pool, of inherited layers and of scratch."""
    return tiny.write_other_designs(tmp_path_factory.mktemp("designs"))


@pytest.fixture(scope="module")
def api(open_api: ApiFactory, redis_url: str, files: list[Path]) -> Iterator[TestClient]:
    """The application with these learngenes alone, on a database of its own."""
    url = f"{redis_url}?db=2"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    with open_api(url, learngenes=tuple(files)) as client:
        yield client


@pytest.fixture(scope="module")
def pool(files: list[Path]) -> Learngene:
    """The pool."""
    return Learngene.open(files[0])


def create(api: TestClient, **body: Any) -> dict[str, Any]:
    """Return the model that a request gets."""
    answer = api.post("/models", json=body)
    assert answer.status_code in (200, 201), answer.text
    created: dict[str, Any] = answer.json()
    return created


def test_a_pools_members_are_listed_by_path(api: TestClient, pool: Learngene) -> None:
    """The whole anchors and then the stitched paths, each with depth, path, costs and accuracy; and how many stitches."""
    answer = api.get("/learngenes/tiny-pool").json()
    family = Family(pool)
    assert [(item["depth"], item["path"]) for item in answer["members"]] == [
        (member.depth, str(member.path)) for member in family.members
    ]
    for item, member in zip(answer["members"], family.members, strict=True):
        cost = stack_cost(family.stack(member))
        assert (item["params"], item["macs"], item["memory_bytes"]) == (cost.params, cost.macs, cost.memory_bytes)
    assert answer["members"][0]["accuracy"] == {"shapes": {"top1": 0.6, "images": 1000}}
    assert answer["members"][3]["accuracy"] == {}
    anchors = [(anchor["name"], anchor["depth"], anchor["config"]["embed_dim"]) for anchor in answer["anchors"]]
    assert anchors == [("narrow", 3, 32), ("wide", 4, 48)]
    assert (answer["method"], answer["stitches"], answer["config"]["embed_dim"]) == ("pool", 3, 48)
    assert (answer["trained_depth"], answer["selection"]) == (None, None)


def test_a_selection_comes_with_its_evidence(api: TestClient) -> None:
    """Rule, scores, chosen layers and details of inherited layers; a depth alone names each member."""
    answer = api.get("/learngenes/tiny-inherited").json()
    assert answer["selection"] == {
        "rule": "the two highest",
        "scores": [0.1, 0.7, 0.2, 0.6],
        "chosen": [1, 3],
        "details": {"tasks": 2},
    }
    assert (answer["anchors"], answer["stitches"]) == ([], 0)
    assert [(item["depth"], item["path"]) for item in answer["members"]] == [(depth, None) for depth in range(2, 7)]


def test_a_path_is_a_budget(api: TestClient, pool: Learngene) -> None:
    """Exactly that member, as a plain module of stages, its file what the family writes."""
    model = create(api, learngene="tiny-pool", budget={"path": STITCHED})
    assert model["member"] == {"depth": 3, "path": STITCHED}
    assert model["recipe"]["member"] == {"path": STITCHED}
    assert model["architecture"] == "tleg_stitched_vit"
    assert [(stage["embed_dim"], stage["depth"]) for stage in model["model_args"]["stages"]] == [(32, 2), (48, 1)]
    assert model["selected_by"] == {"objective": "accuracy", "data_set": "shapes"}
    family = Family(pool)
    expected = Descendant(family, family.recipe(Member.along(PoolPath.parse(STITCHED)), Variation()))
    content = api.get(model["links"]["weights"]).content
    assert content == expected.read(0, expected.size)
    assert model["sha256"] == hashlib.sha256(content).hexdigest()
    assert model["size_bytes"] == len(content)
    assert api.get(model["links"]["self"]).json()["member"] == model["member"]
    assert api.get("/models").json()["data"][0]["member"] == model["member"]


def test_a_whole_anchor_is_a_plain_network(api: TestClient) -> None:
    """timm's own architecture, by the path that is the whole anchor."""
    model = create(api, learngene="tiny-pool", budget={"path": "1.0-3"})
    assert model["architecture"].startswith("vit_")
    assert (model["model_args"]["embed_dim"], model["model_args"]["depth"]) == (48, 4)


@pytest.mark.parametrize("cost", ["params", "macs", "flops", "weights_bytes", "memory_bytes"])
def test_a_budget_that_only_a_stitched_member_meets_best(api: TestClient, cost: str) -> None:
    """Between both anchors a stitched path is the most accurate that fits; dry or not, alone or in a batch."""
    members = {item["path"]: item for item in api.get("/learngenes/tiny-pool").json()["members"]}
    limit = members[STITCHED][cost]
    assert members["0.0-2"][cost] < limit < members["1.0-3"][cost]
    body = {"learngene": "tiny-pool", "budget": {f"max_{cost}": limit}}
    model = create(api, **body)
    assert model["member"]["path"] == STITCHED
    dry = api.post("/models", params={"dry_run": True}, json=body).json()
    batch = api.post("/models/batch", json={"requests": [body, {"budget": {"path": STITCHED}}]}).json()
    assert [dry["id"], *(entry["model"]["id"] for entry in batch["data"])] == [model["id"]] * 3


def test_only_a_stitched_member_has_that_depth(api: TestClient) -> None:
    """A floor and a ceiling that no anchor is between are met by a stitched path."""
    members = {item["path"]: item for item in api.get("/learngenes/tiny-pool").json()["members"]}
    budget = {"depth": 4, "max_params": members["1.0-3"]["params"] - 1}
    assert create(api, learngene="tiny-pool", budget=budget)["member"]["path"] == "0.0-0_1.1-3"


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"num_classes": 3}, {"image_size": 48}, {"head": "none"}])
def test_a_stitched_member_can_be_varied(api: TestClient, change: dict[str, Any]) -> None:
    """Another head, image size or element type changes the file as it says, and its id."""
    plain = create(api, learngene="tiny-pool", budget={"path": STITCHED})
    model = create(api, learngene="tiny-pool", budget={"path": STITCHED}, **change)
    assert model["id"] != plain["id"]
    assert len(api.get(model["links"]["weights"]).content) == model["size_bytes"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("0.0-0_1.2-3", "no member's"),
        ("0.0-7", "no member's"),
        ("", "must be like"),
        ("../../etc/passwd", "must be like"),
        ("0.0-1_0.2-2", "neighbouring segments of one anchor"),
        ("0.2-1", "ascending"),
        ("0.0-00", "must be like"),
        ("0.0-1\n", "must be like"),
        ("٠.0-2", "must be like"),  # noqa: RUF001 - a digit, though none of ours
        ("_".join(["0.0-1", "1.0-1"] * 9), "1 to 16 segments"),
        ("9" * 5000, "at most 256 characters"),
    ],
)
def test_a_wrong_path_is_refused(api: TestClient, path: str, says: str) -> None:
    """422 that names the field, whatever is wrong with it."""
    answer = api.post("/models", json={"learngene": "tiny-pool", "budget": {"path": path}})
    assert answer.status_code == 422
    assert "budget.path" in json.dumps(answer.json())
    assert says in answer.json()["detail"] + json.dumps(answer.json().get("errors"))


@pytest.mark.parametrize("path", [3, ["0.0-2"], {"segments": []}, True])
def test_a_path_of_another_type_is_refused(api: TestClient, path: object) -> None:
    """422, and no trace of it elsewhere."""
    answer = api.post("/models", json={"budget": {"path": path}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "budget.path"


def test_a_path_and_a_limit_are_both_kept(api: TestClient) -> None:
    """The path's member above the limit: it names the limit and the member."""
    answer = api.post("/models", json={"learngene": "tiny-pool", "budget": {"path": "1.0-3", "max_params": 1000}})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["binding_constraint"]) == (422, "budget_infeasible", "max_params")
    assert problem["nearest_feasible"]["member"] == {"depth": 4, "path": "1.0-3"}


def test_pool_members_are_on_the_front(api: TestClient) -> None:
    """The measured members that none beats, by rising MACs."""
    front = api.get("/frontier").json()
    assert [(item["learngene"], item["member"]["path"]) for item in front["data"]] == [
        ("tiny-pool", "0.0-2"),
        ("tiny-pool", STITCHED),
        ("tiny-pool", "0.0-0_1.1-3"),
        ("tiny-pool", "1.0-3"),
    ]


def test_fresh_layers_follow_the_seed(api: TestClient) -> None:
    """The seed decides the layers that are drawn, and has no influence where none is."""
    deep = [create(api, learngene="tiny-inherited", budget={"depth": 5}, seed=seed) for seed in (0, 1)]
    assert [model["recipe"]["seed"] for model in deep] == [0, 1]
    assert deep[0]["sha256"] != deep[1]["sha256"]
    whole = [create(api, learngene="tiny-inherited", budget={"depth": 2}, seed=seed)["id"] for seed in (0, 1)]
    assert whole[0] == whole[1]


def test_scratch_can_be_asked_for(api: TestClient) -> None:
    """By its method; each seed another network, of the depth asked for."""
    models = [create(api, method="scratch", budget={"depth": 4}, seed=seed) for seed in (0, 1)]
    assert {model["learngene"] for model in models} == {"tiny-scratch"}
    assert models[0]["member"] == {"depth": 4, "path": None}
    assert models[0]["sha256"] != models[1]["sha256"]
    answer = api.post("/models", json={"method": "scratch", "head": "inherit"})
    assert answer.status_code == 422
    assert "needs a trained head" in answer.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"objective": "largest"}, {"budget": {"depth": 12}}, {"num_classes": 7}])
def test_nobody_gets_scratch_unasked(api: TestClient, body: dict[str, Any]) -> None:
    """Where neither method nor learngene says so, a network without anything learned is no answer, not even the largest."""
    answer = api.post("/models", json=body)
    if answer.status_code == 422:
        assert answer.json()["nearest_feasible"]["learngene"] != "tiny-scratch"
    else:
        assert answer.json()["learngene"] != "tiny-scratch"


def test_a_stitched_members_repository(api: TestClient) -> None:
    """By the path's name or the id, with a config of stages, and a card that says what is needed to load it and what is not."""
    model = create(api, learngene="tiny-pool", budget={"path": STITCHED})
    name = f"tiny-pool-p{STITCHED}"
    for repository in (name, model["id"]):
        content = api.get(f"/tleg/{repository}/resolve/main/model.safetensors").content
        assert hashlib.sha256(content).hexdigest() == model["sha256"]
        config = api.get(f"/tleg/{repository}/resolve/main/config.json").json()
        assert config == api.get(model["links"]["config"]).json()
        assert (config["architecture"], config["model_args"]) == ("tleg_stitched_vit", model["model_args"])
        assert config["num_features"] == 48
    card = api.get(f"/tleg/{name}/resolve/main/README.md").text
    for text in (
        f"hf-hub:tleg/{name}",
        "import tleg_core.training.stitched_vit",
        "`narrow` (0 to 1), then the anchor `wide` (3 to 3)",
        "| 0 | 2 | 32 | 2 |",
        "| 1 | 1 | 48 | 3 |",
        f"/models/{model['id']}/weights?format=onnx",
        "format=torch-export",
        "70.00%",
    ):
        assert text in card
    plain = api.get("/tleg/tiny-pool-p1.0-3/resolve/main/README.md").text
    assert "the whole anchor `wide`" in plain
    assert "stitched_vit" not in plain
    info = api.get(f"/api/models/tleg/{name}").json()
    assert (info["id"], len(info["siblings"])) == (f"tleg/{name}", 3)


def test_the_card_of_a_member_that_nobody_created_says_how_to_have_it_exported(api: TestClient) -> None:
    """The Hub's routes know it all the same; its id's routes do not before the request that the card has."""
    card = api.get("/tleg/tiny-pool-p0.0-1_1.2-3/resolve/main/README.md").text
    body, exported = re.findall(r"`POST /models` with `(.+?)`, then `GET (\S+?)`", card)[0]
    assert api.get(exported).status_code == 404
    created = create(api, **json.loads(body))
    assert exported == f"/models/{created['id']}/weights?format=onnx"
    assert api.get(exported).status_code == 202
    assert "POST /models" not in api.get(f"/tleg/{created['id']}/resolve/main/README.md").text


@pytest.mark.parametrize("name", [f"tiny-pool-p{STITCHED}", f"{'a' * 63}-p0.0-3_1.4-11_0.8-11", "tiny-inherited-d4"])
def test_huggingface_hub_takes_the_names(name: str) -> None:
    """Its own check of a repository's id."""
    validate_repo_id(f"tleg/{name}")


@pytest.mark.parametrize(
    "name",
    [
        "tiny-pool-p0.0-1_1.1-3",  # no stitch is there
        "tiny-pool-p0.0-1",
        "tiny-pool-p64.0-1",
        "tiny-pool-p0.0-1_",
        "tiny-pool-p..",
        "tiny-pool-p" + "9" * 300,
        "tiny-pool-d3",  # a depth alone is none of a pool's members
        "tiny-inherited-d7",
        "tiny-inherited-p0.0-2",
        "nobody-p0.0-2",
    ],
)
def test_a_name_that_means_no_member_is_not_found(api: TestClient, name: str) -> None:
    """As the Hub says it."""
    answer = api.get(f"/tleg/{name}/resolve/main/config.json")
    assert answer.status_code == 404
    assert answer.headers["X-Error-Code"] == "RepoNotFound"


def test_the_cards_of_drawn_networks_say_so(api: TestClient) -> None:
    """What of the ancestry is inherited and where it stands; that nothing is learned."""
    card = api.get("/tleg/tiny-inherited-d5/resolve/main/README.md").text
    assert "Its blocks 1, 4 (from 0) are layers of the ancestry model" in card
    assert "the baseline" in api.get("/tleg/tiny-scratch-d5/resolve/main/README.md").text


def test_the_page_shows_every_design(api: TestClient) -> None:
    """Members by path, points of the pool on the plot, the design in words."""
    text = api.get("/").text
    for part in ("tiny-pool", STITCHED, "anchors narrow (width 32, depth 3)", "layers 1, 3 of 4", "everything drawn", "<svg"):
        assert part in text


def test_a_plot_of_hundreds_of_members_stays_readable(open_api: ApiFactory, redis_url: str, tmp_path: Path) -> None:
    """No label lies on another, the front's stay, every member has its point; the table is folded."""
    design = many_paths()
    paths = [str(design.whole(0)), str(design.whole(1)), *map(str, design.paths)]
    accuracy = tuple(
        Measurement.of(Member.along(PoolPath.parse(path)), data_set="shapes", top1=0.5 + 0.002 * index, images=1000)
        for index, path in enumerate(paths)
    )
    gene = tiny.pool("many-pool", design, accuracy=accuracy)
    gene.write(tmp_path / "many-pool.safetensors")
    candidates = Family(gene).candidates(Variation())
    assert len(candidates) == 68
    plot = FrontPlot.of(candidates, "shapes")
    assert len(plot.points) == len(candidates)
    labelled = [point for point in plot.points if point.label]
    assert 3 <= len(labelled) < 40
    for index, one in enumerate(labelled):
        for other in labelled[:index]:
            apart = abs(one.x - other.x) >= LETTER * (len(one.label) + len(other.label)) / 2 - 1e-6
            assert apart or abs(one.y - other.y) > LINE
    with open_api(f"{redis_url}?db=2", learngenes=(tmp_path / "many-pool.safetensors",)) as client:
        text = client.get("/").text
    assert text.count("<circle") == len(candidates)
    assert f"<summary>{len(candidates)} members</summary>" in text


def test_a_plot_tells_learngenes_apart() -> None:
    """Each has a colour and stands in the key; what is beyond the colours shares the last."""

    def candidate(number: int) -> Candidate:
        cost = Cost(params=number, macs=number, weights_bytes=number, memory_bytes=number)
        accuracy = {"shapes": Accuracy(top1=number / 100, images=1000)}
        return Candidate(learngene=f"gene-{number}", member=Member(depth=1), cost=cost, accuracy=accuracy)

    plot = FrontPlot.of([candidate(number) for number in range(1, COLOURS + 1)], "shapes")
    assert plot.learngenes == tuple(f"gene-{number}" for number in range(1, COLOURS + 1))
    assert {point.title.split()[0]: point.colour for point in plot.points} == {
        name: colour for colour, name in enumerate(plot.learngenes)
    }
    crowded = FrontPlot.of([candidate(number) for number in range(1, COLOURS + 4)], "shapes")
    assert crowded.learngenes[-2:] == ("gene-5", "4 others")
    assert {point.colour for point in crowded.points} == set(range(COLOURS))


def test_a_pool_of_thousands_of_members_leaves_the_page_small(open_api: ApiFactory, redis_url: str, tmp_path: Path) -> None:
    """Anybody may publish one, measured on any data sets: of members and plots some are shown, the front's all."""
    config = replace(tiny.POOL.config, embed_dim=2, num_heads=1)
    anchors = tuple(replace(anchor, config=config, depth=50) for anchor in tiny.POOL.anchors)
    joins = tuple((before, after) for before in range(49) for after in range(50))
    design = Pool(
        anchors=anchors,
        stitches=(Stitch(source=0, target=1, joins=joins),),
        paths=tuple(PoolPath.parse(f"0.0-{before}_1.{after}-49") for before, after in joins),
    )
    accuracy = [
        Measurement.of(member, data_set=name, top1=0.1 + 0.0001 * index, images=1000)
        for name, members in {f"set {number}": design.members[:3] for number in range(9)}.items()
        for index, member in enumerate(members)
    ]
    accuracy += [
        Measurement.of(item, data_set="shapes", top1=0.1 + 0.00001 * item.depth, images=9999) for item in design.members
    ]
    tiny.pool("large-pool", design, accuracy=tuple(accuracy)).write(tmp_path / "large-pool.safetensors")
    with open_api(f"{redis_url}?db=2", learngenes=(tmp_path / "large-pool.safetensors",)) as client:
        text = client.get("/").text
        front = client.get("/frontier").json()["data"]
    assert text.count("<svg") == 6
    assert 500 < text.count("<circle") < 1000 + 5 * 3 + len(front)
    assert all(f"large-pool p{item['member']['path']}:" in text for item in front)
    assert '<p class="facts">The first 500; <a href="/learngenes/large-pool">all</a>' in text
    assert len(text) < 500_000


def many_paths() -> Pool:
    """Return a pool of two anchors of depth 12 with every join from a block of the first to a later one of the second."""
    anchors = tuple(replace(anchor, depth=12) for anchor in tiny.POOL.anchors)
    joins = tuple((before, after) for before in range(11) for after in range(before + 1, 12))
    paths = tuple(PoolPath.parse(f"0.0-{before}_1.{after}-11") for before, after in joins)
    return Pool(anchors=anchors, stitches=tuple(Stitch(source=0, target=1, joins=(join,)) for join in joins), paths=paths)


@pytest.fixture
def empty(open_api: ApiFactory, redis_url: str, tmp_path: Path) -> Iterator[TestClient]:
    """A server without learngenes, with a folder and a database of its own."""
    url = f"{redis_url}?db=3"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    with open_api(url, learngenes=(), data_dir=tmp_path / "data") as client:
        yield client


def test_learngenes_of_every_design_are_published(empty: TestClient, files: list[Path]) -> None:
    """201, listed, their members made at once; the file comes back as it was sent."""
    for path in files:
        answer = empty.post("/learngenes", content=path.read_bytes())
        assert answer.status_code == 201, answer.text
        assert empty.get(answer.json()["links"]["weights"]).content == path.read_bytes()
    assert [item["id"] for item in empty.get("/learngenes").json()["data"]] == ["tiny-inherited", "tiny-pool", "tiny-scratch"]
    model = create(empty, learngene="tiny-pool", budget={"path": STITCHED})
    assert empty.get(f"/tleg/tiny-pool-p{STITCHED}/resolve/main/model.safetensors").content == (
        empty.get(model["links"]["weights"]).content
    )
    assert create(empty, method="scratch", budget={"depth": 2})["learngene"] == "tiny-scratch"
    assert empty.delete("/learngenes/tiny-pool").status_code == 204
    assert empty.get(f"/tleg/tiny-pool-p{STITCHED}/resolve/main/config.json").status_code == 404
    assert empty.get(model["links"]["weights"]).status_code == 503


def with_description(content: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a learngene's file with an edited description."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    description = json.loads(header["__metadata__"]["tleg.learngene"])
    edit(description)
    header["__metadata__"]["tleg.learngene"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[start:]


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a path without a stitch": (lambda value: value["pool"]["paths"].append("0.0-0_1.2-3"), "no stitch joins"),
    "a path into the file system": (lambda value: value["pool"]["paths"].append("../../etc/passwd"), "must be like"),
    "a million paths": (lambda value: value["pool"].update(paths=["0.0-2"] * 100_000), "at most 4096"),
    "a stitch to nowhere": (lambda value: value["pool"]["stitches"][0].update(target=9), "two different anchors"),
    "an anchor of another image": (
        lambda value: value["pool"]["anchors"][1]["config"].update(img_size=64),
        "differ in img_size",
    ),
    "an anchor of a million blocks": (lambda value: value["pool"]["anchors"][0].update(depth=10**6), "from 1 to 1000"),
    "an anchor's name of control characters": (lambda value: value["pool"]["anchors"][0].update(name="a\x1b[2J"), "lower-case"),
    "other joins than the digest's": (lambda value: value["pool"]["stitches"][0].update(joins=[[0, 1], [2, 3]]), "digest"),
    "an accuracy of no member": (lambda value: value["accuracy"][0].update(path="0.0-1"), "not offered"),
    "a selection": (
        lambda value: value.update(selection={"rule": "x", "scores": [], "chosen": [], "details": {}}),
        "selection",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_pool_that_lies_is_not_published(empty: TestClient, files: list[Path], case: str) -> None:
    """422 with the reason in a short message, and nothing is kept."""
    edit, reason = HOSTILE[case]
    answer = empty.post("/learngenes", content=with_description(files[0].read_bytes(), edit))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "learngene_refused"), answer.text
    assert reason in problem["detail"]
    assert len(problem["detail"]) < 700
    assert problem["detail"].isprintable()
    assert empty.get("/learngenes").json()["data"] == []


def test_fine_tunes_begin_at_stitched_members(empty: TestClient, files: list[Path], redis_url: str) -> None:
    """By a budget's path, by a model's id, or in one call with the model; the settings follow from the stages' depth."""
    empty.post("/learngenes", content=files[0].read_bytes())
    dataset = data_set()
    with redis.Redis.from_url(f"{redis_url}?db=3") as client:
        client.hset(keys.dataset(dataset.id), "record", json.dumps(dataset.to_json()))
        client.hset(keys.dataset(dataset.id), "created_at", "2026-01-01T00:00:00+00:00")
    budget = {"path": STITCHED}
    both = empty.post("/models", json={"budget": budget, "fine_tune": {"dataset": dataset.id}})
    assert both.status_code == 202, both.text
    assert both.json()["member"]["path"] == STITCHED
    assert both.json()["model_args"]["stages"][1]["embed_dim"] == 48
    job = empty.post("/fine-tunes", json={"budget": budget, "dataset": dataset.id})
    assert (job.status_code, job.json()["model"]) == (202, both.json()["id"])
    again = empty.post("/fine-tunes", json={"model": both.json()["id"], "dataset": dataset.id, "settings": {"freeze": 3}})
    assert again.status_code == 202
    too_many = empty.post("/fine-tunes", json={"model": both.json()["id"], "dataset": dataset.id, "settings": {"freeze": 4}})
    assert too_many.status_code == 422
    wrong = empty.post("/fine-tunes", json={"budget": {"path": "0.0-9"}, "dataset": dataset.id})
    assert wrong.status_code == 422
    assert "budget.path" in wrong.text


def test_a_fine_tuned_stitched_model_has_its_card(
    api: TestClient, files: list[Path], redis_url: str, tmp_path: Path, data_dir: Path
) -> None:
    """Its stages, the import in the example, and the same routes as any other."""
    base = create(api, learngene="tiny-pool", budget={"path": STITCHED})
    shop = Workshop(
        redis_url=f"{redis_url}?db=2",
        objects=ObjectStore((data_dir / "objects").as_uri()),
        learngenes=files,
        folder=tmp_path,
    )
    model = shop.publish(base["id"])
    resource = api.get(f"/models/{model.id}").json()
    assert (resource["architecture"], resource["member"]["path"]) == ("tleg_stitched_vit", STITCHED)
    assert resource["params"] == sum(tensor.size for tensor in load(api.get(resource["links"]["weights"]).content).values())
    card = api.get(f"/tleg/{model.id}/resolve/main/README.md").text
    for text in ("import tleg_core.training.stitched_vit", "| 1 | 1 | 48 | 3 |", "format=onnx", "petals"):
        assert text in card
    config = api.get(f"/tleg/{model.id}/resolve/main/config.json").json()
    assert (config["num_classes"], config["num_features"], config["model_args"]) == (3, 48, resource["model_args"])


@pytest.mark.slow
def test_clients_load_stitched_members_after_one_import(server: ServerProcess, files: list[Path], tmp_path: Path) -> None:
    """timm and transformers, by the path's name, and a fine-tuned one; without the import timm says what it lacks."""
    with Client(server.url) as client:
        client.publish_learngene(files[0])
        try:
            name = f"tleg/tiny-pool-p{STITCHED}"
            by_path = tmp_path / "by-path.safetensors"
            by_path.write_bytes(httpx.get(f"{server.url}/{name}/resolve/main/model.safetensors").content)
            created = httpx.post(f"{server.url}/models", json={"budget": {"path": STITCHED}}).json()
            shop = Workshop(
                redis_url=running_url(server.data_dir),
                objects=ObjectStore((server.data_dir / "objects").as_uri()),
                learngenes=files,
                folder=tmp_path,
            )
            tuned = shop.publish(created["id"])
            arguments = (name, str(by_path), f"tleg/{tuned.id}", str(shop.file(tuned)))
            result = hub_client("stitched", *arguments, endpoint=server.url, home=tmp_path / "home")
        finally:
            client.delete_learngene("tiny-pool")
    assert "tleg_stitched_vit" in result["refusal"]
    assert [entry["shape"] for entry in result["loaded"]] == [[2, 10], [2, 3]]
    for entry in result["loaded"]:
        assert entry["equal"]
        assert entry["difference"] < 1e-5
        assert entry["pretrained"] == [3, 32, 32]
