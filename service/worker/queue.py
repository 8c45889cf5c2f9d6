"""The queue as a worker reads it: dramatiq on Redis, one message at a time, each with a job's id and nothing else.

A message is a hint (decision 0011): what it says is checked by the claim, so one that comes twice does nothing, and one that is
lost is sent again by the sweep. Messages are written by the job store's scripts, each into its job's lane, which is a queue of
dramatiq's. The lanes are read as one queue (decision 0026).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import dramatiq
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ConnectionClosed
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.domain.job import Lane
from service.storage import keys
from service.storage.job_message import JobMessage

logger = logging.getLogger(__name__)

_QUEUE = "jobs"  # what this process calls all its lanes together
_POLL_MS = 100  # longest pause between two looks at an empty queue: a part of a job's start
_AWAY_PAUSE_S = 0.5  # between two looks while Redis is away
_SOCKET_TIMEOUT_S = 5.0


class Queue:
    """The queue of one worker.

    Args:
        redis_url: Where it lies.
        lanes: Those that the worker takes from; a later one while the earlier ones are empty.
        heartbeat_s: After how long another worker's messages count as abandoned.
        is_open: Whether a message may be fetched now.
        handle: What is done with a job's id; it blocks as long as the job has this worker.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        lanes: Sequence[Lane],
        heartbeat_s: float,
        is_open: Callable[[], bool],
        handle: Callable[[str], None],
    ) -> None:
        self._client = Redis.from_url(
            redis_url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=_SOCKET_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._broker = _Broker(lanes, is_open, client=self._client, heartbeat_ms=int(heartbeat_s * 1000))
        dramatiq.actor(broker=self._broker, actor_name=keys.QUEUE_ACTOR, queue_name=_QUEUE)(handle)
        self._worker = dramatiq.Worker(self._broker, worker_threads=1, worker_timeout=_POLL_MS)
        self._worker.queue_prefetch = 1  # the message in work counts, so no job waits behind another

    def start(self) -> None:
        """Begin to fetch, in threads."""
        self._worker.start()

    def give_back(self, job_id: str) -> None:
        """Send a job's message again, for another worker; raises RedisError."""
        message = JobMessage.of(job_id)
        self._broker.do_enqueue(message.lane, message.id, message.data)

    def stop(self, *, timeout_s: float) -> None:
        """End the threads; what was fetched and not begun goes back to the queue."""
        self._worker.stop(timeout=int(timeout_s * 1000))
        self._client.close()


class _Broker(RedisBroker):
    """dramatiq's broker, with one consumer for all lanes that stands an absent Redis and fetches only when it may."""

    def __init__(self, lanes: Sequence[Lane], is_open: Callable[[], bool], *, client: Redis, heartbeat_ms: int) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # dramatiq's
            client=client,
            middleware=[],  # none of dramatiq's limits and retries: the job store decides what is tried again
            namespace=keys.QUEUE_NAMESPACE,
            maintenance_chance=1_000_000,  # of a million: a dead worker's messages move on at once, not by lot
            heartbeat_timeout=heartbeat_ms,
        )
        self._lanes = lanes
        self._is_open = is_open
        self._absence = _Absence()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        consume = super().consume
        if queue_name != _QUEUE:  # dramatiq's own, for delayed messages
            delayed = consume(queue_name, prefetch, timeout)
            return _PatientConsumer(delayed, lambda: True, timeout / 1000, lambda: None, self._absence)
        pause_ms = timeout // len(self._lanes)  # each waits at its empty lane before the next is looked at
        lanes = {lane: consume(lane, prefetch, pause_ms) for lane in self._lanes}
        return _PatientConsumer(_LanesConsumer(lanes), self._is_open, timeout / 1000, self._requeue_held, self._absence)

    def _requeue_held(self) -> None:
        """Put back what Redis takes us to hold: when nothing is in work, its fetching or acknowledging was cut off."""
        for lane in self._lanes:
            held = self.client.smembers(f"{self.namespace}:__acks__.{self.broker_id}.{lane}")
            if held:
                self.do_requeue(lane, *held)


class _LanesConsumer(Consumer):
    """Several lanes as one queue: the first that is not empty gives a message, and none another while that is in work."""

    def __init__(self, lanes: Mapping[Lane, Consumer]) -> None:
        self._lanes = lanes
        self._open = list(lanes)

    def __next__(self) -> MessageProxy | None:
        for lane in self._open:
            message = next(self._lanes[lane])
            if message is not None:
                self._open = [lane]  # whose consumer knows what is in work
                # By its queue's name dramatiq finds the way back to us, and we by the lane's to where it came from.
                return MessageProxy(message.copy(queue_name=_QUEUE, options={"lane": lane}))
        return None

    def ack(self, message: MessageProxy) -> None:
        self._open = list(self._lanes)  # first: afterwards the next message may be in work already
        self._lanes[message.options["lane"]].ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            self._lanes[message.options["lane"]].requeue([message])

    def close(self) -> None:
        for consumer in self._lanes.values():
            consumer.close()


class _Absence:
    """Redis's absence as a worker's consumers meet it, each in a thread: told once, whoever meets it first, and its end too."""

    def __init__(self) -> None:
        self._met: set[Consumer] = set()
        self._lock = threading.Lock()

    def begin(self, consumer: Consumer, error: Exception) -> None:
        """A consumer had no answer."""
        with self._lock:
            if not self._met:
                logger.warning("the queue does not answer: %s", error, extra={"action": "queue_away"})
            self._met.add(consumer)

    def end(self, consumer: Consumer) -> None:
        """A consumer had one."""
        with self._lock:
            if self._met and not self._met - {consumer}:
                logger.info("the queue answers again", extra={"action": "queue_back"})
            self._met.discard(consumer)


class _PatientConsumer(Consumer):
    """A consumer that waits for Redis instead of failing."""

    def __init__(
        self, inner: Consumer, is_open: Callable[[], bool], pause_s: float, recover: Callable[[], None], absence: _Absence
    ) -> None:
        self._inner = inner
        self._is_open = is_open
        self._pause_s = pause_s
        self._recover = recover
        self._away = False
        self._absence = absence

    def __next__(self) -> MessageProxy | None:
        if not self._is_open():
            time.sleep(self._pause_s)
            return None
        try:
            if self._away:
                self._recover()
                self._away = False  # before the next look, during which an acknowledgement may fail
            message = next(self._inner)
        except (ConnectionClosed, RedisError) as error:
            self._away = True
            self._absence.begin(self, error)
            time.sleep(_AWAY_PAUSE_S)
            return None
        self._absence.end(self)
        return message

    def ack(self, message: MessageProxy) -> None:
        try:
            self._inner.ack(message)
        except (ConnectionClosed, RedisError):
            self._away = True  # it will be put back, and refused by the claim

    def nack(self, message: MessageProxy) -> None:
        self.ack(message)  # nothing is kept aside: the job's record says what became of it

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        try:
            self._inner.requeue(messages)
        except (ConnectionClosed, RedisError) as error:
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # dramatiq's

    def close(self) -> None:
        self._inner.close()
