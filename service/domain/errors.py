"""The errors of the service, as one tree. The HTTP status of each is in `service.api.problems`.

TlegError
└── ServiceError
    ├── ModelNotFoundError
    ├── LearngeneNotFoundError
    ├── LearngeneNotLoadedError     a model whose learngene this server does not hold now
    ├── UnreadableRecordError       a record that is damaged, or that another version of tleg wrote
    ├── CursorUnknownError          `after` names nothing in the list
    └── StoreUnavailableError       Redis does not answer, or cannot be started
"""

from __future__ import annotations

from tleg_core.errors import TlegError


class ServiceError(TlegError):
    """The service cannot do that."""


class ModelNotFoundError(ServiceError):
    """No such model."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"there is no model {model_id[:80]!r}; POST /models creates one")


class LearngeneNotFoundError(ServiceError):
    """No such learngene."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no learngene {name[:80]!r}; there are {', '.join(known) or 'none'}")


class LearngeneNotLoadedError(ServiceError):
    """The model's learngene is not loaded on this server."""

    def __init__(self, name: str, digest: str) -> None:
        super().__init__(f"the model was made from learngene {name} ({digest[:16]}…), which this server does not hold now")


class UnreadableRecordError(ServiceError):
    """The record is damaged, or was written by another version of tleg."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a model's record cannot be read: {reason}")


class CursorUnknownError(ServiceError):
    """The cursor names nothing in the list."""

    def __init__(self, after: str) -> None:
        super().__init__(f"after: {after[:80]!r} is not in the list")


class StoreUnavailableError(ServiceError):
    """Redis does not answer."""
