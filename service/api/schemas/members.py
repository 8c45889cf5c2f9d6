"""Members of a family and what they cost."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field

from tleg_core.budget import Accuracy, Candidate
from tleg_core.cost import Cost
from tleg_core.recipe import Member


class MemberReference(BaseModel):
    """Which member of a family."""

    depth: int = Field(description="Number of blocks.", examples=[6])
    path: str | None = Field(
        description="In a pool: which blocks of which anchors, as `0.0-7_1.8-11`: anchor 0's blocks 0 to 7, then anchor 1's "
        "blocks 8 to 11. Null where the depth alone says which member it is.",
        examples=[None, "0.0-7_1.8-11"],
    )


def member_fields(member: Member) -> dict[str, Any]:
    """Return the fields of `MemberReference`."""
    return {"depth": member.depth, "path": None if member.path is None else str(member.path)}


class MeasuredAccuracy(BaseModel):
    """A measured accuracy."""

    top1: float = Field(description="Top-1 accuracy, a fraction from 0 to 1, without any fine-tuning.", examples=[0.87])
    images: int = Field(description="Test images that it was measured on.", examples=[10000])

    @classmethod
    def table(cls, accuracy: dict[str, Accuracy]) -> dict[str, Self]:
        """Return accuracies by data set."""
        return {name: cls(top1=entry.top1, images=entry.images) for name, entry in accuracy.items()}


class Costs(BaseModel):
    """What a network costs."""

    params: int = Field(description="Parameters.", examples=[2706634])
    macs: int = Field(description="Multiply-accumulates for one image.", examples=[44034432])
    flops: int = Field(description="Floating-point operations for one image: 2 x MACs.", examples=[88068864])
    weights_bytes: int = Field(description="Bytes of the weights in the chosen dtype.", examples=[10826536])
    memory_bytes: int = Field(
        description="Peak bytes of an eager forward pass of one image, weights included.", examples=[10958440]
    )


def cost_fields(cost: Cost) -> dict[str, int]:
    """Return the fields of `Costs`."""
    return {
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
        "weights_bytes": cost.weights_bytes,
        "memory_bytes": cost.memory_bytes,
    }


class MemberIdentity(BaseModel):
    """Which member of which learngene."""

    learngene: str = Field(description="The learngene's id.", examples=["tleg-ti-fashion-mnist"])
    member: MemberReference = Field(description="Which member of the learngene's family.")


class MemberCosts(Costs, MemberIdentity):
    """A member and what it costs."""

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """Describe a candidate."""
        return cls(**cls._facts(candidate))

    @classmethod
    def _facts(cls, candidate: Candidate) -> dict[str, Any]:
        facts = {"learngene": candidate.learngene, "member": member_fields(candidate.member)}
        return facts | cost_fields(candidate.cost)


class MeasuredMember(MemberCosts):
    """A member, what it costs, and its measured accuracy."""

    accuracy: dict[str, MeasuredAccuracy] = Field(description="Measured accuracy by data set; empty where none was measured.")

    @classmethod
    def _facts(cls, candidate: Candidate) -> dict[str, Any]:
        return super()._facts(candidate) | {"accuracy": MeasuredAccuracy.table(dict(candidate.accuracy))}
