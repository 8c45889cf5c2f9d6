"""The queue's message of a job: a hint that there is work, in dramatiq's form. The job itself is the truth."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from dramatiq import Message

from service.storage import keys


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMessage:
    """A message: its id in the queue, and its text."""

    id: str
    data: str

    @classmethod
    def of(cls, job_id: str) -> JobMessage:
        """Return a fresh message that names the job and nothing else."""
        message_id = secrets.token_hex(16)
        message: Message[Any] = Message(
            queue_name=keys.QUEUE,
            actor_name=keys.QUEUE_ACTOR,
            args=(job_id,),
            kwargs={},
            options={"redis_message_id": message_id},
        )
        return cls(id=message_id, data=message.encode().decode())
