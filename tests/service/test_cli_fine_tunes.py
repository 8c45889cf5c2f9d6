"""`tleg datasets` and `tleg fine-tunes` against a real server; the worker's part is played by the test."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from service.api.schemas.fine_tunes import FineTuneResource, FineTuneSettingsBody
from service.api.schemas.jobs import EventResource
from service.cli import job_watch
from service.client import Client, ClientError
from service.domain.job import JobError
from service.storage.embedded_redis import running_url
from service.storage.object_store import ObjectStore
from tests.service import jobs
from tests.service.archives import animated, pets, zipped
from tests.service.commands import Tleg, assert_fits, assert_one_line_error, work_before_events
from tests.service.fine_tuned import Workshop
from tests.service.jobs import START, Store
from tests.service.server import ServerProcess


@pytest.fixture(scope="module")
def dataset(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a data set on the server."""
    path = tmp_path_factory.mktemp("pets") / "pets.zip"
    path.write_bytes(zipped(pets()))
    with Client(server.url) as client:
        return client.upload_dataset(path).id


@pytest.fixture
def job(server: ServerProcess, dataset: str) -> str:
    """The id of a queued job."""
    body = {"budget": {"depth": 2}, "learngene": "tiny-tleg", "dataset": dataset, "settings": {"epochs": 2}}
    answer = httpx.post(f"{server.url}/fine-tunes", json=body)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def work(server: ServerProcess, job_id: str, *, error: str | None = None) -> None:
    """Do a worker's part: two epochs, and the end; the job's first attempt ends with its worker."""

    async def worker(store: Store) -> None:
        claim = await store.claim(job_id, "w1")
        assert claim is not None
        await store.died(claim, "killed by signal 9")
        claim = await store.claim(job_id, "w2")
        assert claim is not None
        settings = dict(claim.job.spec.settings)
        await store.started(claim, settings, START)
        for epoch in (1, 2):
            step = {"epoch": epoch - 1, "step": 5 * epoch, "steps": 10, "images_per_s": 123.4, "metrics": {"train_loss": 2.5}}
            await store.report(claim, replace(START, step=5 * epoch), event=("progress", step))
            metrics = {"train_loss": 2.0, "loss": 1.5, "top1": 0.25 * epoch, "top5": 1.0}
            facts = {"epoch": epoch, "step": 5 * epoch, "metrics": metrics}
            await store.report(claim, replace(START, epoch=epoch, step=5 * epoch, metrics=metrics), event=("epoch", facts))
        await store.report(claim, START, event=("log", {"message": "the batch was \x1b[31mhalved"}))
        end = replace(START, epoch=2, step=10, metrics={"top1": 0.5})
        if error is not None:
            await store.fail(claim, JobError(code="out_of_memory", message=error))
        else:
            await store.succeed(claim, "m-" + "2" * 32, end)

    jobs.run(running_url(server.data_dir), worker)


def test_an_upload_says_what_it_is_and_what_was_refused(online: Tleg, tmp_path: Path) -> None:
    """As a table that fits, and as the API's JSON; list and get agree."""
    path = tmp_path / "my \x1b[31mpets.zip"
    files = {f"animals/{name}": content for name, content in pets().items()}
    bad = {"animals/cat/moving.gif": animated("PNG"), "animals/dog/cut.png": files["animals/dog/0.img"][:80]}
    path.write_bytes(zipped(files | bad))
    shown = online("datasets", "upload", path)
    assert shown.code == 0, shown.err
    assert_fits(shown.out)
    assert "\x1b" not in shown.out
    assert re.search(r"images +6 to train, 0 to test, in 2 classes", shown.out)
    assert re.search(r"refused +2: .*1 animated", shown.out)
    assert "animals/cat/moving.gif" in shown.out
    assert re.search(r"cat +3 +0\n", shown.out)
    uploaded = online("datasets", "upload", path, "--name", "other", "--json").json
    assert uploaded["id"] in shown.out
    assert online("datasets", "get", uploaded["id"], "--json").json == uploaded
    assert online("datasets", "get", uploaded["id"]).out == shown.out
    listed = online("datasets", "list")
    assert uploaded["id"] in listed.out
    assert_fits(listed.out)
    page = online("datasets", "list", "--limit", 1, "--json").json
    assert page["data"][0]["id"] == uploaded["id"]
    assert online("datasets", "delete", uploaded["id"]).code == 0
    assert_one_line_error(online("datasets", "get", uploaded["id"]), uploaded["id"])


