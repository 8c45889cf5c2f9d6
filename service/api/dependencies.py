"""What routes depend on, as annotated aliases; the lifespan opens them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from service.api.learning_curve import LearningCurves
from service.api.long_work import LongWork
from service.api.upload import UploadLimits
from service.domain.catalogue import Catalogue, ModelRequest
from service.domain.model import Selection
from service.ingest.ingestion import Ingestion
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import JobStore
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore
from service.storage.weights import Weights


@dataclass(slots=True, kw_only=True)
class Resources:
    """What a running server holds."""

    learngenes: LearngeneRegistry
    store: ModelStore
    weights: Weights
    objects: ObjectStore
    datasets: DatasetStore
    ingestion: Ingestion
    upload_limits: UploadLimits
    learngene_limits: UploadLimits
    jobs: JobStore
    curves: LearningCurves
    long_work: LongWork
    draining: bool = False

    @property
    def catalogue(self) -> Catalogue:
        """What is served now; another one takes its place where a learngene is published."""
        return self.learngenes.catalogue

    async def resolve(self, request: ModelRequest) -> Selection:
        """Return the best model within the request's budget; other requests are answered meanwhile.

        Raises:
            ConfigError: No such learngene or method, or none that can be varied so.
            BudgetInfeasibleError: Nothing fits.
        """
        catalogue = self.catalogue
        known = catalogue.known(request)
        if known is not None:
            return known
        return await self.long_work.do(lambda: catalogue.resolve(request), size=catalogue.size(request.learngene))


async def _resources(request: Request) -> Resources:  # async, or it would be handed to a thread
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(_resources)]

LimitQuery = Annotated[int, Query(ge=1, le=100, description="Entries a page.")]
AfterQuery = Annotated[str | None, Query(max_length=128, description="The id after which to go on: a page's last.")]
