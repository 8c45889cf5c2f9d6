"""`POST /models` and what can be read of a model afterwards."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from starlette.testclient import TestClient

from service.api.model_intake import HASHED_AT_CREATION_BYTES
from tests.service.commands import Tleg


def create(api: httpx.Client, budget: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Post a request and return the model."""
    answer = api.post("/models", json={"budget": budget or {}} | fields)
    assert answer.status_code in (200, 201), answer.text
    model: dict[str, Any] = answer.json()
    return model


def test_a_model_is_created_once(empty_api: TestClient) -> None:
    """The first request answers 201 with a Location, the same one again 200 with the same model."""
    first = empty_api.post("/models", json={"budget": {"max_params": 100_000}})
    second = empty_api.post("/models", json={"budget": {"max_params": 100_000}})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.headers["Location"] == second.headers["Location"] == f"/models/{first.json()['id']}"
    got = empty_api.get(first.headers["Location"])
    assert got.json() == {name: value for name, value in first.json().items() if name not in ("selected_by", "fine_tune")}
    assert len(empty_api.get("/models").json()["data"]) == 1


def test_equal_requests_in_other_words_are_one_model(empty_api: TestClient) -> None:
    """Limits that lead to the same member, and values equal to the defaults, give the same id."""
    plain = create(empty_api, {"depth": 3}, learngene="tiny-tleg")
    spelled_out = create(
        empty_api,
        {"depth": 3, "max_params": 10**12},
        learngene="tiny-tleg",
        method="tleg",
        num_classes=10,
        image_size=32,
        head="inherit",
        seed=7,  # of no influence: nothing is drawn
        dtype="float32",
    )
    assert plain["id"] == spelled_out["id"]


def test_a_models_id_is_the_digest_of_its_recipe(api: TestClient) -> None:
    """The id can be computed by anyone from the recipe's canonical JSON."""
    model = create(api, {"depth": 2})
    canonical = json.dumps(model["recipe"], sort_keys=True, separators=(",", ":")).encode()
    assert model["id"] == "m-" + hashlib.sha256(canonical).hexdigest()[:32]


def test_a_dry_run_records_nothing(empty_api: TestClient) -> None:
    """`?dry_run=true` says what one would get; the list stays empty and the id unknown."""
    answer = empty_api.post("/models", params={"dry_run": True}, json={"budget": {"depth": 4}})
    assert answer.status_code == 200
    assert "Location" not in answer.headers
    assert answer.json()["created_at"] is None
    assert empty_api.get("/models").json()["data"] == []
    assert empty_api.get(f"/models/{answer.json()['id']}").status_code == 404
    assert create(empty_api, {"depth": 4})["id"] == answer.json()["id"]


def test_the_time_of_creation_is_now_and_stays(empty_api: TestClient) -> None:
    """`created_at` is ISO 8601 with an offset, of the first request."""
    before = datetime.now(UTC)
    first = create(empty_api, {"depth": 1})
    created = datetime.fromisoformat(first["created_at"])
    assert before - timedelta(seconds=1) <= created <= datetime.now(UTC)
    time.sleep(0.01)
    assert create(empty_api, {"depth": 1})["created_at"] == first["created_at"]


COSTS = {
    "max_params": "params",
    "max_macs": "macs",
    "max_flops": "flops",
    "max_weights_bytes": "weights_bytes",
    "max_memory_bytes": "memory_bytes",
}


@pytest.mark.parametrize("limit", COSTS)
def test_each_limit_is_an_upper_limit(api: TestClient, limit: str) -> None:
    """A limit that a member meets exactly gives that member, one less the next smaller."""
    members = api.get("/learngenes/tiny-stagewise").json()["members"]
    for smaller, member in itertools.pairwise(members):
        exact = member[COSTS[limit]]
        fitting = create(api, {limit: exact}, learngene="tiny-stagewise", objective="largest")
        below = create(api, {limit: exact - 1}, learngene="tiny-stagewise", objective="largest")
        assert fitting["member"]["depth"] == member["depth"]
        assert fitting[COSTS[limit]] == exact
        assert below["member"]["depth"] == smaller["depth"]


