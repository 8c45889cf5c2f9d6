"""The queue's message of a job: a hint that there is work, in dramatiq's form. The job itself is the truth."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from dramatiq import Message

from service.domain.job import Lane, kind_of
from service.storage import keys


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMessage:
    """A message: its lane of the queue, its id there, and its text."""

    lane: Lane
    id: str
    data: str

    @classmethod
    def of(cls, job_id: str) -> JobMessage:
        """Return a fresh message that names the job and nothing else."""
        lane, message_id = kind_of(job_id).lane, secrets.token_hex(16)
        message: Message[Any] = Message(
            queue_name=lane,
            actor_name=keys.QUEUE_ACTOR,
            args=(job_id,),
            kwargs={},
            options={"redis_message_id": message_id},
        )
        return cls(lane=lane, id=message_id, data=message.encode().decode())
