"""The verbs of models and learngenes."""

from __future__ import annotations

from service.api.schemas.learngenes import LearngeneList
from service.api.schemas.models import CreatedModel, ModelList, ModelRequestBody, ModelResource
from service.client.call import call, given, segment
from service.client.effect import Flow, Request


def create_model(body: ModelRequestBody, *, dry_run: bool = False) -> Flow[CreatedModel]:
    """Create the best model within a budget."""
    content = body.model_dump(mode="json", exclude_unset=True)
    return call(CreatedModel, Request(method="POST", path="/models", json=content, params={"dry_run": dry_run}))


def get_model(model_id: str) -> Flow[ModelResource]:
    """Return one model."""
    return call(ModelResource, Request(method="GET", path=f"/models/{segment(model_id)}"))


def list_models(*, limit: int = 20, after: str | None = None) -> Flow[ModelList]:
    """Return a page of models, newest first."""
    return call(ModelList, Request(method="GET", path="/models", params=given(limit=limit, after=after)))


def list_learngenes(*, limit: int = 20, after: str | None = None) -> Flow[LearngeneList]:
    """Return a page of learngenes, by name."""
    return call(LearngeneList, Request(method="GET", path="/learngenes", params=given(limit=limit, after=after)))
