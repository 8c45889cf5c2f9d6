"""A job's events, as pages and as Server-Sent Events: each once and in order, whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from redis.asyncio import Redis

from service.api.event_stream import EventStream
from service.domain.job import Job, JobStatus, new_job_id
from service.storage import keys
from tests.service.jobs import DATASET, START, ResultT, Store, run
from tests.service.server import ServerProcess

SSE = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def serving(learngene_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`tleg serve` without a worker: the tests are the worker."""
    with ServerProcess(tmp_path_factory.mktemp("events") / "data", learngene_files) as process:
        with redis.Redis.from_url(redis_of(process)) as client:
            client.hset(keys.dataset(DATASET), "record", "{}")
        yield process


def redis_of(process: ServerProcess) -> str:
    """Return the address of a server's Redis."""
    return f"unix://{process.data_dir}/redis/redis.sock"


@pytest.fixture
def on_store(serving: ServerProcess) -> Callable[[Callable[[Store], Awaitable[ResultT]]], ResultT]:
    """Use the server's store."""
    return lambda use: run(redis_of(serving), use)


@pytest.fixture
def job(on_store: Callable[[Callable[[Store], Awaitable[Job]]], Job]) -> Job:
    """A queued job."""
    return on_store(lambda store: store.created())


async def train(store: Store, job: Job, *, steps: int, pause_s: float = 0.0) -> None:
    """Run a job to its end: its events are queued, running, one for each step, succeeded."""
    claim = await store.claimed(job=job)
    for step in range(1, steps + 1):
        await store.report(claim, replace(START, step=step), event=("epoch", {"step": step, "text": "ü\n\r\n: x\ndata: y" * 3}))
        await asyncio.sleep(pause_s)
    await store.succeed(claim, "m-result", START)


