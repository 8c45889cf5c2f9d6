"""Exports on the wire: what a user asks for, and what a user sees of the job."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.jobs import JobResource, common_fields, job_links
from service.domain.errors import JobNotFoundError
from service.domain.export import ExportFile, ExportFormat
from service.domain.job import ExportSpec, Job, JobKind


class ExportBody(BaseModel):
    """What to make of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"example": {"format": "onnx"}})

    format: ExportFormat = Field(
        description="`onnx`, or `torch-export`: a program that `torch.export.load` reads. Either takes normalised images, any "
        "number of them, and gives logits, in float32."
    )


class ExportResult(BaseModel):
    """The file that was made."""

    size_bytes: int = Field(description="Its length.")
    sha256: str = Field(description="Its digest, 64 hex digits; it is the ETag too.")
    deviation: float = Field(
        description="The largest deviation of its logits from the network's own on random images, before it was accepted."
    )


class ExportResource(JobResource):
    """A job that makes a file of a model."""

    object: Literal["export"] = Field("export", description="Always `export`.")
    id: str = Field(description="`ex-` and 32 hex digits.", examples=["ex-0123456789abcdef0123456789abcdef"])
    model: str = Field(description="The id of the model.")
    format: ExportFormat = Field(description="What is made of it.")
    result: ExportResult | None = Field(description="The file, once the job succeeded.")
    links: dict[str, str] = Field(
        description="Paths on this server: self, events, cancel, pause, resume, model, and weights: where the file is."
    )

    @classmethod
    def of(cls, job: Job) -> Self:
        """Describe a job; raises `JobNotFoundError` where it is no export."""
        spec = job.spec
        if not isinstance(spec, ExportSpec):
            raise JobNotFoundError(job.id, JobKind.EXPORT)
        result = None
        if job.result is not None:
            file = ExportFile.parse(job.result)
            result = ExportResult(
                size_bytes=file.size_bytes, sha256=file.sha256, deviation=job.progress.metrics.get("deviation", 0.0)
            )
        model = f"/models/{spec.model}"
        return cls(
            **common_fields(job),
            model=spec.model,
            format=spec.format,
            result=result,
            links=job_links(job.id) | {"model": model, "weights": f"{model}/weights?format={spec.format}"},
        )


class ExportList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[ExportResource] = Field(description="The jobs, newest first.")
    has_more: bool = Field(description="Whether more follow; pass the last id as `after`.")
