"""Every Redis key: its type, what it holds, and how long it lives. Nothing else composes keys.

| key                    | type       | holds                                              | lives   |
|------------------------|------------|----------------------------------------------------|---------|
| `tleg:model:{id}`      | string     | a model's record, JSON with a version              | for ever |
| `tleg:models`          | sorted set | model ids by time of creation, in microseconds     | for ever |
| `tleg:sha256:{id}`     | string     | the sha256 of a model's computed file, 64 hex digits | for ever |
"""

from __future__ import annotations

MODELS = "tleg:models"


def model(model_id: str) -> str:
    """Return the key of a model's record."""
    return f"tleg:model:{model_id}"


def sha256(model_id: str) -> str:
    """Return the key of the digest of a model's file."""
    return f"tleg:sha256:{model_id}"
