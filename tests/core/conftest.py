"""Fixtures of the core's tests: tiny learngenes whose values are the same on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tleg_core.description import Description, Method, Provenance
from tleg_core.designs.basis import Basis, basis_shapes
from tleg_core.designs.pool import Anchor, Pool, Stitch
from tleg_core.designs.scratch import Scratch
from tleg_core.family import Family
from tleg_core.learngene import Learngene
from tleg_core.path import Path
from tleg_core.schedule import Inherited, Polynomial, Schedule, Spline, Stagewise
from tleg_core.vit import VIT_SIZES, VitConfig, timm_architecture, timm_model_args

LearngeneFactory = Callable[..., Learngene]

PROVENANCE = Provenance(data_set="none", ancestry="none", command="pytest", version="0", licence="Apache-2.0")

METHOD_SCHEDULES: dict[Method, Schedule] = {
    Method.TLEG: Polynomial(num_components=2),
    Method.POLYNOMIAL: Polynomial(num_components=3),
    Method.SPLINE: Spline(num_components=3),
    Method.STAGEWISE: Stagewise(),
    Method.LEARNGENE: Inherited(layers=(0, 2), of=3),
}


def exact_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 numbers within 1/32 of zero, made from Philox's raw bits by exact arithmetic alone."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    integers = (raw >> np.uint64(40)).astype(np.int64) - 2**23  # 24 bits each: exact in float32
    return (integers * 2.0**-28).astype(np.float32).reshape(shape)


def build_learngene(config: VitConfig | None = None, method: Method = Method.TLEG, **changes: Any) -> Learngene:
    """Return a learngene of `method`, of the smallest size unless `config` is given; `changes` go to basis and description."""
    config = config or VIT_SIZES["test"]
    schedule: Schedule = changes.pop("schedule", METHOD_SCHEDULES[method])
    shapes = basis_shapes(config, schedule.num_components)
    design: dict[str, Any] = {"min_depth": schedule.min_depth, "trained_depth": None}
    design |= {name: changes.pop(name) for name in ("min_depth", "max_depth", "trained_depth") if name in changes}
    fields: dict[str, Any] = {"name": f"test-{method}", "method": method, "provenance": PROVENANCE}
    description = Description(design=Basis(schedule=schedule, config=config, **design), **(fields | changes))
    return Learngene.create(description, {name: exact_values(name, shape) for name, shape in shapes.items()})


TEST_POOL = Pool(
    anchors=(
        Anchor(name="narrow", config=VIT_SIZES["test"], depth=3),
        Anchor(name="wide", config=replace(VIT_SIZES["test"], embed_dim=48, num_heads=3), depth=4),
    ),
    stitches=(
        Stitch(source=0, target=1, joins=((0, 1),)),
        Stitch(source=0, target=1, joins=((1, 2), (1, 3))),
        Stitch(source=1, target=0, joins=((1, 2),)),
    ),
    paths=tuple(map(Path.parse, ("0.0-0_1.1-3", "0.0-1_1.2-3", "0.0-1_1.3-3", "0.0-0_1.1-1_0.2-2", "1.0-1_0.2-2"))),
)
"""Two anchors of widths 32 and 48 and depths 3 and 4, three stitches, one of them used twice and one leading back."""


def build_pool(pool: Pool = TEST_POOL, method: Method = Method.POOL, **fields: Any) -> Learngene:
    """Return a pool's learngene; `fields` go to its description."""
    given: dict[str, Any] = {"name": f"test-{method}", "method": method, "provenance": PROVENANCE} | fields
    tensors = {name: exact_values(name, shape) for name, shape in pool.tensor_shapes().items()}
    return Learngene.create(Description(design=pool, **given), tensors)


def build_scratch(config: VitConfig | None = None, **fields: Any) -> Learngene:
    """Return a learngene of which everything is drawn."""
    given: dict[str, Any] = {"name": "test-scratch", "method": Method.SCRATCH, "provenance": PROVENANCE} | fields
    return Learngene.create(Description(design=Scratch(config=config or VIT_SIZES["test"]), **given), {})


def build_timm(config: VitConfig, depth: int, *, device: str = "meta") -> nn.Module:
    """Return timm's model of `config`, in eval mode, by the arguments that users are given."""
    with torch.device(device):
        model: nn.Module = timm.create_model(
            timm_architecture(config), num_classes=config.num_classes, **timm_model_args(config, depth)
        )
    return model.eval()


@pytest.fixture(scope="session")
def make_learngene() -> LearngeneFactory:
    """A factory of tiny learngenes: `make_learngene(config, method, **description_fields)`."""
    return build_learngene


@pytest.fixture(scope="session")
def make_timm() -> Callable[..., nn.Module]:
    """A factory of timm models: `make_timm(config, depth, device="meta")`."""
    return build_timm


@pytest.fixture(scope="session")
def learngene() -> Learngene:
    """A TLEG learngene of the smallest size."""
    return build_learngene()


@pytest.fixture(scope="session")
def family(learngene: Learngene) -> Family:
    """Its family."""
    return Family(learngene)
