"""`tleg trainings` and the clients' verbs against a real server; the worker's part is played by the test."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
from rich.console import Console

from service.api.schemas.jobs import EventResource
from service.api.schemas.trainings import TrainingResource
from service.cli import job_watch
from service.client import AsyncClient, Client, TrainingBody, TrainingError
from service.domain.job import JobError
from service.storage.embedded_redis import running_url
from tests.service import jobs
from tests.service.archives import pets, zipped
from tests.service.commands import Tleg, assert_fits, assert_one_line_error, work_before_events
from tests.service.jobs import START, Store
from tests.service.server import ServerProcess

_NUMBERS = itertools.count(1)
SETS = ("--set", "training.epochs=2", "--set", "network.img_size=8", "--set", "network.patch_size=4", "--set", "depths.train=3")


@pytest.fixture(scope="module")
def dataset(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a data set on the server."""
    path = tmp_path_factory.mktemp("pets") / "pets.zip"
    lions = {name.replace("cat", "lion"): content for name, content in pets().items()}  # another data set than others test with
    path.write_bytes(zipped(lions))
    with Client(server.url) as client:
        return client.upload_dataset(path).id


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"pets-{next(_NUMBERS)}"


BY_DEPTH = {"top1_depth_2": 0.2, "top1_depth_1": 0.1}


def work(
    server: ServerProcess, job_id: str, *, error: str | None = None, members: Mapping[str, float] = MappingProxyType(BY_DEPTH)
) -> None:
    """Do a worker's part: two epochs, and the end."""

    async def worker(store: Store) -> None:
        claim = await store.claim(job_id, "w1")
        assert claim is not None
        await store.started(claim, claim.job.spec.settings, START)
        metrics: dict[str, float] = {}
        for epoch in (1, 2):
            metrics = {"train_loss": 2.0, "loss": 1.5, "top1": 0.25 * epoch, **members}
            facts = {"epoch": epoch, "step": 5 * epoch, "metrics": metrics}
            await store.report(claim, replace(START, epoch=epoch, step=5 * epoch, metrics=metrics), event=("epoch", facts))
        if error is not None:
            await store.fail(claim, JobError(code="training_diverged", message=error))
        else:
            await store.succeed(claim, "d" * 64, replace(START, epoch=2, step=10, metrics=metrics))

    jobs.run(running_url(server.data_dir), worker)


