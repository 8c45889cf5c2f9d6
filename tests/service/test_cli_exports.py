"""`tleg exports`, `tleg models download --format` and the clients' verbs on a real server; the test plays the worker."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from service.cli import job_watch
from service.client import AsyncClient, BudgetBody, Client, ClientError, ExportError, ModelRequestBody, WaitTimeoutError
from service.domain.export import ExportFormat
from service.domain.job import JobStatus
from service.storage.embedded_redis import running_url
from service.storage.object_store import ObjectStore
from tests.service.commands import Tleg, assert_fits, assert_one_line_error
from tests.service.exporter import fail, make_file
from tests.service.server import ServerProcess

CONTENT = random.Random(0).randbytes(3_000_000)
_SEEDS = itertools.count(1)


@pytest.fixture
def model(server: ServerProcess) -> str:
    """The id of a model that no other test has."""
    with Client(server.url) as client:
        body = ModelRequestBody(learngene="tiny-tleg", budget=BudgetBody(depth=2), head="random", seed=next(_SEEDS))
        return client.create_model(body).id


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """A thread for the worker's part."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def work_soon(
    server: ServerProcess, model: str, beside: ThreadPoolExecutor, *, error: str | None = None, lost_in: Path | None = None
) -> Future[None]:
    """Wait until an export of the model is queued, and a moment more, then make the file, or one that the server has not."""

    def work() -> None:
        deadline = time.monotonic() + 30
        url = running_url(server.data_dir)
        objects = ObjectStore((lost_in or server.data_dir / "objects").as_uri())
        with Client(server.url) as client:
            while not (jobs := client.list_exports(model=model, status=JobStatus.QUEUED).data):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        time.sleep(0.3)
        if error is None:
            make_file(url, objects, jobs[0].id, CONTENT)
        else:
            fail(url, jobs[0].id, "export_deviates", error)

    return beside.submit(work)


@pytest.mark.parametrize(("name", "suffix"), [("onnx", ".onnx"), ("torch-export", ".pt2")])
def test_download_waits_for_the_worker_and_checks_the_file(
    *,
    online: Tleg,
    server: ServerProcess,
    model: str,
    beside: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    suffix: str,
) -> None:
    """Under the id's name with the format's suffix; the second time it is there at once."""
    monkeypatch.chdir(tmp_path)
    working = work_soon(server, model, beside)
    outcome = online("models", "download", model, "--format", name)
    working.result()
    assert outcome.code == 0, outcome.err
    assert "is queued" in outcome.err
    assert "sha256" in outcome.err
    assert "logits within 1.0e-06" in outcome.err
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_bytes()) == (f"{model}{suffix}", CONTENT)
    again = online("models", "download", model, "--format", name, "-o", tmp_path / "again")
    assert again.code == 0
    assert "queued" not in again.err
    assert (tmp_path / "again").read_bytes() == CONTENT


