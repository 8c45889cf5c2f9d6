"""The verbs of models."""

from __future__ import annotations

from service.api.schemas.models import CreatedModel, ModelList, ModelRequestBody, ModelResource
from service.client.call import call, fresh_key, given, segment
from service.client.effect import Flow, Request


def create_model(body: ModelRequestBody, *, dry_run: bool = False, idempotency_key: str | None = None) -> Flow[CreatedModel]:
    """Create the best model within a budget, and where the body says so a fine-tune of it.

    Args:
        body: The budget, and what to change of the network.
        dry_run: Only say what one would get.
        idempotency_key: Of the fine-tune, as `create_fine_tune` has it.
    """
    headers = {} if body.fine_tune is None else {"Idempotency-Key": idempotency_key or fresh_key()}
    content = body.model_dump(mode="json", exclude_unset=True)
    return call(
        CreatedModel, Request(method="POST", path="/models", json=content, params={"dry_run": dry_run}, headers=headers)
    )


def get_model(model_id: str) -> Flow[ModelResource]:
    """Return one model."""
    return call(ModelResource, Request(method="GET", path=f"/models/{segment(model_id)}"))


def list_models(*, limit: int = 20, after: str | None = None) -> Flow[ModelList]:
    """Return a page of models, newest first."""
    return call(ModelList, Request(method="GET", path="/models", params=given(limit=limit, after=after)))
