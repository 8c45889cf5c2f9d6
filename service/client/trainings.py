"""The verbs of learngenes' trainings, beside those that all jobs have."""

from __future__ import annotations

from service.api.schemas.trainings import TrainingBody, TrainingList, TrainingResource
from service.client.effect import Flow
from service.client.errors import TrainingError
from service.client.jobs import Jobs
from service.domain.job import JobKind, JobStatus

TRAININGS = Jobs(kind=JobKind.TRAINING, resource=TrainingResource, page=TrainingList, failure=TrainingError)


def train_learngene(body: TrainingBody, *, idempotency_key: str | None = None) -> Flow[TrainingResource]:
    """Queue the training of a learngene. However often the request has to be sent, it makes one job.

    Args:
        body: Which learngene, trained on what, and how.
        idempotency_key: As `create_fine_tune` has it.
    """
    return TRAININGS.create(body, idempotency_key=idempotency_key)


def list_trainings(
    *,
    limit: int = 20,
    after: str | None = None,
    status: JobStatus | None = None,
    teacher: str | None = None,
    dataset: str | None = None,
) -> Flow[TrainingList]:
    """Return a page of jobs, newest first: those of a status, a teacher, a data set."""
    return TRAININGS.list(limit=limit, after=after, status=status, teacher=teacher, dataset=dataset)
