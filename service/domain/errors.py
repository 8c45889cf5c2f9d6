"""The errors of the service, as one tree. The HTTP status of each is in `service.api.problems`.

TlegError
└── ServiceError
    ├── ModelNotFoundError
    ├── LearngeneNotFoundError
    ├── LearngeneNotLoadedError     a model whose learngene this server does not hold now
    ├── WeightsMissingError         a fine-tuned model whose file is not in the object store
    ├── UnreadableRecordError       a record that is damaged, or that another version of tleg wrote
    ├── CursorUnknownError          `after` names nothing in the list
    ├── DatasetNotFoundError
    ├── DatasetInUseError           a data set that jobs still need
    ├── DatasetRefusedError         an upload that is no data set; names the limit or the entry
    ├── UploadTooLargeError
    ├── UploadTypeError             the content is of no type that is read here
    ├── UploadStalledError          the client sent nothing, or hardly anything, for too long
    ├── UploadsBusyError            too many uploads at once
    ├── StorageFullError            there is no room for an upload
    ├── JobNotFoundError
    ├── JobStateError               the job's status does not allow that
    ├── IdempotencyKeyReusedError   the key came with another request before
    ├── FencedError                 a write of an attempt that is no longer the job's
    ├── StoreUnavailableError       Redis does not answer, or cannot be started
    └── ObjectStoreError            the object store does not answer, or its disk is full
        └── ObjectDamagedError      an object's content is not what was stored
"""

from __future__ import annotations

from tleg_core.errors import TlegError


class ServiceError(TlegError):
    """The service cannot do that."""


class ModelNotFoundError(ServiceError):
    """No such model."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"there is no model {model_id[:80]!r}; `GET /models` or `tleg models list` lists them")


class LearngeneNotFoundError(ServiceError):
    """No such learngene."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no learngene {name[:80]!r}; there are {', '.join(known) or 'none'}")


class LearngeneNotLoadedError(ServiceError):
    """The model's learngene is not loaded on this server."""

    def __init__(self, name: str, digest: str) -> None:
        super().__init__(f"the model was made from learngene {name} ({digest[:16]}…), which this server does not hold now")


class WeightsMissingError(ServiceError):
    """The model's file is not in the object store."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the file of {model_id} is not in this server's object store, or is not whole")


class UnreadableRecordError(ServiceError):
    """The record is damaged, or was written by another version of tleg."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a record cannot be read: {reason}")


class CursorUnknownError(ServiceError):
    """The cursor names nothing in the list."""

    def __init__(self, after: str) -> None:
        super().__init__(f"after: {after[:80]!r} is not in the list")


class StoreUnavailableError(ServiceError):
    """Redis does not answer."""


class DatasetNotFoundError(ServiceError):
    """No such data set."""

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"there is no data set {dataset_id[:80]!r}; `GET /datasets` or `tleg datasets list` lists them")


class DatasetInUseError(ServiceError):
    """Jobs still need the data set."""

    def __init__(self, dataset_id: str, jobs: list[str]) -> None:
        super().__init__(f"data set {dataset_id} is used by {', '.join(jobs[:5])}{' and more' if len(jobs) > 5 else ''}")
        self.jobs = jobs


class DatasetRefusedError(ServiceError):
    """The upload is no data set."""

    def __init__(self, reason: str, *, limit: int | None = None) -> None:
        super().__init__(reason)
        self.limit = limit


class UploadTooLargeError(ServiceError):
    """The upload is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the upload is larger than {limit:,} bytes")
        self.limit = limit


class UploadTypeError(ServiceError):
    """The content is of no type that is read here."""


class UploadStalledError(ServiceError):
    """The client sent nothing, or hardly anything, for too long."""


class UploadsBusyError(ServiceError):
    """Too many uploads are under way; try again later."""


class StorageFullError(ServiceError):
    """There is no room for the upload."""


class JobNotFoundError(ServiceError):
    """No such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no fine-tune {job_id[:80]!r}; `GET /fine-tunes` or `tleg fine-tunes list` lists them")


class JobStateError(ServiceError):
    """The job's status does not allow that."""

    def __init__(self, job_id: str, status: str, wanted: str) -> None:
        super().__init__(f"{job_id} is {status}; it cannot be {wanted}")
        self.status = status


class IdempotencyKeyReusedError(ServiceError):
    """The Idempotency-Key came with another request before."""


class FencedError(ServiceError):
    """The attempt is no longer the job's: another one has taken over, or the job has ended."""


class ObjectStoreError(ServiceError):
    """The object store does not answer, or cannot be written."""


class ObjectDamagedError(ObjectStoreError):
    """An object's content is not what was stored."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the object {key} is damaged: its sha256 is another")
