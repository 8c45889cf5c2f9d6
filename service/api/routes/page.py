"""The page at the root: what this server holds and how to use it, for people with a browser."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from service.api.dependencies import ResourcesDep
from service.api.front_plot import FrontPlot
from tleg_core import __version__
from tleg_core.budget import measured_data_sets
from tleg_core.family import Variation

router = APIRouter(include_in_schema=False)

_templates = Jinja2Templates(directory=Path(__file__).parent.parent / "templates")


@router.head("/", response_class=HTMLResponse)
@router.get("/", response_class=HTMLResponse)
async def root(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Return the page: learngenes, their members, accuracy against cost, and the first commands to try."""
    candidates = resources.catalogue.candidates()
    context = {
        "version": __version__,
        "base_url": str(request.base_url).rstrip("/"),
        "families": [(family, family.candidates(Variation())) for family in resources.catalogue.families],
        "plots": [FrontPlot.of(candidates, data_set) for data_set in measured_data_sets(candidates)],
    }
    return _templates.TemplateResponse(request, "index.html", context)
