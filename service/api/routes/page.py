"""The page at the root: what this server holds and how to use it, for people with a browser."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from service.api.dependencies import Resources, ResourcesDep
from service.api.front_plot import FrontPlot
from service.api.schemas.fine_tunes import FineTuneResource
from service.api.schemas.trainings import TrainingResource
from service.domain.catalogue import Catalogue
from service.domain.errors import StoreUnavailableError
from service.domain.job import JobKind
from tleg_core import __version__
from tleg_core.budget import measured_data_sets
from tleg_core.family import Variation

router = APIRouter(include_in_schema=False)

_LATEST = 8  # data sets, and jobs of each kind, on the page
_MAX_FAMILIES = 50  # with a table; anybody may publish one
_MAX_PLOTS = 6  # of the data sets on which most members were measured
_MAX_MEMBERS = 500  # of a family in its table
_SHOWN_MEMBERS = 24  # of a family; a table of more is folded

logger = logging.getLogger(__name__)

_templates = Jinja2Templates(directory=Path(__file__).parent.parent / "templates")


@router.head("/", response_class=HTMLResponse)
@router.get("/", response_class=HTMLResponse)
async def root(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Return the page: the latest jobs and data sets, learngenes with accuracy against cost, and the first commands to try."""
    catalogue, latest = resources.catalogue, await _latest(resources)
    return await resources.long_work.do(lambda: _page(request, catalogue, latest), size=catalogue.size())


def _page(request: Request, catalogue: Catalogue, latest: Mapping[str, Any]) -> HTMLResponse:
    candidates, families = catalogue.candidates(), catalogue.families[:_MAX_FAMILIES]
    context = {
        "version": __version__,
        "base_url": str(request.base_url).rstrip("/"),
        "families": [(family, catalogue.origin(family.name), family.candidates(Variation())) for family in families],
        "more_families": len(catalogue.families) - len(families),
        "shown_members": _SHOWN_MEMBERS,
        "max_members": _MAX_MEMBERS,
        "plots": [FrontPlot.of(candidates, data_set) for data_set in measured_data_sets(candidates)[:_MAX_PLOTS]],
        **latest,
    }
    return _templates.TemplateResponse(request, "index.html", context)


async def _latest(resources: Resources) -> dict[str, Any]:
    """Return the latest jobs and data sets; where Redis does not answer, the page goes without."""
    try:
        fine_tunes = await resources.jobs.page(limit=_LATEST, after=None, kind=JobKind.FINE_TUNE)
        trainings = await resources.jobs.page(limit=_LATEST, after=None, kind=JobKind.TRAINING)
        datasets = [stored.dataset for stored in (await resources.datasets.page(limit=_LATEST, after=None)).datasets]
    except StoreUnavailableError as error:
        logger.warning("%s; the page is without jobs and data sets", error, extra={"action": "redis_away"})
        return {"jobs": {}, "datasets": (), "dataset_names": {}, "is_away": True}
    names = {dataset.id: dataset.name for dataset in datasets}
    jobs: dict[str, list[FineTuneResource] | list[TrainingResource]] = {
        "fine-tunes": [FineTuneResource.of(job) for job in fine_tunes.jobs],
        "trainings of learngenes": [TrainingResource.of(job) for job in trainings.jobs],
    }
    return {"jobs": jobs, "datasets": datasets, "dataset_names": names, "is_away": False}
