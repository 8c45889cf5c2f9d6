"""Every Redis key: its type, what it holds, and how long it lives. Nothing else composes keys.

| key                            | type       | holds                                                          | lives       |
|--------------------------------|------------|----------------------------------------------------------------|-------------|
| `tleg:model:{id}`              | hash       | a model: `record` (JSON with a version) and `created_at` (ISO  | for ever    |
|                                |            | 8601) if it was created; `sha256` of its file (64 hex digits)  |             |
|                                |            | if it was computed                                             |             |
| `tleg:models`                  | sorted set | ids of created models by time of creation, in microseconds     | for ever    |
| `tleg:models:fine-tuned`       | sorted set | those of them that were fine-tuned, by the same                | for ever    |
| `tleg:learngenes`              | hash       | the digest of each published learngene's current file, by name | until       |
|                                |            |                                                                | deleted     |
| `tleg:learngenes:files`        | hash       | the record (JSON with a version) of the file of each digest,   | until       |
|                                |            | current or superseded                                          | deleted     |
| `tleg:learngenes:version`      | string     | another one after each change of the two                       | for ever    |
| `tleg:learngenes:ending`       | sorted set | object keys of learngenes' files that no record names (being   | until       |
|                                |            | stored, or replaced), by the second from which to delete them  | deleted     |
| `tleg:dataset:{id}`            | hash       | a data set: `record` (JSON with a version), `created_at`       | until       |
|                                |            |                                                                | deleted     |
| `tleg:datasets`                | sorted set | ids of data sets by time of creation, in microseconds          | for ever    |
| `tleg:dataset:{id}:jobs`       | set        | ids of the jobs that use it and have not ended                 | as the jobs |
| `tleg:objects:doomed`          | set        | object keys of deleted data sets and learngenes, whose file    | until       |
|                                |            | may be there yet                                               | deleted     |
| `tleg:job:{id}`                | hash       | a job; its fields are `service.storage.job_store`'s            | for ever    |
| `tleg:job:{id}:events`         | stream     | its events, entry `n-0` is event n, counted from 1             | for ever    |
| `tleg:job:{id}:checkpoints`    | list       | its checkpoints that can be used as models, JSON, oldest first | for ever    |
| `tleg:jobs`                    | sorted set | ids of all jobs by time of creation, in microseconds           | for ever    |
| `tleg:jobs:{status}`           | sorted set | those of one status                                            | for ever    |
| `tleg:learngenes:in-training`  | hash       | names of learngenes that are trained now, with their jobs' ids | as the jobs |
| `tleg:exports`                 | hash       | the job that last made or makes each export of a model, by     | for ever    |
|                                |            | `ExportSpec.name`                                              |             |
| `tleg:idempotency:{sha256}`    | string     | JSON: the `job` that a request made, and the request's digest  | a day       |
| `tleg:queue:*`                 | dramatiq's | the queue; `{lane}` and `{lane}.msgs` are written by our       | dramatiq's  |
|                                |            | scripts too, in the form of dramatiq's `dispatch.lua`          |             |
"""

from __future__ import annotations

MODELS = "tleg:models"
FINE_TUNED_MODELS = "tleg:models:fine-tuned"
LEARNGENES = "tleg:learngenes"
LEARNGENE_FILES = "tleg:learngenes:files"
LEARNGENES_VERSION = "tleg:learngenes:version"
LEARNGENES_ENDING = "tleg:learngenes:ending"
DATASETS = "tleg:datasets"
JOBS = "tleg:jobs"
LEARNGENES_IN_TRAINING = "tleg:learngenes:in-training"
EXPORTS = "tleg:exports"
DOOMED_OBJECTS = "tleg:objects:doomed"

QUEUE_NAMESPACE = "tleg:queue"
QUEUE_ACTOR = "fine_tune"  # the name in the queue's messages of what works on them


def queue_list(lane: str) -> str:
    """Return the key of a lane's list of messages' ids."""
    return f"{QUEUE_NAMESPACE}:{lane}"


def queue_messages(lane: str) -> str:
    """Return the key of a lane's messages."""
    return f"{QUEUE_NAMESPACE}:{lane}.msgs"


def model(model_id: str) -> str:
    """Return the key of a model."""
    return f"tleg:model:{model_id}"


def dataset(dataset_id: str) -> str:
    """Return the key of a data set."""
    return f"tleg:dataset:{dataset_id}"


def dataset_jobs(dataset_id: str) -> str:
    """Return the key of the set of jobs that use a data set."""
    return f"tleg:dataset:{dataset_id}:jobs"


def job(job_id: str) -> str:
    """Return the key of a job."""
    return f"tleg:job:{job_id}"


def job_events(job_id: str) -> str:
    """Return the key of a job's events."""
    return f"tleg:job:{job_id}:events"


def job_checkpoints(job_id: str) -> str:
    """Return the key of a job's checkpoints."""
    return f"tleg:job:{job_id}:checkpoints"


def jobs_of_status(status: str) -> str:
    """Return the key of the jobs of one status."""
    return f"tleg:jobs:{status}"


def idempotency(digest: str) -> str:
    """Return the key of an idempotency key's digest."""
    return f"tleg:idempotency:{digest}"