@pytest.mark.parametrize("limit", [*COSTS, "depth"])
def test_an_infeasible_budget_names_the_limit_and_the_nearest_member(api: TestClient, limit: str) -> None:
    """The answer is a 422 with the binding limit, what it was, what would be needed, and who needs it."""
    value = 1000 if limit == "depth" else 1
    answer = api.post("/models", json={"budget": {limit: value}, "learngene": "tiny-tleg"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "budget_infeasible")
    assert answer.headers["Content-Type"] == "application/problem+json"
    nearest = problem["nearest_feasible"]
    assert (problem["binding_constraint"], problem["limit"]) == (limit, value)
    if limit == "depth":
        assert (problem["required"], nearest["member"]) == (12, {"depth": 12, "path": None})
    else:
        assert (problem["required"], nearest["member"]) == (nearest[COSTS[limit]], {"depth": 1, "path": None})


def test_limits_are_anded(api: TestClient) -> None:
    """All limits hold; the tightest decides."""
    members = {member["depth"]: member for member in api.get("/learngenes/tiny-tleg").json()["members"]}
    model = create(
        api,
        {"max_params": members[9]["params"], "max_macs": members[5]["macs"], "max_weights_bytes": members[7]["weights_bytes"]},
        learngene="tiny-tleg",
        objective="largest",
    )
    assert model["member"]["depth"] == 5


def test_memory_is_of_the_batch_that_the_budget_names(api: TestClient) -> None:
    """A larger batch needs more, so the same limit admits a shallower network."""
    limit = api.get("/learngenes/tiny-tleg").json()["members"][-1]["memory_bytes"]
    one = create(api, {"max_memory_bytes": limit}, learngene="tiny-tleg", objective="largest")
    many = create(api, {"max_memory_bytes": limit, "batch_size": 4}, learngene="tiny-tleg", objective="largest")
    assert one["member"]["depth"] == 12
    assert many["member"]["depth"] < 12
    assert many["memory_bytes"] == api.get(many["links"]["self"]).json()["memory_bytes"]  # a model's own costs: one image


def test_without_limits_the_most_accurate_member_is_chosen(api: TestClient) -> None:
    """The answer says which data set decided."""
    model = create(api)
    assert (model["learngene"], model["member"]["depth"]) == ("tiny-tleg", 11)  # 0.83 on shapes; its depth 12 has 0.80
    assert model["selected_by"] == {"objective": "accuracy", "data_set": "shapes"}
    assert model["accuracy"]["shapes"]["top1"] == pytest.approx(0.83)


def test_the_data_set_that_decides_can_be_named(api: TestClient) -> None:
    """Only what was measured on it is chosen among, whatever was measured on another one."""
    model = create(api, accuracy_on="digits")
    assert (model["learngene"], model["member"]["depth"]) == ("tiny-polynomial", 8)  # 0.95 on digits, 0.70 on shapes
    assert model["selected_by"] == {"objective": "accuracy", "data_set": "digits"}
    assert create(api, {"max_params": model["params"] - 1}, accuracy_on="digits")["member"]["depth"] == 2
    assert create(api, {"depth": 8}, accuracy_on="shapes")["learngene"] == "tiny-tleg"
    answer = api.post("/models", json={"budget": {"depth": 3}, "accuracy_on": "digits"})
    assert (answer.status_code, answer.json()["code"]) == (422, "budget_infeasible")
    assert answer.json()["nearest_feasible"]["learngene"] == "tiny-polynomial"


def test_commands_name_the_data_set_that_decides(tleg: Tleg, online: Tleg, learngene_files: list[Path]) -> None:
    """With a server and without."""
    files = [argument for file in learngene_files for argument in ("--learngene-file", file)]
    rows = json.loads(tleg("budget", *files, "--accuracy-on", "digits", "--json").out)
    assert [(row["learngene"], row["member"]["depth"]) for row in rows if row["chosen"]] == [("tiny-polynomial", 8)]
    model = json.loads(online("models", "create", "--dry-run", "--accuracy-on", "digits", "--json").out)
    assert (model["learngene"], model["selected_by"]["data_set"]) == ("tiny-polynomial", "digits")


def test_an_unknown_data_set_is_answered_with_those_that_decide(api: TestClient) -> None:
    """So is one on which nothing was measured that the request may choose."""
    answer = api.post("/models", json={"accuracy_on": "nothing"})
    assert answer.status_code == 422
    message = "nothing was measured on 'nothing'; there is 'shapes', 'digits'"
    assert answer.json()["errors"] == [{"field": "accuracy_on", "message": message}]
    for learngene, known in (("tiny-tleg", "'shapes'"), ("tiny-stagewise", "none")):
        answer = api.post("/models", json={"accuracy_on": "digits", "learngene": learngene})
        assert answer.json()["detail"].endswith(f"there is {known}")


def test_the_largest_is_chosen_on_demand_and_where_nothing_was_measured(api: TestClient) -> None:
    """`selected_by` is honest about it."""
    largest = create(api, objective="largest", learngene="tiny-tleg")
    assert largest["member"]["depth"] == 12
    assert largest["selected_by"] == {"objective": "largest", "data_set": None}
    unmeasured = create(api, learngene="tiny-stagewise", objective="accuracy")
    assert unmeasured["selected_by"] == {"objective": "largest", "data_set": None}


def test_a_method_narrows_the_choice(api: TestClient) -> None:
    """`method` keeps the learngenes of that method."""
    assert create(api, method="polynomial")["learngene"] == "tiny-polynomial"
    assert create(api, {"depth": 12}, method="stagewise")["learngene"] == "tiny-stagewise"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"learngene": "nobody"}, "learngene"),
        ({"learngene": "tiny-tleg", "method": "stagewise"}, "learngene"),
        ({"image_size": 33}, "image_size"),
        ({"num_classes": 5, "head": "inherit"}, "head"),
        ({"num_classes": 5, "head": "none"}, "head"),
        ({"num_classes": 0, "head": "random"}, "head"),
        ({"objective": "largest", "accuracy_on": "shapes"}, "accuracy_on"),
    ],
)
def test_what_cannot_be_had_is_named(api: TestClient, fields: dict[str, Any], named: str) -> None:
    """Values that are valid by themselves but cannot be met are a 422 that names one of them."""
    answer = api.post("/models", json=fields)
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["errors"]] == [named]


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")])
def test_the_file_has_the_dtype_asked_for(api: TestClient, tmp_path: Any, dtype: str, torch_dtype: str) -> None:
    """Every tensor is of the type, and the bytes of weights follow it."""
    model = create(api, {"depth": 2}, learngene="tiny-tleg", dtype=dtype)
    path = tmp_path / "model.safetensors"
    path.write_bytes(api.get(model["links"]["weights"]).content)
    with safe_open(path, "np") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {torch_dtype}  # noqa: SIM118 (no mapping)
        assert file.metadata()["format"] == "pt"
    assert model["weights_bytes"] == model["params"] * (4 if dtype == "float32" else 2)


