"""The Pareto front over all learngenes: cost against measured accuracy."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.api.dependencies import ResourcesDep
from service.api.schemas.members import MeasuredMember
from service.domain.catalogue import Catalogue
from tleg_core.budget import measured_data_sets, not_measured
from tleg_core.errors import ConfigError
from tleg_core.frontier import CostName, frontier

router = APIRouter(tags=["learngenes"])


class Frontier(BaseModel):
    """The members that no other member beats in both cost and accuracy, by rising cost."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data_set: str | None = Field(description="The data set of the accuracies; null where nothing was measured.")
    data_sets: list[str] = Field(description="Every data set that some member was measured on, most members first.")
    cost: CostName = Field(description="The cost of the front.")
    data: list[MeasuredMember] = Field(description="The front, by rising cost.")
    has_more: Literal[False] = Field(False, description="Always false: all of it is here.")


@router.get("/frontier", summary="The Pareto front")
async def get_frontier(
    resources: ResourcesDep,
    data_set: Annotated[
        str | None, Query(max_length=128, description="Measured on this data set; by default the one with most members.")
    ] = None,
    cost: Annotated[CostName, Query(description="The cost to trade accuracy against.")] = "macs",
) -> Frontier:
    """Return the members worth choosing: a cheaper one is less accurate, a more accurate one costs more."""
    catalogue = resources.catalogue
    return await resources.long_work.do(lambda: _frontier(catalogue, data_set, cost), size=catalogue.size())


def _frontier(catalogue: Catalogue, data_set: str | None, cost: CostName) -> Frontier:
    """Return the front; raises `ConfigError` where nothing was measured on the data set."""
    candidates = catalogue.candidates()
    data_sets = measured_data_sets(candidates)
    if data_set is not None and data_set not in data_sets:
        raise ConfigError("data_set", not_measured(data_set, data_sets))
    chosen = data_set or (data_sets[0] if data_sets else None)
    front = frontier(candidates, data_set=chosen, cost=cost) if chosen else ()
    return Frontier(
        data_set=chosen, data_sets=data_sets, cost=cost, data=[MeasuredMember.of(item) for item in front], has_more=False
    )
