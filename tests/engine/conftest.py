"""Fixtures of the engine's tests: an object store with a small data set in it, a learngene, and orders for jobs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from service.domain.dataset import Dataset
from service.domain.model import Model
from service.storage.object_store import ObjectStore
from service.worker.protocol import FineTuneRun, TrainingRun
from tests.core.conftest import build_learngene
from tests.engine.driver import Engine
from tleg_core.family import Family, Variation
from tleg_core.fine_tuning import FineTuneFacts, FineTuneSettings
from tleg_core.image_file import TRAIN, ImageFileWriter
from tleg_core.learngene import Learngene
from tleg_core.recipe import Member
from tleg_core.training.fine_tune import held_out_count

CLASSES = ("high", "low", "middle")
IMAGES_A_CLASS = 30
_JOBS = itertools.count(1)

RunT = TypeVar("RunT", FineTuneRun, TrainingRun)


@dataclass
class Scene:
    """What a job needs."""

    store: ObjectStore
    learngene: Learngene
    learngene_path: Path
    model: Model
    dataset: Dataset

    def settings(self, **requested: Any) -> FineTuneSettings:
        """Return settings: a short run unless asked for otherwise."""
        num_train = sum(count - held_out_count(count, 0.2) for count in self.dataset.train_counts)
        facts = FineTuneFacts(
            num_train=num_train,
            num_classes=len(CLASSES),
            has_test_split=False,
            img_size=32,
            depth=self.model.recipe.member.depth,
            same_classes=False,
        )
        return FineTuneSettings.resolve({"epochs": 3, "batch_size": 8, "precision": "float32"} | requested, facts)

    def run(self, *, checkpoint_s: float = 1000.0, **requested: Any) -> FineTuneRun:
        """Return the order of a new job."""
        return FineTuneRun(
            job=f"ft-{next(_JOBS):032x}",
            attempt=1,
            model=self.model.to_json(),
            dataset=self.dataset.to_json(),
            settings=self.settings(**requested).to_json(),
            resume_key=None,
            checkpoint_s=checkpoint_s,
        )


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A store with images of a bright band at one of three heights, in different sizes, and a model to start from."""
    folder = tmp_path_factory.mktemp("scene")
    learngene = _trainable(build_learngene())
    learngene.write(folder / "learngene.safetensors")
    store = ObjectStore((folder / "objects").as_uri())
    rng = np.random.default_rng(0)
    path = folder / "images.arrow"
    with ImageFileWriter(path, CLASSES) as writer:
        for index in range(IMAGES_A_CLASS * len(CLASSES)):
            label, side = index % len(CLASSES), 32 + index % 7
            image = rng.integers(0, 80, (side, side + 5, 3), dtype=np.uint8)
            image[side * label // 3 : side * (label + 1) // 3] += 150
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            writer.add(buffer.getvalue(), f"{index}.png", label, TRAIN)
    key = "datasets/bands.arrow"
    store.put_file(key, path)
    dataset = Dataset(
        id="ds-" + 32 * "a",
        name="bands",
        class_names=CLASSES,
        train_counts=(IMAGES_A_CLASS,) * 3,
        test_counts=(0, 0, 0),
        size_bytes=path.stat().st_size,
        min_side=32,
        max_side=43,
        formats={"PNG": 90},
        refused={},
        refused_examples=(),
        object_key=key,
    )
    family = Family(learngene)
    model = Model.of(family, family.recipe(Member(depth=3), Variation()))
    return Scene(store, learngene, folder / "learngene.safetensors", model, dataset)


def _trainable(learngene: Learngene) -> Learngene:
    """Return a learngene with norms of one: its descendants can learn."""
    tensors = {name: tensor.copy() for name, tensor in learngene.tensors.items()}
    for name, tensor in tensors.items():
        if name.startswith("basis.norm"):
            tensor[:] = 0.0
        if name.endswith("weight") and "norm" in name:
            tensor[0 if name.startswith("basis") else ...] = 1.0
    return Learngene.create(learngene.description, tensors)


@pytest.fixture
def start(scene: Scene, tmp_path: Path) -> Callable[..., Engine]:
    """Start an engine on the scene: `start(nproc=1)`."""
    numbers = itertools.count(1)

    def begin(**options: Any) -> Engine:
        return Engine(tmp_path / f"e{next(numbers)}", [scene.learngene_path], scene.store.url, **options)

    return begin


@pytest.fixture(scope="module")
def engine(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for all jobs of a module that leave it whole."""
    with Engine(tmp_path_factory.mktemp("engine"), [scene.learngene_path], scene.store.url) as running:
        yield running


def again(run: RunT, key: str | None, *, attempt: int = 2) -> RunT:
    """Return the order of a later attempt that goes on from a state."""
    return run.model_copy(update={"resume_key": key, "attempt": attempt})
