"""A budget on the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tleg_core.budget import MAX_LIMIT, Budget
from tleg_core.cost import MAX_BATCH_SIZE
from tleg_core.description import MAX_TEXT
from tleg_core.errors import ConfigError
from tleg_core.path import MAX_PATH_CHARS, Path
from tleg_core.vit import MAX_DEPTH

Limit = Annotated[int | None, Field(default=None, strict=True, ge=1, le=MAX_LIMIT)]


def _written_path(text: str) -> str:
    """Return a path's written form as it is; raises where it is none."""
    try:
        Path.parse(text)
    except ConfigError as error:
        raise ValueError(error.reason) from error
    return text


DataSetName = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
PathText = Annotated[str, Field(max_length=MAX_PATH_CHARS), AfterValidator(_written_path)]


class BudgetBody(BaseModel):
    """The user's limits. All that are set must hold; none at all is allowed and gives the best member there is."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"example": {"max_params": 3_000_000}})

    depth: Annotated[int | None, Field(strict=True, ge=1, le=MAX_DEPTH)] = Field(None, description="Exactly so many blocks.")
    max_params: Limit = Field(None, description="At most so many parameters.")
    max_macs: Limit = Field(None, description="At most so many multiply-accumulates for one image.")
    max_flops: Limit = Field(None, description="At most so many floating-point operations for one image, 2 x MACs.")
    max_weights_bytes: Limit = Field(None, description="At most so many bytes of weights, in the chosen dtype.")
    max_memory_bytes: Limit = Field(
        None, description="At most so many bytes at the peak of a forward pass of batch_size images, weights included."
    )
    path: PathText | None = Field(
        None,
        description="Exactly the member of a pool that runs along this path.",
        examples=["0.0-7_1.8-11"],
    )
    batch_size: int = Field(
        1, strict=True, ge=1, le=MAX_BATCH_SIZE, description="Images in one forward pass, for max_memory_bytes."
    )

    def to_domain(self) -> Budget:
        """Return the core's budget."""
        path = None if self.path is None else Path.parse(self.path)
        return Budget(**self.model_dump(exclude={"batch_size", "path"}), path=path)
