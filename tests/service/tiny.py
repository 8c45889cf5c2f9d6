"""Tiny learngenes with random components, so that tests need neither training nor the shipped files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tleg_core.description import Description, Measurement, Method, Provenance
from tleg_core.designs.basis import Basis, basis_shapes
from tleg_core.learngene import Learngene
from tleg_core.schedule import Polynomial, Schedule, Spline, Stagewise
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