def test_heads_are_inherited_zero_drawn_or_none(api: TestClient) -> None:
    """Each kind of head gives the weights that it says."""

    def head(**fields: Any) -> dict[str, torch.Tensor]:
        model = create(api, {"depth": 1}, learngene="tiny-tleg", **fields)
        tensors = load_safetensors(api.get(model["links"]["weights"]).content)
        return {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}

    own = load_safetensors(api.get("/learngenes/tiny-tleg/weights").content)
    assert torch.equal(head()["head.weight"], own["head.weight"])
    assert torch.equal(head(head="inherit")["head.bias"], own["head.bias"])
    assert not head(num_classes=7)["head.weight"].any()
    assert head(num_classes=7)["head.weight"].shape == (7, 32)
    assert not head(head="zero")["head.weight"].any()
    first, again, other = head(head="random", seed=1), head(head="random", seed=1), head(head="random", seed=2)
    assert torch.equal(first["head.weight"], again["head.weight"])
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert head(num_classes=0) == {} == head(head="none")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_classes": 0},
        {"num_classes": 3, "head": "random", "seed": 5},
        {"image_size": 64},
        {"image_size": 8, "dtype": "bfloat16"},
    ],
)
@pytest.mark.parametrize("learngene", ["tiny-tleg", "tiny-polynomial", "tiny-stagewise"])
def test_config_builds_the_very_network_in_timm(api: TestClient, learngene: str, fields: dict[str, Any]) -> None:
    """timm's model by config.json takes the weights strictly, and has the parameters that the answer counts."""
    model = create(api, {"depth": 6}, learngene=learngene, **fields)
    config = api.get(model["links"]["config"]).json()
    assert (config["architecture"], config["model_args"]) == (model["architecture"], model["model_args"])
    network = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    tensors = load_safetensors(api.get(model["links"]["weights"]).content)
    network.load_state_dict(tensors, strict=True)
    assert sum(tensor.numel() for tensor in network.parameters()) == model["params"]
    pretrained = config["pretrained_cfg"]
    assert pretrained["input_size"] == [3, fields.get("image_size", 32), fields.get("image_size", 32)]
    with torch.inference_mode():
        output = network.eval()(torch.zeros(1, *pretrained["input_size"]))
    assert output.shape == (1, config["num_classes"] or 32)


