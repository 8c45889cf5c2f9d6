"""Problem bodies (RFC 9457)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.members import MemberCosts


class FieldError(BaseModel):
    """One field that is not as it must be."""

    field: str = Field(description="The field, as a path into the body or the query's name.", examples=["budget.max_params"])
    message: str = Field(description="What is wrong with it, with the limit.", examples=["Input should be greater than 0"])


class ExceededLimit(BaseModel):
    """One limit that the nearest member breaks."""

    limit: int = Field(description="What the budget set, in the limit's unit.")
    required: int = Field(description="What the member has: set the limit to this.")


class Problem(BaseModel):
    """An error."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:tleg:problem:budget_infeasible",
                "title": "No member fits the budget",
                "status": 422,
                "detail": "no member fits; the nearest is tleg-ti-fashion-mnist d1: max_params is 100 and it has 478,666",
                "code": "budget_infeasible",
                "binding_constraint": "max_params",
                "limit": 100,
                "required": 478666,
                "exceeded": {"max_params": {"limit": 100, "required": 478666}},
            }
        }
    )

    type: str = Field(description="A URI that identifies the kind of problem: `urn:tleg:problem:` and the code.")
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened here, for people.")
    code: str = Field(description="The kind of problem, for programs.")
    errors: list[FieldError] | None = Field(None, description="The fields that are not valid.")
    binding_constraint: str | None = Field(
        None, description="budget_infeasible: the limit that the nearest member breaks worst."
    )
    limit: int | None = Field(
        None,
        description="budget_infeasible: what the budget set for it, in the limit's unit. dataset_refused, upload_too_large: "
        "the limit that the upload breaks, where it is one.",
    )
    jobs: list[str] | None = Field(
        None,
        description="dataset_in_use: some of the jobs that need it. learngene_in_training: the job that trains it. "
        "export_failed: the job that was to make the file.",
    )
    required: int | None = Field(None, description="budget_infeasible: what the nearest member has, in the limit's unit.")
    exceeded: dict[str, ExceededLimit] | None = Field(
        None, description="budget_infeasible: every limit that the nearest member breaks; with these relaxed, it fits."
    )
    nearest_feasible: MemberCosts | None = Field(
        None, description="budget_infeasible: the member that breaks the fewest limits, and those least."
    )


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of error answers for a route."""
    what = {
        400: "The body is no JSON.",
        404: "There is no such resource.",
        409: "The resource's state does not allow that.",
        408: "The upload paused for too long, or trickled.",
        412: "`If-Match` does not name the file as it is.",
        413: "The body is too large.",
        415: "The upload is of no type that is read here.",
        416: "The range lies outside the file.",
        422: "A field or a parameter is not valid or not known, or no member fits the budget.",
        503: "Redis or the object store does not answer, the learngene is not loaded, or too many uploads are under way; "
        "try again after `Retry-After` seconds.",
        507: "There is no room for the upload.",
    }
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": what[status], "content": {"application/problem+json": schema}} for status in statuses}
