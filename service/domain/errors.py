"""The errors of the service, as one tree. The HTTP status of each is in `service.api.problems`.

TlegError
└── ServiceError
    ├── ModelNotFoundError
    ├── LearngeneNotFoundError
    ├── LearngeneNotLoadedError     a model whose learngene this server does not hold now
    ├── LearngeneRefusedError       a publication that is no learngene
    ├── LearngeneTakenError         a name that other weights have, or weights that another name has
    ├── LearngeneFixedError         a learngene that was not published, so cannot be deleted
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
    ├── ExportFailedError           the job that makes the file did not
    ├── LearngeneInTrainingError    a job trains a learngene of that name
    ├── IdempotencyKeyReusedError   the key came with another request before
    ├── FencedError                 a write of an attempt that is no longer the job's
    ├── StoreUnavailableError       Redis does not answer, or cannot be started
    └── ObjectStoreError            the object store does not answer, or its disk is full
        └── ObjectDamagedError      an object's content is not what was stored
"""

from __future__ import annotations

from service.domain.job import ExportSpec, Job, JobKind
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
        super().__init__(
            f"the model was made from learngene {name} ({digest[:16]}…), which this server does not hold now; "
            "publish that learngene again, or create another model"
        )


class LearngeneRefusedError(ServiceError):
    """The upload is no learngene."""


class LearngeneTakenError(ServiceError):
    """The name is another learngene's, or the weights are another name's."""

    @classmethod
    def by_other_weights(cls, name: str, digest: str) -> LearngeneTakenError:
        """Return the error of a name under which other weights are published."""
        return cls(
            f"learngene {name} is published with other weights ({digest[:16]}…); with replace=true (--replace) these take "
            "their place"
        )

    @classmethod
    def by_other_name(cls, digest: str, name: str) -> LearngeneTakenError:
        """Return the error of weights that are served under another name."""
        return cls(f"these weights ({digest[:16]}…) are served already, as learngene {name}")

    @classmethod
    def by_path(cls, name: str) -> LearngeneTakenError:
        """Return the error of a name whose path is another resource's."""
        return cls(f"no learngene can be published as {name!r}: /learngenes/{name} is another resource")

    @classmethod
    def by_own(cls, name: str) -> LearngeneTakenError:
        """Return the error of a name that one of the server's own files has."""
        return cls(f"learngene {name} is one of the server's own files; publish under another name (--name)")


class LearngeneFixedError(ServiceError):
    """The learngene was not published, so it cannot be deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"learngene {name} is one of the server's own files, shipped or named by TLEG_LEARNGENES")


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

    def __init__(self, job_id: str, kind: JobKind = JobKind.FINE_TUNE) -> None:
        name, path, command = {
            JobKind.FINE_TUNE: ("fine-tune", "/fine-tunes", "fine-tunes"),
            JobKind.TRAINING: ("training", "/learngenes/trainings", "trainings"),
            JobKind.EXPORT: ("export", "/exports", "exports"),
        }[kind]
        super().__init__(f"there is no {name} {job_id[:80]!r}; `GET {path}` or `tleg {command} list` lists them")


class JobStateError(ServiceError):
    """The job's status does not allow that."""

    def __init__(self, job_id: str, status: str, wanted: str) -> None:
        super().__init__(f"{job_id} is {status}; it cannot be {wanted}")
        self.status = status


class ExportFailedError(ServiceError):
    """The job that was to make the file failed, or was cancelled."""

    def __init__(self, job: Job, spec: ExportSpec) -> None:
        reason = f": {job.error.message} ({job.error.code})" if job.error is not None else ""
        again = f'`POST /models/{spec.model}/exports` with {{"format": "{spec.format}"}} tries again'
        super().__init__(f"{job.id} {'failed' if job.error is not None else f'was {job.status}'}{reason}; {again}")
        self.jobs = [job.id]


class LearngeneInTrainingError(ServiceError):
    """A job that has not ended trains a learngene of that name."""

    def __init__(self, name: str, job_id: str) -> None:
        super().__init__(f"{job_id} trains a learngene of the name {name}; wait for it, cancel it, or choose another name")
        self.jobs = [job_id]


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


def code_of(error: ServiceError) -> str:
    """Return an error's class as a code: ModelNotFoundError is model_not_found."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
