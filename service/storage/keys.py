"""Every Redis key: its type, what it holds, and how long it lives. Nothing else composes keys.

| key               | type       | holds                                                                   | lives    |
|-------------------|------------|-------------------------------------------------------------------------|----------|
| `tleg:model:{id}` | hash       | a model: `record` (JSON with a version) and `created_at` (ISO 8601) if  | for ever |
|                   |            | it was created; `sha256` of its file (64 hex digits) if it was computed |          |
| `tleg:models`     | sorted set | ids of created models by time of creation, in microseconds              | for ever |
"""

from __future__ import annotations

MODELS = "tleg:models"


def model(model_id: str) -> str:
    """Return the key of a model."""
    return f"tleg:model:{model_id}"