def test_a_fine_tune_is_created_listed_and_steered(online: Tleg, dataset: str) -> None:
    """create, get, list, pause, resume and cancel agree with each other."""
    arguments = ("fine-tunes", "create", "--dataset", dataset, "--depth", 2, "--learngene", "tiny-tleg")
    settings = (
        "--epochs",
        2,
        "--lr",
        "1e-4",
        "--clip-grad",
        "none",
        "--freeze",
        -1,
        "--compile",
        "false",
        "--start",
        "scratch",
    )
    created = online(*arguments, *settings, "--start", "scratch", "--json").json
    assert created["requested_settings"] == {
        "epochs": 2,
        "lr": 1e-4,
        "clip_grad": None,
        "freeze": -1,
        "compile": False,
        "start": "scratch",
    }
    job_id = created["id"]
    shown = online("fine-tunes", "get", job_id)
    assert_fits(shown.out)
    for text in (job_id, "queued", dataset, "start scratch"):
        assert text in shown.out
    assert online("fine-tunes", "get", job_id, "--json").json == created
    listed = online("fine-tunes", "list", "--status", "queued", "--dataset", dataset)
    assert re.search(rf"{job_id} +queued +0/2 ", listed.out)
    assert_fits(listed.out)
    assert job_id not in online("fine-tunes", "list", "--status", "paused").out
    assert online("fine-tunes", "pause", job_id).out == f"{job_id} is paused\n"
    assert online("fine-tunes", "resume", job_id).out == f"{job_id} is queued\n"
    assert_one_line_error(online("datasets", "delete", dataset), job_id)
    assert online("fine-tunes", "cancel", job_id).out == f"{job_id} is cancelled\n"
    assert_one_line_error(online("fine-tunes", "resume", job_id), "cancelled")
    assert_one_line_error(online("fine-tunes", "download", job_id), "no result")
    assert online("fine-tunes", "checkpoints", job_id).code == 0
    model = online("models", "create", "--depth", 1, "--learngene", "tiny-tleg", "--json").json["id"]
    one = online("fine-tunes", "create", "--dataset", dataset, "--model", model, "--idempotency-key", dataset, "--json").json
    again = online("fine-tunes", "create", "--dataset", dataset, "--model", model, "--idempotency-key", dataset, "--json").json
    assert (one["id"], one["model"]) == (again["id"], model)
    assert online("fine-tunes", "cancel", one["id"]).code == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--depth", 2, "--epochs", 0), "--epochs: Input should be greater than or equal to 1, not 0"),
        (("--depth", 2, "--epochs", "x"), "--epochs"),
        (("--depth", 2, "--lr", "1e9"), "--lr"),
        (("--depth", 2, "--augmentation", "magic"), "--augmentation"),
        (("--depth", 2, "--save-every-epochs", "1.5"), "--save-every-epochs"),
        (("--depth", 0), "--depth"),
        (("--model", "m-1", "--depth", 3), "--model"),
        (("--model", "m-1", "--learngene", "x"), "learngene"),
        (("--model", "m-1"), "m-1"),
        (("--depth", 2, "--freeze", 3), "freeze"),
    ],
)
def test_a_wrong_setting_is_one_line(online: Tleg, dataset: str, options: tuple[object, ...], named: str) -> None:
    """The line names the option."""
    assert_one_line_error(online("fine-tunes", "create", "--dataset", dataset, *options), named)


