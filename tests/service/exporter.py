"""A worker's part in exports, played by tests: it stores bytes as the file and ends the job, or fails it."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from service.domain.export import ExportFile
from service.domain.job import ExportSpec, Job, JobError
from service.storage.object_store import ObjectStore, export_key
from tests.service.jobs import START, Store, run


def make_file(url: str, objects: ObjectStore, job_id: str, content: bytes) -> Path:
    """Claim an export and end it with a file of this content; return where it lies."""
    file = ExportFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))

    async def work(store: Store) -> str:
        claim = await store.claimed(job=await store.get(job_id))
        spec = claim.job.spec
        assert isinstance(spec, ExportSpec)
        key = export_key(spec.model, file.sha256, spec.format.suffix)
        with tempfile.NamedTemporaryFile() as source:
            source.write(content)
            source.flush()
            objects.put_file(key, Path(source.name))
        await store.started(claim, {}, replace(START, steps=3))
        await store.succeed(claim, str(file), replace(START, step=3, steps=3, metrics={"deviation": 1e-6}))
        return key

    path = objects.local_path(run(url, work))
    assert path is not None
    return path


def fail(url: str, job_id: str, code: str, message: str) -> Job:
    """Claim an export and fail it."""

    async def work(store: Store) -> Job:
        claim = await store.claimed(job=await store.get(job_id))
        return await store.fail(claim, JobError(code=code, message=message))

    return run(url, work)
