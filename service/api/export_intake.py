"""From a request for a model in another form to the job that makes the file: made once, however many ask.

The job of a model and a format stands until its file is gone from the object store (then another one makes it), or until
somebody tries again what failed.
"""

from __future__ import annotations

from service.api.dependencies import Resources
from service.domain.errors import WeightsMissingError
from service.domain.export import ExportFile, ExportFormat
from service.domain.job import ExportSpec, Job, JobStatus
from service.domain.model import Model
from service.storage.object_store import export_key

_ENDED_WITHOUT = (JobStatus.FAILED, JobStatus.CANCELLED)


async def find_export(resources: Resources, model: Model, export_format: ExportFormat, *, again: bool = False) -> Job:
    """Return the job of a model's export; one is queued where there is none.

    Args:
        resources: The server's.
        model: A recorded model.
        export_format: What to make of it.
        again: Whether to try again what failed or was cancelled.

    Raises:
        LearngeneNotLoadedError: There is no file, and the model cannot be expanded here.
        WeightsMissingError: There is no file, and the model's own is gone.
        ObjectStoreError: The object store does not answer.
    """
    spec = ExportSpec(model=model.id, format=export_format)
    job = await resources.jobs.find_export(spec)
    is_over = job is None or job.status in _ENDED_WITHOUT or await _is_gone(resources, job, spec)
    if job is not None and not is_over:
        return job
    await _check_source(resources, model)
    if job is not None and job.status in _ENDED_WITHOUT and not again:
        return job
    return (await resources.jobs.create(spec, instead_of="" if job is None else job.id))[0]


def export_file(job: Job, spec: ExportSpec) -> tuple[ExportFile, str]:
    """Return the file of a job that succeeded, and its key in the object store."""
    file = ExportFile.parse(job.result or "")
    return file, export_key(spec.model, file.sha256, spec.format.suffix)


async def _check_source(resources: Resources, model: Model) -> None:
    """Return if what a file would be made of is there, so that no job is queued, and no other try advised, that must fail."""
    tuning = model.fine_tuning
    if tuning is None:
        resources.weights.open(model)
    else:
        await resources.weights.check_stored(model.id, tuning.weights_key, tuning.size_bytes)


async def _is_gone(resources: Resources, job: Job, spec: ExportSpec) -> bool:
    """Whether a job has made a file that is not in the object store any more, or not whole."""
    if job.status is not JobStatus.SUCCEEDED:
        return False
    file, key = export_file(job, spec)
    try:
        await resources.weights.check_stored(spec.model, key, file.size_bytes)
    except WeightsMissingError:
        return True
    return False