@pytest.mark.parametrize("options", [(), ("--learngene", "tiny-tleg"), ("--model", "m-1", "--depth", 2)])
def test_without_one_start_nothing_is_queued(online: Tleg, dataset: str, options: tuple[object, ...]) -> None:
    """Neither a model nor a budget, or both: the line names all that would do."""
    limits = ("--depth", "--max-params", "--max-macs", "--max-flops", "--max-weights-bytes", "--max-memory-bytes")
    assert_one_line_error(online("fine-tunes", "create", "--dataset", dataset, *options), "--model", *limits)


def test_what_is_not_there_can_be_looked_up(online: Tleg) -> None:
    """The line says which command lists what there is."""
    assert_one_line_error(online("fine-tunes", "create", "--dataset", "pets", "--depth", 2), "'pets'", "tleg datasets list")
    for kind in ("models", "datasets", "fine-tunes"):
        assert_one_line_error(online(kind, "get", "x"), "'x'", f"`GET /{kind}` or `tleg {kind} list`")


def test_what_was_chosen_is_said(online: Tleg, dataset: str) -> None:
    """The network of a budget and the settings that were derived, at once and later."""
    created = online("fine-tunes", "create", "--dataset", dataset, "--depth", 2, "--learngene", "tiny-tleg", "--epochs", 3)
    assert created.code == 0, created.err
    assert_fits(created.out)
    first, network, settings = created.out.splitlines()[:3]
    assert re.fullmatch(r"network +tiny-tleg, depth 2, [\d.]+k? parameters *", network)
    assert re.match(r"settings +epochs 3, batch_size \d+, lr [\d.e-]+, ", settings)
    job_id = first.partition(" ")[0]
    assert network.removeprefix("network").strip() in online("fine-tunes", "get", job_id).out
    assert online("fine-tunes", "cancel", job_id).code == 0


def test_a_top_5_of_few_classes_is_not_shown(online: Tleg, server: ServerProcess, job: str) -> None:
    """Of two classes it is always 100 %."""

    async def epoch(store: Store) -> None:
        claim = await store.claim(job, "w1")
        assert claim is not None
        await store.started(claim, dict(claim.job.spec.settings), START)
        await store.report(claim, replace(START, epoch=1, step=5, metrics={"top1": 0.5, "top5": 1.0}), event=("epoch", {}))

    jobs.run(running_url(server.data_dir), epoch)
    shown = online("fine-tunes", "get", job).out
    assert "top-1 50.00 %" in shown
    assert "top-5" not in shown
    assert "1 of 2 epochs done" in shown
    assert online("fine-tunes", "cancel", job).code == 0


def test_listed_models_tell_checkpoints_apart(
    online: Tleg, server: ServerProcess, learngene_files: list[Path], tmp_path: Path
) -> None:
    """By the data set, the epochs and the held-out accuracy, in one line each."""
    base = online("models", "create", "--depth", 1, "--learngene", "tiny-tleg", "--json").json["id"]
    workshop = Workshop(
        redis_url=running_url(server.data_dir),
        objects=ObjectStore((server.data_dir / "objects").as_uri()),
        learngenes=learngene_files,
        folder=tmp_path,
    )
    tuned = {epoch: workshop.publish(base, epoch=epoch, seed=epoch).id for epoch in (1, 8)}
    listed = online("models", "list", "--limit", 2).out
    assert_fits(listed)
    for epoch, model_id in tuned.items():
        assert re.search(rf"{model_id} +1 +\S+ +petals epoch {epoch}, 87\.50 % *\n", listed)
    for epoch, words in ((1, "1 epoch"), (8, "8 epochs")):
        assert f" on petals, {words}\n" in online("models", "get", tuned[epoch]).out


def test_every_setting_has_an_option(tleg: Tleg) -> None:
    """With the API's description."""
    shown = tleg("fine-tunes", "create", "--help").out
    for name in FineTuneSettingsBody.model_fields:
        assert f"--{name.replace('_', '-')} " in shown


