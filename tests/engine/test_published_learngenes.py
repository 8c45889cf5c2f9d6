"""Learngenes that were published after the engine's start: fetched by key, kept for a while, never trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from service.domain.errors import LearngeneNotLoadedError, ObjectStoreError
from service.domain.model import Model
from service.storage.object_store import ObjectStore, learngene_key
from service.worker.protocol import Failed, FineTuneRun, Finished
from service.worker.workbench import Workbench
from tests.engine.conftest import Scene
from tests.engine.driver import Engine
from tests.service import tiny
from tleg_core.canonical import sha256_hex
from tleg_core.descendant import Descendant
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.recipe import Member
from tleg_core.training.processes import Processes


@pytest.fixture(scope="module")
def bare(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that starts without any learngene."""
    with Engine(tmp_path_factory.mktemp("bare"), [], scene.store.url) as running:
        yield running


@pytest.fixture
def key(scene: Scene) -> str:
    """The key under which the scene's learngene is published."""
    key = learngene_key(sha256_hex(scene.learngene.content), "publication")
    scene.store.put_file(key, scene.learngene_path)
    return key


def with_key(run: FineTuneRun, key: str | None) -> FineTuneRun:
    """Return an order that says where the model's learngene lies."""
    return run.model_copy(update={"learngene_key": key})


def test_a_published_learngene_is_fetched_and_trains_as_one_that_was_there(
    bare: Engine, engine: Engine, scene: Scene, key: str
) -> None:
    """The same weights, bit for bit; the next job needs the object store no more."""
    run = scene.run(epochs=1)
    expected = engine.do(run)[-1]
    assert isinstance(expected, Finished)
    assert bare.do(with_key(run, key))[-1].weights.sha256 == expected.weights.sha256
    scene.store.delete(key)
    assert bare.do(with_key(run, key))[-1].weights.sha256 == expected.weights.sha256


def test_a_learngene_that_is_gone_fails_the_job_by_its_name(bare: Engine, scene: Scene) -> None:
    """`learngene_not_loaded`, and the engine goes on."""
    other = tiny.learngene("other")
    model = Model.of(Family(other), Family(other).recipe(Member(depth=3), Variation()))
    run = scene.run(epochs=1).model_copy(update={"model": model.to_json()})
    for key in (None, learngene_key("0" * 64, "publication")):
        failed = bare.do(with_key(run, key))[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "learngene_not_loaded"


@dataclass
class Published:
    """A published learngene, and a model of it."""

    learngene: Learngene
    key: str

    @property
    def model(self) -> Model:
        """The model of three blocks."""
        family = Family(self.learngene)
        return Model.of(family, family.recipe(Member(depth=3), Variation()))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An object store."""
    return ObjectStore((tmp_path / "objects").as_uri())


@pytest.fixture
def bench(store: ObjectStore, tmp_path: Path) -> Workbench:
    """What an engine holds that started without any learngene."""
    return Workbench([], store, device=torch.device("cpu"), work_dir=tmp_path / "work", processes=Processes())


def publish(store: ObjectStore, tmp_path: Path, name: str) -> Published:
    """Put a learngene of that name into the store."""
    learngene = tiny.learngene(name)
    path = tmp_path / f"{name}.safetensors"
    learngene.write(path)
    key = learngene_key(sha256_hex(learngene.content), "publication")
    store.put_file(key, path)
    return Published(learngene, key)


def test_a_workbench_keeps_few_learngenes(bench: Workbench, store: ObjectStore, tmp_path: Path) -> None:
    """Of six that jobs needed, the last four; one that is used again stays; their files do not."""
    items = [publish(store, tmp_path, f"item-{number}") for number in range(6)]
    for number in (0, 1, 2, 3, 0, 4, 5):
        bench.fetch_learngene(items[number].key)
    held = []
    for number, item in enumerate(items):
        try:
            bench.preprocessing(item.model)
            held.append(number)
        except LearngeneNotLoadedError:
            continue
    assert held == [0, 3, 4, 5]
    assert list(bench.work_dir.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-4]), id="cut"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(bytes(path.stat().st_size)), id="zeros"),
    ],
)
def test_a_damaged_learngene_is_not_used(
    bench: Workbench, store: ObjectStore, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the object, a job fails by its name, nothing is left in the work folder, and once mended it is used."""
    item = publish(store, tmp_path, "item")
    path = store.local_path(item.key)
    assert path is not None
    damage(path)
    bench.fetch_learngene(item.key)
    (entry,) = caplog.records
    assert (entry.__dict__["action"], entry.__dict__["object"]) == ("learngene_broken", item.key)
    with pytest.raises(LearngeneNotLoadedError, match="item"):
        bench.weights(item.model)
    assert list(bench.work_dir.iterdir()) == []
    item.learngene.write(path)
    bench.fetch_learngene(item.key)
    expected = Descendant(Family(item.learngene), item.model.recipe)
    assert bench.weights(item.model).keys() == {spec.name for spec, _ in expected.family.sources(item.model.recipe)}


def test_an_object_store_that_fails_is_no_missing_learngene(bench: Workbench, store: ObjectStore, tmp_path: Path) -> None:
    """The job fails for the store, so that its owner knows that it can be tried again."""
    item = publish(store, tmp_path, "item")
    folder = tmp_path / "objects" / "learngenes"
    folder.rename(tmp_path / "objects" / "hidden")
    folder.write_text("no folder")
    with pytest.raises(ObjectStoreError):
        bench.fetch_learngene(item.key)
