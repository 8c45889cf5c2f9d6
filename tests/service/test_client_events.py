"""The client's events, through connections that are cut, servers that restart and 503s: each exactly once, in order."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.api.schemas.jobs import EventResource
from service.client import AsyncClient, Client, ClientError, FineTuneError, WaitTimeoutError
from service.domain.job import FineTuneSpec, JobError
from service.storage import keys
from tests.service import jobs
from tests.service.cutting_proxy import CuttingProxy
from tests.service.jobs import START, Store
from tests.service.server import ServerProcess
from tleg_core.fine_tuning import FineTuneFacts, FineTuneSettings

FACTS = FineTuneFacts(num_train=64, num_classes=2, has_test_split=False, img_size=28, depth=3, same_classes=False)
SETTINGS = FineTuneSettings.resolve({"epochs": 3}, FACTS).to_json()
SPEC = FineTuneSpec(model="m-" + "1" * 32, dataset=jobs.DATASET, settings=SETTINGS, requested={"epochs": 3})
REPORTS = 60

Collect = Callable[[str, str], list[EventResource]]


@pytest.fixture(scope="module")
def store_url(redis_url: str) -> str:
    """A database of its own, with a data set that jobs can name."""
    url = f"{redis_url}?db=5"

    async def prepare(store: Store) -> None:
        await store.redis.flushdb()
        await store.redis.hset(keys.dataset(jobs.DATASET), "record", "{}")

    jobs.run(url, prepare)
    return url


@pytest.fixture(scope="module")
def idle_server(
    store_url: str, learngene_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`tleg serve` without a worker, on that database."""
    data_dir = tmp_path_factory.mktemp("idle") / "data"
    with ServerProcess(data_dir, learngene_files[:1], TLEG_WORKERS="0", TLEG_REDIS_URL=store_url) as process:
        yield process
        assert "Traceback" not in process.log.read_text()


def collect(url: str, job_id: str) -> list[EventResource]:
    """Read a job's events to its end."""
    with Client(url) as client:
        return list(client.events(job_id))


def collect_async(url: str, job_id: str) -> list[EventResource]:
    """Read a job's events to its end, awaiting."""

    async def read() -> list[EventResource]:
        async with AsyncClient(url) as client:
            return [event async for event in client.events(job_id)]

    return asyncio.run(read())


def work(url: str, job_id: str, *, reports: int = REPORTS, pause_s: float = 0.01, fails: bool = False) -> None:
    """Do what a worker does: claim the job, report, and end it."""

    async def worker(store: Store) -> None:
        claim = await store.claim(job_id, "w1")
        assert claim is not None
        await store.started(claim, SETTINGS, START)
        for step in range(reports):
            await asyncio.sleep(pause_s)
            facts = {"epoch": step, "message": "Δ\u2028" * (step % 7)}  # lines that only SSE's own rules split
            await store.report(claim, replace(START, step=step), event=("epoch", facts))
        if fails:
            await store.fail(claim, JobError(code="out_of_memory", message="no memory is left"))
        else:
            await store.succeed(claim, "m-" + "2" * 32, START)

    jobs.run(url, worker)


def new_job(url: str) -> str:
    """Return the id of a new job."""
    return jobs.run(url, lambda store: store.created(SPEC)).id


def assert_all_events(store_url: str, job_id: str, seen: list[EventResource]) -> None:
    """What was seen is what the store has, in its order."""
    there = jobs.run(store_url, lambda store: store.events(job_id, after=0, limit=10_000))
    assert [event.seq for event in seen] == list(range(1, len(there) + 1))
    assert seen == [EventResource.of(event) for event in there]


@pytest.mark.parametrize("read", [collect, collect_async])
@pytest.mark.parametrize(("cut_after", "busy"), [((400, 2500), 0.0), ((1, 1500), 0.2)], ids=["cut", "cut and 503"])
def test_events_come_once_and_in_order_over_cut_connections(
    idle_server: ServerProcess, store_url: str, read: Collect, cut_after: tuple[int, int], busy: float
) -> None:
    """While they happen, through a proxy that cuts after random numbers of bytes."""
    job_id = new_job(store_url)
    worker = threading.Thread(target=work, args=(store_url, job_id))
    with CuttingProxy(lambda: idle_server.port, cut_after=cut_after, busy=busy) as proxy:
        worker.start()
        seen = read(proxy.url, job_id)
        assert proxy.connections > 5
    worker.join()
    assert_all_events(store_url, job_id, seen)