def test_watch_prints_a_line_for_each_epoch_and_ends_with_the_job(
    online: Tleg, server: ServerProcess, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 0, the accuracy and the resulting model; no control characters of a server's messages."""
    with monkeypatch.context() as patch:
        work_before_events(patch, lambda: work(server, job))
        outcome = online("fine-tunes", "watch", job)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert_fits(outcome.out)
    assert lines[:2] == ["queued", "running"]
    assert any(line.startswith("running, attempt 2") for line in lines)
    assert [line for line in lines if line.startswith("epoch")] == [
        "epoch 1/2  loss 2.000  top-1 25.00 %  123 img/s",
        "epoch 2/2  loss 2.000  top-1 50.00 %  123 img/s",
    ]
    assert "\x1b" not in outcome.out
    assert "halved" in outcome.out
    assert lines[-2:] == ["succeeded, top-1 50.00 % on held-out images", "model m-" + "2" * 32]
    events = [json.loads(line) for line in online("fine-tunes", "watch", job, "--json").out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_watching_a_job_that_fails_ends_with_code_1(online: Tleg, server: ServerProcess, job: str) -> None:
    """And its reason."""
    work(server, job, error="no memory is left")
    outcome = online("fine-tunes", "watch", job)
    assert outcome.code == 1
    assert outcome.err == f"error: {job} failed: no memory is left (out_of_memory)\n"
    assert re.fullmatch(rf"{job} has ended, [\d: -]+\n", outcome.out)


def test_watching_a_job_that_has_ended_tells_its_end_alone(online: Tleg, server: ServerProcess, job: str) -> None:
    """When, how, and where the result is; not what it went through."""
    work(server, job)
    outcome = online("fine-tunes", "watch", job)
    assert outcome.code == 0, outcome.err
    assert_fits(outcome.out)
    first, *rest = outcome.out.splitlines()
    assert re.fullmatch(rf"{job} has ended, [\d: -]+", first)
    assert rest == ["succeeded, top-1 50.00 % on held-out images", "model m-" + "2" * 32]
    assert outcome.err == f"download it with `tleg fine-tunes download {job}`\n"


def test_watching_a_job_that_is_cancelled_ends_with_code_1(online: Tleg, server: ServerProcess, job: str) -> None:
    """Wherever it was cancelled."""
    cancelling = threading.Timer(0.3, httpx.post, (f"{server.url}/fine-tunes/{job}/cancel",))
    cancelling.start()
    outcome = online("fine-tunes", "watch", job)
    cancelling.join()
    assert (outcome.code, outcome.err) == (1, f"error: {job} was cancelled\n")


def test_watching_a_paused_job_says_how_to_go_on(
    online: Tleg, server: ServerProcess, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be watched for long."""
    assert online("fine-tunes", "pause", job).code == 0

    def go_on() -> None:
        httpx.post(f"{server.url}/fine-tunes/{job}/resume")
        work(server, job)

    work_before_events(monkeypatch, go_on)
    outcome = online("fine-tunes", "watch", job)
    assert outcome.code == 0, outcome
    assert outcome.err.startswith(f"it is paused; `tleg fine-tunes resume {job}` goes on with it\n")


def test_a_server_that_is_away_is_said_once(
    online: Tleg, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where lines are printed: until it is back, and again when it goes again."""
    resource = FineTuneResource.model_validate(online("fine-tunes", "get", job, "--json").json)
    monkeypatch.setattr(job_watch, "err", Console(stderr=True, width=80))
    event = EventResource(seq=1, at=datetime.now(UTC), kind="status", facts={"status": "running"})
    with job_watch._Display(resource, quiet=False) as display:
        for _ in range(3):
            display.lose(ClientError("no answer"))
        display.show(event)
        display.lose(ClientError("no answer"))
    assert capsys.readouterr().err == "waiting: no answer\n" * 2


def test_ctrl_c_leaves_the_job_running(online: Tleg, server: ServerProcess, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says how to come back."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.cli.job_watch._Display.show", interrupted)
    outcome = online("fine-tunes", "watch", job)
    assert outcome.code == 130
    assert f"tleg fine-tunes watch {job}" in outcome.err
    assert httpx.get(f"{server.url}/fine-tunes/{job}").json()["status"] == "queued"
