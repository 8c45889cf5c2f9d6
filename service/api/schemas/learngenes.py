"""Learngenes on the wire."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from service.api.schemas.members import Costs, MeasuredAccuracy, MemberReference, cost_fields, member_fields
from service.domain.catalogue import Origin, Source
from tleg_core.description import Description, Method
from tleg_core.designs.pool import Pool
from tleg_core.family import Family, Variation


class NetworkConfig(BaseModel):
    """The network without its depth, in timm's argument names."""

    embed_dim: int = Field(description="Width of a token.")
    num_heads: int = Field(description="Attention heads.")
    img_size: int = Field(description="Side of the square input image, in pixels.")
    patch_size: int = Field(description="Side of a patch, in pixels.")
    in_chans: int = Field(description="Channels of the image.")
    num_classes: int = Field(description="Outputs of the head.")
    mlp_ratio: float = Field(description="Width of the MLP over embed_dim.")
    class_token: bool = Field(description="Whether a class token is prepended.")
    global_pool: Literal["avg", "token"] = Field(description="How tokens become one vector, after the final norm.")


class AnchorResource(BaseModel):
    """One whole network of a pool."""

    name: str = Field(description="What it is called within the pool.", examples=["ti"])
    depth: int = Field(description="Number of blocks.")
    config: NetworkConfig = Field(description="The network without its depth.")


class SelectionResource(BaseModel):
    """How the ancestry model's layers that are inherited were chosen."""

    rule: str = Field(description="In words, enough to make the choice again from the scores.")
    scores: list[float] = Field(description="One number for each layer of the ancestry model, from its first.")
    chosen: list[int] = Field(description="The layers that are inherited, from 0, ascending.")
    details: dict[str, Any] = Field(description="What the scores were made of.")


class ProvenanceBody(BaseModel):
    """Where a learngene comes from."""

    data_set: str = Field(description="What it was trained on.")
    ancestry: str = Field(description="The ancestry model that it was distilled from.")
    command: str = Field(description="The command that made it.")
    version: str = Field(description="The version of tleg that made it.")
    licence: str = Field(description="The licence of the learngene; empty where none is stated.")
    notes: str = Field(description="What else is worth knowing.")


class FamilyMember(Costs, MemberReference):
    """One member: its depth or path, costs and measured accuracy."""

    accuracy: dict[str, MeasuredAccuracy] = Field(description="Measured accuracy by data set.")


class LearngeneResource(BaseModel):
    """A learngene, with every member of its family."""

    object: Literal["learngene"] = Field("learngene", description="Always `learngene`.")
    id: str = Field(description="The learngene's name, unique on this server.", examples=["tleg-ti-fashion-mnist"])
    method: str = Field(description=f"The method that made it: {', '.join(Method)}.", examples=["tleg"])
    digest: str = Field(description="sha256 of what decides its descendants' weights, 64 hex digits.")
    source: Source = Field(
        description="How it came to this server: `shipped` with the package, `configured` by the operator, or `published`."
    )
    published_at: datetime | None = Field(description="When its file was published; null where it was not.")
    config: NetworkConfig = Field(description="The network without its depth; in a pool, its widest anchor.")
    anchors: list[AnchorResource] = Field(
        description="The whole networks of a pool, in the order that paths count them in; empty for other methods."
    )
    stitches: int = Field(description="Layers between the anchors of a pool; 0 for other methods.")
    selection: SelectionResource | None = Field(
        description="How the layers that are inherited were chosen; null where none are."
    )
    trained_depth: int | None = Field(description="Depth of the auxiliary model; null where there was none.")
    stored_params: int = Field(description="Parameters stored for the whole family.")
    size_bytes: int = Field(description="Bytes of the learngene's file.")
    sha256: str = Field(description="sha256 of the learngene's file, 64 hex digits; another one where more was measured.")
    class_names: list[str] = Field(description="Labels of the head, in order; may be empty.")
    provenance: ProvenanceBody = Field(description="Data, ancestry model, command, version, licence.")
    members: list[FamilyMember] = Field(
        description="All members, by depth, or a pool's anchors and then its stitched paths; costs in float32 for one image."
    )
    links: dict[str, str] = Field(description="Paths on this server: self, weights.")

    @classmethod
    def of(cls, family: Family, origin: Origin) -> Self:
        """Describe a family."""
        description = family.learngene.description
        return cls(
            id=family.name,
            method=description.method.value,
            digest=family.digest,
            source=origin.source,
            published_at=origin.published_at,
            config=NetworkConfig(**description.config.to_json()),
            **_design_fields(description),
            trained_depth=description.trained_depth,
            stored_params=family.learngene.num_params,
            size_bytes=len(family.learngene.content),
            sha256=origin.sha256,
            class_names=list(description.class_names),
            provenance=ProvenanceBody(**asdict(description.provenance)),
            members=[
                FamilyMember(
                    **member_fields(candidate.member),
                    **cost_fields(candidate.cost),
                    accuracy=MeasuredAccuracy.table(dict(candidate.accuracy)),
                )
                for candidate in family.candidates(Variation())
            ],
            links={"self": f"/learngenes/{family.name}", "weights": f"/learngenes/{family.name}/weights"},
        )


def _design_fields(description: Description) -> dict[str, Any]:
    """Return what some designs alone have: a pool its anchors and stitches, inherited layers their selection."""
    pool = description.design if isinstance(description.design, Pool) else None
    selection = description.selection
    return {
        "anchors": []
        if pool is None
        else [
            AnchorResource(name=item.name, depth=item.depth, config=NetworkConfig(**item.config.to_json()))
            for item in pool.anchors
        ],
        "stitches": 0 if pool is None else len(pool.stitches),
        "selection": None if selection is None else SelectionResource(**selection.to_json()),
    }


class LearngeneList(BaseModel):
    """A page of learngenes."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[LearngeneResource] = Field(description="The learngenes, by name.")
    has_more: bool = Field(description="Whether more follow; pass the last id as `after`.")