@pytest.mark.slow
@pytest.mark.parametrize(("read", "signal_number"), [(collect, signal.SIGKILL), (collect_async, signal.SIGTERM)])
def test_events_go_on_over_a_restart_of_the_server(
    store_url: str, learngene_files: list[Path], tmp_path: Path, read: Collect, signal_number: int
) -> None:
    """Killed or stopped in order while a client reads; nothing is lost and nothing comes twice."""
    job_id = new_job(store_url)
    environment = {"TLEG_WORKERS": "0", "TLEG_REDIS_URL": store_url}
    server = ServerProcess(tmp_path / "data", learngene_files[:1], **environment)
    worker = threading.Thread(target=work, args=(store_url, job_id), kwargs={"reports": 30, "pause_s": 0.05})

    def restart() -> None:
        time.sleep(0.5)
        server.stop(signal_number=signal_number)
        server.start()

    restarting = threading.Thread(target=restart)
    with server, CuttingProxy(lambda: server.port, cut_after=(10**9, 10**9)) as proxy:
        worker.start()
        restarting.start()
        seen = read(proxy.url, job_id)
        worker.join()
        restarting.join()
        assert proxy.connections > 1
    assert_all_events(store_url, job_id, seen)


def test_events_begin_after_a_number_and_end_at_once_where_all_were_had(idle_server: ServerProcess, store_url: str) -> None:
    """`after`, on a job that has ended."""
    job_id = new_job(store_url)
    work(store_url, job_id, reports=3, pause_s=0)
    with Client(idle_server.url) as client:
        everything = list(client.events(job_id))
        assert list(client.events(job_id, after=3)) == everything[3:]
        assert list(client.events(job_id, after=len(everything))) == []
        page = client.list_events(job_id, after=1, limit=2)
        assert (page.data, page.has_more) == (everything[1:3], True)


def test_leaving_events_early_leaves_the_client_usable(idle_server: ServerProcess, store_url: str) -> None:
    """For both clients: the stream is closed, the next call is answered."""
    job_id = new_job(store_url)
    with Client(idle_server.url) as client:
        for event in client.events(job_id):
            assert event.seq == 1
            break
        assert client.get_fine_tune(job_id).status == "queued"

    async def leave() -> None:
        async with AsyncClient(idle_server.url) as client:
            async with aclosing(client.events(job_id)) as events:
                async for event in events:
                    assert event.seq == 1
                    break
            assert (await client.get_fine_tune(job_id)).status == "queued"

    asyncio.run(leave())


def test_waiting_ends_with_the_job(idle_server: ServerProcess, store_url: str) -> None:
    """With the job where it succeeded, with its error where it failed, and with an error of its own when it takes too long."""
    good, bad, slow = new_job(store_url), new_job(store_url), new_job(store_url)
    with Client(idle_server.url) as client:
        with pytest.raises(WaitTimeoutError, match="still queued"):
            client.wait_for_fine_tune(slow, timeout_s=0.3)
        worker = threading.Thread(target=work, args=(store_url, good), kwargs={"reports": 20})
        worker.start()
        assert client.wait_for_fine_tune(good, timeout_s=20).status == "succeeded"
        worker.join()
        work(store_url, bad, reports=1, fails=True)
        with pytest.raises(FineTuneError, match="no memory is left") as caught:
            client.wait_for_fine_tune(bad)
        assert caught.value.job.error is not None
        assert caught.value.job.error.code == "out_of_memory"
        cancelled = client.cancel_fine_tune(slow)
        assert cancelled.status == "cancelled"
        with pytest.raises(FineTuneError, match="was cancelled"):
            client.wait_for_fine_tune(slow)
        with pytest.raises(ClientError, match="was cancelled"):
            client.download_result(slow, Path("nowhere"))


def stream(*blocks: str, content_type: str = "text/event-stream") -> Callable[[httpx.Request], httpx.Response]:
    """Return a server that sends these blocks to every request."""
    return lambda _: httpx.Response(200, headers={"Content-Type": content_type}, content="".join(blocks).encode())


EVENT = 'id: {0}\nevent: log\ndata: {{"seq": {0}, "at": "2026-01-01T00:00:00Z", "kind": "log", "facts": {{}}}}\n\n'


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (stream("<html>", content_type="text/html"), "something else than events"),
        (stream("data: hello\n\n"), "something else than tleg's events"),
        (stream('data: {"seq": 1, "at": "2026-01-01T00:00:00Z", "kind": "status", "facts": {}}\n\n'), "something else"),
        (stream(EVENT.format(1), EVENT.format(3)), "leaves out the events after 1"),
        (lambda _: httpx.Response(404), "404"),
        (lambda _: httpx.Response(302, headers={"Location": "http://elsewhere/"}), "302"),
    ],
    ids=["page", "text", "no status", "gap", "not found", "redirect"],
)
def test_a_server_that_sends_no_events_is_given_up(
    answer: Callable[[httpx.Request], httpx.Response], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reason, and soon."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with Client("http://server", transport=httpx.MockTransport(answer)) as client, pytest.raises(ClientError, match=message):
        list(client.events("ft-1"))


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    """Without patience: it was never reached."""
    with Client("http://127.0.0.1:1") as client, pytest.raises(ClientError, match="is it running"):
        list(client.events("ft-1"))