def test_a_file_that_cannot_be_made_is_one_line(
    online: Tleg, server: ServerProcess, model: str, beside: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """With the job's reason; nothing is written."""
    working = work_soon(server, model, beside, error="its logits deviate by 0.5")
    outcome = online("models", "download", model, "--format", "onnx", "-o", tmp_path / "x.onnx")
    working.result()
    assert outcome.code == 1
    assert "its logits deviate by 0.5 (export_deviates)" in outcome.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_none_is_refused(online: Tleg, model: str, server: ServerProcess, tmp_path: Path) -> None:
    """Before anything is asked of the server."""
    outcome = online("models", "download", model, "--format", "pickle")
    assert outcome.code == 2
    assert "torch-export" in outcome.err
    with Client(server.url) as client, pytest.raises(ClientError, match="must be one of safetensors, onnx, torch-export"):
        client.download(model, tmp_path / "x", format="pickle")
    nobody = "m-" + "0" * 32
    assert_one_line_error(online("models", "download", nobody, "--format", "onnx"), nobody)


def test_a_file_that_is_gone_before_it_is_fetched_is_waited_for_again(
    server: ServerProcess, model: str, beside: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """A job may have succeeded and its file be deleted already; but not for ever, and what stands in the way itself is said."""
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "x.onnx"
    with Client(server.url) as client:
        working = [work_soon(server, model, beside, lost_in=elsewhere) for _ in range(2)]
        working.append(work_soon(server, model, beside))
        job = client.download_export(model, target, ExportFormat.ONNX)
        assert [work.result() for work in working] == [None] * 3
        assert target.read_bytes() == CONTENT
        assert client.export_model(model, ExportFormat.ONNX).id == job.id
        working = [work_soon(server, model, beside, lost_in=elsewhere) for _ in range(3)]
        with pytest.raises(ClientError, match=r"deleted the torch-export file of .* 3 times"):
            client.download_export(model, tmp_path / "y.pt2", ExportFormat.TORCH_EXPORT)
        assert [work.result() for work in working] == [None] * 3
        with pytest.raises(ClientError, match="cannot be written"):
            client.download_export(model, tmp_path / "nowhere" / "z", ExportFormat.ONNX)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "x.onnx"]


def test_both_clients_wait_and_download(server: ServerProcess, model: str, beside: ThreadPoolExecutor, tmp_path: Path) -> None:
    """The job is shown while it is waited for; with too little time it goes on, and can be asked for again."""
    seen: list[JobStatus] = []
    with Client(server.url) as client:
        with pytest.raises(WaitTimeoutError):
            client.download(model, tmp_path / "x", format="onnx", timeout_s=0)
        job = client.export_model(model, ExportFormat.ONNX)
        assert client.get_export(job.id).status is JobStatus.QUEUED
        working = work_soon(server, model, beside)
        done = client.download(model, tmp_path / "x", format="onnx", waiting=lambda job: seen.append(job.status))
        working.result()
        assert done.id == model
        assert JobStatus.QUEUED in seen
        assert client.wait_for_export(job.id).result is not None

    async def use() -> None:
        async with AsyncClient(server.url) as client:
            await client.download(model, tmp_path / "y", format="onnx")
            working = work_soon(server, model, beside, error="too large")
            with pytest.raises(ExportError, match="too large"):
                await client.download(model, tmp_path / "z", format="torch-export")
            working.result()

    asyncio.run(use())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": CONTENT, "y": CONTENT}


def test_ctrl_c_leaves_the_export_on_the_server(online: Tleg, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not wait is told that it goes on, and how to come back."""

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)  # between two looks at the job
    outcome = online("models", "download", model, "--format", "onnx")
    assert outcome.code == 130
    assert "is queued, and stays on the server" in outcome.err


def test_an_export_from_its_creation_to_its_file(
    *,
    online: Tleg,
    server: ServerProcess,
    model: str,
    beside: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Created, watched, listed, shown, downloaded: each says what comes next."""
    monkeypatch.chdir(tmp_path)
    created = online("exports", "create", model)
    job_id = created.out.split()[0]
    assert created.out == f"{job_id} is queued\n"
    assert f"tleg exports watch {job_id}" in created.err
    early = online("exports", "download", job_id)
    assert_one_line_error(early, f"{job_id} is queued; it has no result yet")
    working = work_soon(server, model, beside)
    watched = online("exports", "watch", job_id)
    working.result()
    assert watched.code == 0, watched.err
    assert [line for line in watched.out.splitlines() if line in ("queued", "running", "succeeded")] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert f"{len(CONTENT):,} bytes" in watched.out
    assert f"tleg exports download {job_id}" in watched.err
    assert "paused" not in watched.err
    for command in (("list", "--model", model), ("get", job_id), ("show", job_id), ("create", model), ("watch", job_id)):
        shown = online("exports", *command)
        assert shown.code == 0, shown.err
        assert_fits(shown.out)
        assert job_id in shown.out  # whole
    assert "epoch" not in online("exports", "get", job_id).out
    assert online("exports", "download", job_id).code == 0
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_bytes()) == (f"{model}.onnx", CONTENT)


def test_an_export_is_held_continued_and_ended(
    online: Tleg, server: ServerProcess, model: str, beside: ThreadPoolExecutor
) -> None:
    """By the verbs that all jobs have; one that was cancelled or failed is queued again by whoever creates it."""
    job = json.loads(online("exports", "create", model, "--format", "torch-export", "--json").out)
    assert (job["model"], job["format"]) == (model, "torch-export")
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert online("exports", verb, job["id"]).out == f"{job['id']} is {status}\n"
        again = online("exports", "create", model, "--format", "torch-export") if status == "paused" else None
        assert again is None or f"resume it with `tleg exports resume {job['id']}`" in again.err
        listed = json.loads(online("exports", "list", "--model", model, "--status", status, "--json").out)
        assert [entry["id"] for entry in listed["data"]] == [job["id"]]
    ended = online("exports", "download", job["id"])
    assert_one_line_error(ended, f"{job['id']} is cancelled; it has no result")
    working = work_soon(server, model, beside, error="its logits deviate by 0.5")
    failed = online("exports", "create", model, "--format", "torch-export", "--watch")
    working.result()
    assert failed.code == 1
    assert "its logits deviate by 0.5 (export_deviates)" in failed.err.splitlines()[-1]


def test_the_bar_of_an_export_counts_no_epochs(
    online: Tleg, server: ServerProcess, model: str, beside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(job_watch, "out", terminal)
    working = work_soon(server, model, beside)
    assert online("exports", "create", model, "--watch").code == 0
    working.result()
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "queued" in shown
    assert "epoch" not in shown


def test_a_download_says_that_its_export_is_held(
    online: Tleg, server: ServerProcess, model: str, beside: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """And how it goes on, or it would wait without a word; it does wait."""
    job_id = online("exports", "create", model).out.split()[0]
    online("exports", "pause", job_id)

    def work() -> None:
        time.sleep(0.5)
        with Client(server.url) as client:
            client.resume_export(job_id)
        make_file(running_url(server.data_dir), ObjectStore((server.data_dir / "objects").as_uri()), job_id, CONTENT)

    working = beside.submit(work)
    outcome = online("models", "download", model, "--format", "onnx", "-o", tmp_path / "x.onnx")
    working.result()
    assert outcome.code == 0, outcome.err
    assert f"{job_id} is paused; `tleg exports resume {job_id}` goes on with it" in outcome.err


def test_both_clients_have_every_verb(server: ServerProcess, model: str) -> None:
    """The asynchronous one, and the other."""
    with Client(server.url) as other:
        job = other.export_model(model, ExportFormat.TORCH_EXPORT)
        assert [entry.id for entry in other.list_exports(model=model).data] == [job.id]
        assert other.pause_export(job.id).status is JobStatus.PAUSED
        assert other.resume_export(job.id).status is JobStatus.QUEUED
        assert other.cancel_export(job.id).status is JobStatus.CANCELLED

    async def use() -> None:
        async with AsyncClient(server.url) as client:
            job = await client.export_model(model, ExportFormat.ONNX)
            assert job.id in [entry.id for entry in (await client.list_exports(model=model)).data]
            assert (await client.pause_export(job.id)).status is JobStatus.PAUSED
            assert (await client.resume_export(job.id)).status is JobStatus.QUEUED
            assert (await client.cancel_export(job.id)).status is JobStatus.CANCELLED
            assert (await client.list_exports(model=model, status=JobStatus.QUEUED)).data == []

    asyncio.run(use())