def test_the_digest_in_the_answer_is_the_downloads(api: TestClient) -> None:
    """sha256 and size_bytes are those of the bytes that come."""
    model = create(api, {"depth": 5}, dtype="float16")
    content = api.get(model["links"]["weights"]).content
    assert (model["size_bytes"], model["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_large_files_digest_is_computed_when_it_is_asked_for(http: httpx.Client) -> None:
    """Above 32 MiB the creating answer has null, and GET has the digest of the download."""
    model = create(http, {"depth": 5}, learngene="large-tleg")
    assert model["size_bytes"] > HASHED_AT_CREATION_BYTES
    assert model["sha256"] is None
    digest = hashlib.sha256()
    with http.stream("GET", model["links"]["weights"]) as answer:
        for chunk in answer.iter_raw():
            digest.update(chunk)
    assert http.get(model["links"]["self"]).json()["sha256"] == digest.hexdigest()
    again = create(http, {"depth": 5}, learngene="large-tleg")
    assert again["sha256"] == digest.hexdigest()


def test_models_are_listed_newest_first_in_pages(empty_api: TestClient) -> None:
    """Cursors walk through all models once, in the reverse order of their creation."""
    created = [create(empty_api, {"depth": depth}, learngene="tiny-tleg")["id"] for depth in range(1, 8)]
    create(empty_api, {"depth": 1}, learngene="tiny-tleg")  # there already: it keeps its place
    seen: list[str] = []
    while True:
        page = empty_api.get("/models", params={"limit": 3} | ({"after": seen[-1]} if seen else {})).json()
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        assert len(page["data"]) == 3
    assert seen == created[::-1]
    assert empty_api.get("/models", params={"after": seen[-1]}).json() == {"object": "list", "data": [], "has_more": False}


@pytest.mark.parametrize("after", ["m-" + "0" * 32, "nobody", "", "*", "\x00"])
def test_an_unknown_cursor_of_models_is_refused(api: TestClient, after: str) -> None:
    """`after` must be the id of a model in the list."""
    answer = api.get("/models", params={"after": after})
    assert (answer.status_code, answer.json()["code"]) == (422, "cursor_unknown")


@pytest.mark.parametrize("model_id", ["m-" + "0" * 32, "m-" + "A" * 32, "nobody", "%2e%2e", "x" * 3000, "m-%00", "%ff%fe"])
@pytest.mark.parametrize("tail", ["", "/weights", "/config.json"])
def test_an_unknown_model_is_a_404(api: TestClient, model_id: str, tail: str) -> None:
    """Ids that name nothing, hostile ones too, are a problem with status 404."""
    answer = api.get(f"/models/{model_id}{tail}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_batch_answers_each_request_by_itself(empty_api: TestClient) -> None:
    """One that cannot be met has its error, and its neighbours their models; again they are there already."""
    requests = [
        {"budget": {"depth": 3}},
        {"budget": {"max_params": 1}},
        {"budget": {"depth": 3}},
        {"learngene": "nobody"},
        {"budget": {"depth": 2}, "num_classes": 3},
    ]
    answer = empty_api.post("/models/batch", json={"requests": requests})
    assert answer.status_code == 200
    results = answer.json()["data"]
    assert [result["status"] for result in results] == [201, 422, 200, 422, 201]
    assert [result["model"] is None for result in results] == [False, True, False, True, False]
    assert results[0]["model"] == results[2]["model"] == create(empty_api, {"depth": 3})
    assert results[1]["error"]["code"] == "budget_infeasible"
    assert results[3]["error"]["errors"][0]["field"] == "learngene"
    assert len(empty_api.get("/models").json()["data"]) == 2
    dry = empty_api.post("/models/batch", params={"dry_run": True}, json={"requests": [{"budget": {"depth": 9}}]})
    assert dry.json()["data"][0]["status"] == 200
    assert len(empty_api.get("/models").json()["data"]) == 2


def test_a_model_stays_readable_without_its_learngene(open_api: Any, redis_url: str, learngene_files: Any) -> None:
    """On a server that does not hold the learngene, the record is there, and the file is a 503 that says why."""
    url = f"{redis_url}?db=2"
    with open_api(url) as api:
        model = create(api, {"depth": 3}, learngene="tiny-tleg")
    with open_api(url, learngenes=(learngene_files[1],)) as api:
        assert api.get(model["links"]["self"]).json()["sha256"] == model["sha256"]
        for path in (model["links"]["weights"], model["links"]["config"], f"/api/models/tleg/{model['id']}"):
            answer = api.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "learngene_not_loaded")
            assert "tiny-tleg" in answer.json()["detail"]
