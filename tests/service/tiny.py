"""Tiny learngenes with random components, so that tests need neither training nor the shipped files."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tleg_core.description import Description, Measurement, Method, Provenance
from tleg_core.designs.basis import Basis, basis_shapes
from tleg_core.designs.pool import Anchor, Pool, Stitch
from tleg_core.designs.scratch import Scratch
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member
from tleg_core.schedule import Inherited, Polynomial, Schedule, Spline, Stagewise
from tleg_core.selection import Selection
from tleg_core.vit import VIT_SIZES, VitConfig

PROVENANCE = Provenance(data_set="shapes", ancestry="none", command="pytest", version="0", licence="Apache-2.0")
CLASS_NAMES = tuple(f"class {index}" for index in range(10))

SCHEDULES: dict[Method, Schedule] = {
    Method.TLEG: Polynomial(num_components=2),
    Method.POLYNOMIAL: Polynomial(num_components=3),
    Method.SPLINE: Spline(num_components=3),
    Method.STAGEWISE: Stagewise(),
}


def learngene(name: str, method: Method = Method.TLEG, config: VitConfig = VIT_SIZES["test"], **fields: Any) -> Learngene:
    """Return a learngene of random components that follow from its name; `fields` go to its basis and description."""
    schedule = SCHEDULES[method]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    tensors = {
        tensor: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for tensor, shape in basis_shapes(config, schedule.num_components).items()
    }
    design = {"min_depth": schedule.min_depth, "trained_depth": None}
    design |= {field: fields.pop(field) for field in ("min_depth", "max_depth", "trained_depth") if field in fields}
    given = {"provenance": PROVENANCE} | fields
    description = Description(name=name, method=method, design=Basis(schedule=schedule, config=config, **design), **given)
    return Learngene.create(description, tensors)


POOL = Pool(
    anchors=(
        Anchor(name="narrow", config=VIT_SIZES["test"], depth=3),
        Anchor(name="wide", config=replace(VIT_SIZES["test"], embed_dim=48, num_heads=3), depth=4),
    ),
    stitches=(
        Stitch(source=0, target=1, joins=((0, 1),)),
        Stitch(source=0, target=1, joins=((1, 2), (1, 3))),
        Stitch(source=1, target=0, joins=((1, 2),)),
    ),
    paths=tuple(map(PoolPath.parse, ("0.0-0_1.1-3", "0.0-1_1.2-3", "0.0-1_1.3-3", "0.0-0_1.1-1_0.2-2"))),
)
"""Two anchors of widths 32 and 48, and four paths between them."""


def pool(name: str, design: Pool = POOL, method: Method = Method.POOL, **fields: Any) -> Learngene:
    """Return a pool of random tensors that follow from its name; `fields` go to its description."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    tensors = {
        tensor: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for tensor, shape in design.tensor_shapes().items()
    }
    description = Description(name=name, method=method, design=design, **{"provenance": PROVENANCE} | fields)
    return Learngene.create(description, tensors)


def inherited(name: str, **fields: Any) -> Learngene:
    """Return a learngene of two layers of four, with the evidence of their choice; the others are fresh."""
    config, schedule = VIT_SIZES["test"], Inherited(layers=(1, 3), of=4)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    tensors = {
        tensor: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for tensor, shape in basis_shapes(config, schedule.num_components).items()
    }
    description = Description(
        name=name,
        method=Method.LEARNGENE,
        design=Basis(schedule=schedule, config=config, min_depth=2, max_depth=6, trained_depth=None),
        selection=Selection(rule="the two highest", scores=(0.1, 0.7, 0.2, 0.6), chosen=(1, 3), details={"tasks": 2}),
        **{"provenance": PROVENANCE} | fields,
    )
    return Learngene.create(description, tensors)


def scratch(name: str) -> Learngene:
    """Return a learngene that stores nothing."""
    description = Description(name=name, method=Method.SCRATCH, design=Scratch(config=VIT_SIZES["test"]), provenance=PROVENANCE)
    return Learngene.create(description, {})


def write_other_designs(folder: Path) -> list[Path]:
    """Write `tiny-pool`, four of whose members are measured, `tiny-inherited` and `tiny-scratch`."""
    top1 = {"0.0-2": 0.6, "1.0-3": 0.8, "0.0-0_1.1-3": 0.75, "0.0-1_1.3-3": 0.7}
    accuracy = tuple(
        Measurement.of(Member.along(PoolPath.parse(path)), data_set="shapes", top1=value, images=1000)
        for path, value in top1.items()
    )
    learngenes = [
        pool("tiny-pool", accuracy=accuracy, class_names=CLASS_NAMES),
        inherited("tiny-inherited"),
        scratch("tiny-scratch"),
    ]
    return [_write(item, folder) for item in learngenes]


def measured(data_set: str, accuracies: dict[int, float]) -> tuple[Measurement, ...]:
    """Return measurements on a thousand images of a data set, by depth."""
    return tuple(Measurement(depth=depth, data_set=data_set, top1=top1, images=1000) for depth, top1 in accuracies.items())


def write_small_learngenes(folder: Path) -> list[Path]:
    """Write one learngene of each method: `tiny-tleg` and `tiny-polynomial` measured, `tiny-stagewise` not."""
    shapes = {depth: 0.5 + 0.03 * depth for depth in range(1, 12)} | {12: 0.8}  # the deepest is not the best
    learngenes = [
        learngene("tiny-tleg", accuracy=measured("shapes", shapes), class_names=CLASS_NAMES, trained_depth=12),
        learngene(
            "tiny-polynomial",
            Method.POLYNOMIAL,
            max_depth=8,
            accuracy=measured("shapes", {2: 0.57, 8: 0.7}) + measured("digits", {2: 0.9, 8: 0.95}),
        ),
        learngene("tiny-stagewise", Method.STAGEWISE),
    ]
    return [_write(item, folder) for item in learngenes]


def write_large_learngene(folder: Path) -> Path:
    """Write `large-tleg`, ViT-S wide and up to 64 blocks deep: its members' files have up to 455 MB, its own has 19."""
    return _write(learngene("large-tleg", config=VIT_SIZES["small"], max_depth=64), folder)


def _write(item: Learngene, folder: Path) -> Path:
    path = folder / f"{item.name}.safetensors"
    item.write(path)
    return path