def test_a_training_is_created_listed_and_steered(online: Tleg, dataset: str, name: str, tmp_path: Path) -> None:
    """create, list, get, show, pause, resume and cancel agree with each other; a file and --set are one configuration."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[training]\nepochs = 9\nlr = 0.001\n[depths]\nrule = 'uniform'\n")
    arguments = ("trainings", "create", "--name", name, "--dataset", dataset, "--config", recipe, *SETS, "--licence", "MIT")
    created = online(*arguments, "--json").json
    assert created["requested"]["config"]["training"] == {"epochs": 2, "lr": 0.001}
    assert (created["config"]["depths"]["rule"], created["config"]["depths"]["train"]) == ("uniform", 3)
    job_id = created["id"]
    for command in ("get", "show"):
        shown = online("trainings", command, job_id)
        assert_fits(shown.out)
        for text in (job_id, "queued", name, dataset, "epochs 2", "none: labels alone"):
            assert text in shown.out
    assert online("trainings", "show", job_id, "--json").json == created
    listed = online("trainings", "list", "--status", "queued", "--dataset", dataset)
    assert name in listed.out
    assert_fits(listed.out)
    assert job_id in [job["id"] for job in online("trainings", "list", "--json").json["data"]]
    assert job_id not in online("fine-tunes", "list").out
    assert_one_line_error(online("fine-tunes", "get", job_id), "no fine-tune")
    assert_one_line_error(online(*arguments), job_id)
    assert online("trainings", "pause", job_id).out == f"{job_id} is paused\n"
    assert online("trainings", "resume", job_id).out == f"{job_id} is queued\n"
    assert online("trainings", "cancel", job_id).out == f"{job_id} is cancelled\n"
    assert_one_line_error(online("trainings", "resume", job_id), "cancelled")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--set", "training.epochs=0"), "config.training.epochs"),
        (("--set", "epochs=3"), "training.epochs=3"),
        (("--recipe", "nobody"), "recipe"),
        (("--teacher", "m-" + "0" * 32), "teacher"),
        (("--holdout", "2"), "holdout"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(online: Tleg, dataset: str, name: str, arguments: tuple[str, ...], named: str) -> None:
    """By the place in the request."""
    assert_one_line_error(online("trainings", "create", "--name", name, "--dataset", dataset, *arguments), named)


def test_watching_says_the_accuracy_of_each_depth(
    online: Tleg, server: ServerProcess, dataset: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each epoch, and what came of it; afterwards the latter alone; as JSON every event."""
    job_id = online("trainings", "create", "--name", name, "--dataset", dataset, *SETS, "--json").json["id"]
    with monkeypatch.context() as patch:
        work_before_events(patch, lambda: work(server, job_id))
        shown = online("trainings", "watch", job_id)
    assert shown.code == 0, shown.err
    assert re.search(r"epoch 2/2 +loss 2\.000 +top-1 50\.00 % +depth 1 10\.00 % +depth 2 20\.00 %", shown.out)
    assert "depth 3: top-1 50.00 % on held-out images" in shown.out
    assert shown.out.endswith(f"learngene {name}\n")
    first, *rest = online("trainings", "watch", job_id).out.splitlines()
    assert re.fullmatch(rf"{job_id} has ended, \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d", first)
    assert rest == shown.out.splitlines()[-len(rest) :]
    assert rest[0] == "succeeded"
    events = [json.loads(line) for line in online("trainings", "watch", job_id, "--json").out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert "depth 1 10.00 %, depth 2 20.00 %, depth 3 50.00 %" in online("trainings", "get", job_id).out.replace("\n", " ")


def test_the_bar_the_rate_and_the_time_left_stay_beside_many_members(
    online: Tleg, dataset: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal of 80 columns; the members' numbers do not stand there."""
    job_id = online("trainings", "create", "--name", name, "--dataset", dataset, *SETS, "--json").json["id"]
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
    monkeypatch.setattr(job_watch, "out", terminal)
    members = {f"top1_depth_{depth}": 0.25 for depth in range(1, 12)} | {"top1_path_0.0-5": 0.25}
    measured = {"epoch": 1, "metrics": {"train_loss": 2.0, "top1": 0.5, **members}}
    job = TrainingResource.model_validate(online("trainings", "get", job_id, "--json").json)
    batch_size = job.config["training"]["batch_size"]
    running = {"status": "running"}
    taken = {"step": 3600, "steps": 7200, "images_per_s": float(batch_size)}
    with job_watch._Display(job, quiet=False) as display:  # a real job's events come too fast to be seen
        for kind, facts in (("status", running), ("epoch", measured), ("progress", taken)):
            display.show(EventResource(seq=1, at=datetime.now(UTC), kind=kind, facts=facts))
    assert isinstance(terminal.file, io.StringIO)
    line = next(line for line in reversed(terminal.file.getvalue().splitlines()) if "running" in line)
    assert re.search(rf"running ━{{6,}}[╸ ]* 1/2 epochs  loss 2\.000  top-1 50\.00 %  {batch_size} img/s  1:00:00", line), line


def test_a_pool_is_created_from_a_recipe_or_a_file_and_watched_by_path(
    online: Tleg, server: ServerProcess, dataset: str, name: str, tmp_path: Path
) -> None:
    """An anchor's fields are set by its name, in either; what is measured is said by path."""
    mine = tmp_path / "mine.toml"
    mine.write_text(
        "[pool]\nmethod = 'sn-net'\n"
        "[[anchors]]\nname = 'small'\nembed_dim = 16\nnum_heads = 2\ndepth = 2\n"
        "[[anchors]]\nname = 'large'\nembed_dim = 32\nnum_heads = 2\ndepth = 2\n"
    )
    arguments = ("trainings", "create", "--name", name, "--dataset", dataset, "--set", "training.epochs=1")
    sets = ("--set", "anchors.large.depth=3")
    job = online(*arguments, "--config", mine, *sets, "--json").json
    assert [anchor["depth"] for anchor in job["config"]["anchors"]] == [2, 3]
    assert_one_line_error(online(*arguments, "--config", mine, "--set", "anchors.huge.depth=3"), "anchors.huge.depth")
    batches = ("--set", "training.batch_size=2", "--set", "joint.batch_size=2")
    other = online(*arguments, "--name", f"{name}-b", "--recipe", "sn-net-cifar10", "--set", "anchors.m.depth=5", *batches)
    assert other.code == 0, other.err
    assert "name m, depth 5" in other.out
    assert_fits(online("trainings", "get", job["id"]).out)
    many = {f"top1_path_0.0-1_1.2-{last}": 0.5 for last in range(5, 20)}
    work(server, job["id"], members={"top1_path_0.0-1": 0.2, "top1_path_0.0-0_1.1-2": 0.6} | many)
    shown = online("trainings", "watch", job["id"])
    assert shown.code == 0, shown.err
    assert "path 0.0-0_1.1-2: top-1 60.00 % on held-out images" in shown.out
    assert shown.out.count("held-out") == 12
    assert f"and 5 more: `tleg learngenes show {name}` has them" in shown.out
    assert "path 0.0-1 20.00 %, path 0.0-0_1.1-2 60.00 %" in " ".join(online("trainings", "get", job["id"]).out.split())


def test_watching_a_training_that_fails_ends_with_code_1(online: Tleg, server: ServerProcess, dataset: str, name: str) -> None:
    """And its reason."""
    job_id = online("trainings", "create", "--name", name, "--dataset", dataset, "--json").json["id"]
    work(server, job_id, error="the loss is nan")
    outcome = online("trainings", "watch", job_id)
    assert (outcome.code, outcome.err) == (1, f"error: {job_id} failed: the loss is nan (training_diverged)\n")


def test_both_clients_train_and_wait(server: ServerProcess, dataset: str, name: str) -> None:
    """The same verbs, one blocking, one awaited; events come by the job's id, whatever it makes."""
    with Client(server.url) as client:
        job = client.train_learngene(TrainingBody(name=name, dataset=dataset), idempotency_key=name)
        assert client.train_learngene(TrainingBody(name=name, dataset=dataset), idempotency_key=name).id == job.id
        assert client.pause_training(job.id).status == "paused"
        assert client.resume_training(job.id).status == "queued"
        work(server, job.id)
        done = client.wait_for_training(job.id, timeout_s=20)
        assert done.result is not None
        assert (done.result.learngene, done.accuracy["1"]) == (name, 0.1)
        kinds = [event.kind for event in client.events(job.id)]
        assert kinds.count("epoch") == 2
        assert [event.kind for event in client.list_events(job.id).data] == kinds
        assert client.list_trainings(dataset=dataset).data[0].id == job.id

    async def awaited() -> None:
        async with AsyncClient(server.url) as client:
            other = await client.train_learngene(TrainingBody(name=f"{name}-b", dataset=dataset))
            assert (await client.cancel_training(other.id)).status == "cancelled"
            with pytest.raises(TrainingError, match="was cancelled"):
                await client.wait_for_training(other.id)
            assert (await client.get_training(other.id)).name == f"{name}-b"

    asyncio.run(awaited())
    assert httpx.get(f"{server.url}/learngenes/trainings/{job.id}").json()["status"] == "succeeded"
