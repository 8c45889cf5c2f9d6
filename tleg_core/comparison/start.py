"""The start of a fine-tune, as a unit's settings have it: the network, and what decides its weights.

A plain network is `network` and `depth`; one along a pool's path is `path` and the `stages` that it leads through. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tleg_core.comparison.rows import Method
from tleg_core.designs.pool import Pool
from tleg_core.path import Path
from tleg_core.recipe import Member
from tleg_core.stack import Stack, Stage
from tleg_core.vit import VitConfig


def start_along(path: Path, pool: Pool) -> dict[str, Any]:
    """Return the start of a pool's member."""
    stages = [{"network": stage.config.to_json(), "depth": stage.depth} for stage in pool.stack(Member.along(path)).stages]
    return {"method": Method.POOL.value, "path": str(path), "stages": stages}


def stack_of(start: Mapping[str, Any]) -> Stack:
    """Return the network of a start, with the classes of the data that all was trained on."""
    stages = start.get("stages", [start])
    return Stack(tuple(Stage(config=VitConfig.from_json(stage["network"]), depth=stage["depth"]) for stage in stages))
