"""The queue as a worker reads it, while Redis is away."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed
from redis.exceptions import ConnectionError as RedisConnectionError

from service.domain.job import Lane
from service.worker import queue
from service.worker.queue import Queue


class _Flaky(Consumer):
    """An empty queue whose Redis is there, or away, look by look."""

    def __init__(self, looks: Iterator[bool]) -> None:
        self._looks = looks

    def __next__(self) -> MessageProxy | None:
        if not next(self._looks):
            raise ConnectionClosed(RedisConnectionError("gone"))  # type: ignore[no-untyped-call]  # dramatiq's
        return None


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of the queue's absences and returns."""
    actions = (getattr(record, "action", None) for record in caplog.records)
    return [action for action in actions if action in ("queue_away", "queue_back")]


def test_each_absence_is_told_once_and_each_return(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not at each look; and the held messages are asked for after each."""
    monkeypatch.setattr(queue, "_AWAY_PAUSE_S", 0.0)
    caplog.set_level(logging.INFO)
    looks = [True, False, False, False, True, True, False, True]
    recoveries: list[int] = []
    recover = partial(recoveries.append, 1)
    consumer = queue._PatientConsumer(_Flaky(iter(looks)), lambda: True, 0.0, recover, queue._Absence())
    assert [next(consumer) for _ in looks] == [None] * len(looks)
    assert told(caplog) == ["queue_away", "queue_back"] * 2
    assert len(recoveries) == 4  # before each look that follows one that failed


def test_one_of_several_consumers_tells(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever meets the absence first; and its end is told when all that met it have an answer again."""
    monkeypatch.setattr(queue, "_AWAY_PAUSE_S", 0.0)
    caplog.set_level(logging.INFO)
    absence = queue._Absence()
    one, other = (
        queue._PatientConsumer(_Flaky(iter(looks)), lambda: True, 0.0, lambda: None, absence)
        for looks in ([False, True, True], [True, False, True])
    )
    said = []
    for consumer in (other, one, other, one, other, one):
        next(consumer)
        said.append(told(caplog))
    assert said == [[], ["queue_away"], ["queue_away"], ["queue_away"], *2 * [["queue_away", "queue_back"]]]


@pytest.mark.parametrize("is_open", [True, False], ids=["free", "busy"])
def test_a_worker_whose_redis_never_answers_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_open: bool
) -> None:
    """However many queues its messages have, and though it fetches none while it has a job."""
    monkeypatch.setattr(queue, "_AWAY_PAUSE_S", 0.02)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening: connections are refused
        reading = Queue(
            f"redis://127.0.0.1:{nobody.getsockname()[1]}",
            lanes=list(Lane),
            heartbeat_s=1.0,
            is_open=lambda: is_open,
            handle=lambda _job: None,
        )
        reading.start()
        try:
            deadline = time.monotonic() + 20
            while not told(caplog):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.5)  # for many more looks
        finally:
            reading.stop(timeout_s=5)
    assert told(caplog) == ["queue_away"]
