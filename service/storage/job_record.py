"""A job's record and the fields of its hash as text, and back.

A fine-tune's record has no kind, as those of before; another kind's has another version, so that a server from before
refuses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from service.domain.errors import UnreadableRecordError
from service.domain.export import ExportFormat
from service.domain.job import ExportSpec, FineTuneSpec, Job, JobError, JobKind, JobSpec, JobStatus, Progress, TrainingSpec


def _export(model: str, format: str) -> ExportSpec:
    return ExportSpec(model=model, format=ExportFormat(format))


_VERSIONS = {JobKind.FINE_TUNE: 1, JobKind.TRAINING: 2, JobKind.EXPORT: 3}
_SPECS: Mapping[int, Callable[..., JobSpec]] = {1: FineTuneSpec, 2: TrainingSpec, 3: _export}


def record_text(spec: JobSpec) -> str:
    """Return what was asked for, as it is recorded."""
    record = {"version": _VERSIONS[spec.kind], **asdict(spec)}
    if spec.kind is not JobKind.FINE_TUNE:
        record["kind"] = spec.kind.value
    return to_json(record)


def _spec(text: str) -> JobSpec:
    """Read `record_text`'s text; raises KeyError, TypeError or ValueError where it is damaged."""
    record = json.loads(text)
    version = record.pop("version")
    if version not in _SPECS:
        raise UnreadableRecordError(f"a job's is of version {version}")
    record.pop("kind", None)
    return _SPECS[version](**record)


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Return the mapping of a script's HGETALL, which is a flat list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def to_json(value: Mapping[str, Any]) -> str:
    """Return the value as JSON, without the numbers that JSON has not: a loss that is not finite is left out."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items() if not isinstance(item, float) or math.isfinite(item)}
    return value


def time_of(microseconds: str) -> datetime:
    """Return a time that a script wrote."""
    whole, rest = divmod(int(microseconds), 1_000_000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest)


def _optional_time(fields: Mapping[str, str], name: str) -> datetime | None:
    return time_of(fields[name]) if name in fields else None


def progress_text(progress: Progress) -> str:
    """Return how far an attempt is, as text."""
    finish = progress.estimated_finish
    return to_json(asdict(progress) | {"estimated_finish": None if finish is None else finish.isoformat()})


def _progress(text: str | None) -> Progress:
    if text is None:
        return Progress(metrics={})
    fields = json.loads(text)
    finish = fields["estimated_finish"]
    return Progress(**fields | {"estimated_finish": None if finish is None else datetime.fromisoformat(finish)})


def job_of(fields: Mapping[str, str]) -> Job:
    """Return the job of its hash; raises `UnreadableRecordError` where it is damaged or of another version."""
    try:
        return Job(
            id=fields["id"],
            spec=_spec(fields["record"]),
            status=JobStatus(fields["status"]),
            attempt=int(fields["attempt"]),
            deaths=int(fields["deaths"]),
            progress=_progress(fields.get("progress")),
            pause_requested="pause_requested" in fields,
            error=JobError(**json.loads(fields["error"])) if "error" in fields else None,
            result=fields.get("result"),
            worker=fields.get("worker"),
            settings_used=json.loads(fields["settings_used"]) if "settings_used" in fields else None,
            resume_key=fields.get("resume_key"),
            created_at=time_of(fields["created_at"]),
            started_at=_optional_time(fields, "started_at"),
            finished_at=_optional_time(fields, "finished_at"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRecordError(f"{type(error).__name__}: {error}") from error