@dataclass
class Reader:
    """A client of Server-Sent Events by the standard: an event counts when its blank line has come."""

    url: str
    events: list[dict[str, Any]] = field(default_factory=list)
    comments: int = 0
    connections: int = 0

    def read(self, cut_after: int | None = None) -> bool:
        """Read one connection, to its end or `cut_after` bytes; return whether there may be more."""
        headers = SSE | ({"Last-Event-ID": str(self.events[-1]["id"])} if self.events else {})
        self.connections += 1
        with httpx.stream("GET", self.url, headers=headers, timeout=40) as answer:
            if answer.status_code == 204:
                return False
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            received, left = b"", cut_after or 2**63
            for block in answer.iter_raw():
                *complete, received = (received + block[:left]).split(b"\n\n")
                self._dispatch(complete)
                left -= len(block)
                if left <= 0:
                    break
        return True

    def _dispatch(self, complete: list[bytes]) -> None:
        for text in complete:
            lines = [line.split(": ", 1) for line in text.decode().split("\n")]
            fields = {name: value for name, value in lines if name}
            self.comments += sum(not name for name, _ in lines)
            if "data" in fields:
                self.events.append({"id": int(fields["id"]), "kind": fields["event"], "data": json.loads(fields["data"])})

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that came."""
        return [event["id"] for event in self.events]


def test_a_stream_gives_every_event_and_ends_with_the_job(serving: ServerProcess, job: Job, on_store: Any) -> None:
    """Those before the connection and those after it; then the stream ends, and asking again is answered 204."""
    trainer = threading.Thread(target=lambda: on_store(lambda store: train(store, job, steps=20, pause_s=0.05)))
    trainer.start()
    reader = Reader(f"{serving.url}/fine-tunes/{job.id}/events")
    assert reader.read()
    trainer.join()
    assert reader.numbers == list(range(1, 24))
    assert [event["kind"] for event in reader.events] == ["status", "status", *["epoch"] * 20, "status"]
    assert reader.events[-1]["data"]["facts"] == {"status": "succeeded", "attempt": 1, "result": "m-result"}
    pages = httpx.get(reader.url, params={"limit": 100}).json()
    assert pages["data"] == [event["data"] for event in reader.events]
    assert not pages["has_more"]
    assert not reader.read()
    assert httpx.get(f"{reader.url}?after=23", headers=SSE).status_code == 204


def test_a_stream_goes_on_after_the_place_that_was_seen(serving: ServerProcess, job: Job, on_store: Any) -> None:
    """Told by the header; by `lastEventId`, which clients send that can set no header; or by `after`: in this order."""
    on_store(lambda store: train(store, job, steps=3))
    url = f"{serving.url}/fine-tunes/{job.id}/events"
    for params, headers, first in (
        ({"after": 2, "lastEventId": 3}, {"Last-Event-ID": "4"}, 5),
        ({"after": 2, "lastEventId": 3}, {}, 4),
        ({"after": 2}, {}, 3),
        ({"lastEventId": 0, "after": 2}, {}, 1),
    ):
        text = httpx.get(url, params=params, headers=SSE | headers).text
        assert re.findall(r"^id: (\d+)$", text, re.MULTILINE) == [str(number) for number in range(first, 7)]


@pytest.mark.slow
def test_a_client_that_is_cut_at_any_byte_gets_every_event_once_in_order(
    serving: ServerProcess, job: Job, on_store: Any
) -> None:
    """Cut a hundred times at random places, while events are written."""
    trainer = threading.Thread(target=lambda: on_store(lambda store: train(store, job, steps=150, pause_s=0.01)))
    trainer.start()
    rng = random.Random(7)
    reader = Reader(f"{serving.url}/fine-tunes/{job.id}/events")
    while reader.read(cut_after=rng.randint(1, 900)):
        pass
    trainer.join()
    assert reader.numbers == list(range(1, 154))
    assert reader.connections > 50


def test_pages_give_every_event_once_in_order(serving: ServerProcess, job: Job, on_store: Any) -> None:
    """Whatever the limit."""
    on_store(lambda store: train(store, job, steps=10))
    for limit in (1, 4, 13, 1000):
        seen: list[int] = []
        more = True
        while more:
            params = {"limit": limit, "after": seen[-1] if seen else 0}
            page = httpx.get(f"{serving.url}/fine-tunes/{job.id}/events", params=params).json()
            seen += [event["seq"] for event in page["data"]]
            more = page["has_more"]
        assert seen == list(range(1, 14))


def test_what_cannot_be_streamed_is_a_problem(serving: ServerProcess, job: Job) -> None:
    """An unknown job, and places that are none."""
    for job_id in (new_job_id(), "nobody"):
        for headers in ({}, SSE):
            assert httpx.get(f"{serving.url}/fine-tunes/{job_id}/events", headers=headers).status_code == 404
    url = f"{serving.url}/fine-tunes/{job.id}/events"
    for place in ("x", "-1", "1.5", str(2**70)):
        assert httpx.get(url, headers=SSE | {"Last-Event-ID": place}).status_code == 422
        assert httpx.get(url, params={"after": place}).status_code == 422


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_stream_outlives_redis(serving: ServerProcess, job: Job, on_store: Any, how: str) -> None:
    """Killed and started again, or silent for longer than a socket waits: the same connection goes on where it was."""
    reader = Reader(f"{serving.url}/fine-tunes/{job.id}/events")
    reading = threading.Thread(target=reader.read)
    reading.start()
    time.sleep(0.5)
    pid = serving.redis_pid()
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
        time.sleep(2)
    else:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(7)
        os.kill(pid, signal.SIGCONT)
    on_store(lambda store: train(store, job, steps=5))
    reading.join(timeout=20)
    assert not reading.is_alive()
    assert (reader.numbers, reader.connections) == (list(range(1, 9)), 1)


def test_a_stream_that_nobody_reads_is_given_up(serving: ServerProcess, job: Job) -> None:
    """A client that left costs nothing more."""
    with httpx.stream("GET", f"{serving.url}/fine-tunes/{job.id}/events", headers=SSE) as answer:
        blocks = answer.iter_raw()  # a name of its own, or its end closes the connection
        next(blocks)
        assert reads(serving) > 0
    time.sleep(0.5)
    assert reads(serving) == 0


def reads(serving: ServerProcess) -> int:
    """Return how often events are read from Redis within a second."""
    with redis.Redis.from_url(redis_of(serving)) as client:
        client.config_resetstat()
        time.sleep(1)
        stats: Any = client.info("commandstats")
        return int(stats.get("cmdstat_xrange", {"calls": 0})["calls"])


@pytest.mark.slow
def test_streams_end_when_the_server_drains(learngene_files: list[Path], tmp_path: Path) -> None:
    """At once, not after the time that downloads get; and a client goes on at the next server without a gap."""
    with ServerProcess(tmp_path / "data", learngene_files) as process:
        with redis.Redis.from_url(redis_of(process)) as client:
            client.hset(keys.dataset(DATASET), "record", "{}")
        job = run(redis_of(process), lambda store: store.created())
        reader = Reader(f"{process.url}/fine-tunes/{job.id}/events")
        reading = threading.Thread(target=reader.read)
        reading.start()
        while not reader.events:
            time.sleep(0.02)
        began = time.monotonic()
        process.stop()
        reading.join()
        assert time.monotonic() - began < 15  # TLEG_DRAIN_TIMEOUT_S is 30
        process.start()
        run(redis_of(process), lambda store: train(store, job, steps=3))
        reader.url = f"{process.url}/fine-tunes/{job.id}/events"
        assert reader.read()
        assert reader.numbers == list(range(1, 7))


# Without a server, where times are short.


def test_a_silent_stream_is_kept_alive_by_comments(serving: ServerProcess, job: Job) -> None:
    """So that no proxy takes it for dead."""

    async def use(store: Store) -> list[bytes]:
        stream = EventStream(store, job.id, after=1, is_draining=lambda: False, keep_alive_s=0.2)
        return [await anext(blocks) for blocks in [stream.blocks()] for _ in range(4)]

    first, *others = run(redis_of(serving), use)
    assert first.startswith(b"retry: ")
    assert all(block.startswith(b": ") and block.endswith(b"\n\n") for block in others)


def test_a_place_beyond_the_last_event_ends_with_the_job(serving: ServerProcess, job: Job) -> None:
    """A client that says it had more than there will ever be does not wait for ever."""

    async def use(store: Store) -> list[bytes]:
        stream = EventStream(store, job.id, after=1000, is_draining=lambda: False, look_at_job_s=0.1)
        reading = asyncio.create_task(collected(stream.blocks()))
        await asyncio.sleep(0.5)
        assert not reading.done()
        assert (await store.cancel(job.id)).status is JobStatus.CANCELLED
        return await asyncio.wait_for(reading, timeout=5)

    assert len(run(redis_of(serving), use)) == 1


async def collected(blocks: AsyncIterator[bytes]) -> list[bytes]:
    """Return all of a stream."""
    return [block async for block in blocks]


def test_a_stream_waits_for_a_redis_that_was_never_there(tmp_path: Path) -> None:
    """It keeps the connection, and ends when the server does."""

    async def use() -> list[bytes]:
        async with Redis.from_url(f"unix://{tmp_path}/nobody.sock", decode_responses=True) as client:
            ends = time.monotonic() + 1
            stream = EventStream(
                Store(client), new_job_id(), after=0, is_draining=lambda: time.monotonic() > ends, keep_alive_s=0.2
            )
            return await collected(stream.blocks())

    assert len(asyncio.run(use())) >= 3
