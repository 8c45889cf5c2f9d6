"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.dependencies import ResourcesDep
from service.api.schemas.problems import problem_responses
from service.domain.errors import StoreUnavailableError

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field("ok", description="Always `ok`.")


class Ready(BaseModel):
    """The server can do its work."""

    status: Literal["ok"] = Field("ok", description="Always `ok`.")
    learngenes: int = Field(description="Learngenes served.")


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Is the process alive?")
async def livez() -> Alive:
    """Answer 200 as long as the process runs."""
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Can the server do its work?", responses=problem_responses(503))
async def readyz(resources: ResourcesDep) -> Ready:
    """Answer 200 if Redis answers and the server is not shutting down, 503 otherwise."""
    if resources.draining:
        raise StoreUnavailableError("the server is shutting down")
    await resources.store.ping()
    return Ready(learngenes=len(resources.catalogue.families))
