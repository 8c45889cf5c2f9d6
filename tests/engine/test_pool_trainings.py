"""Pools trained in the engine: phase by phase, from whichever state, to one file whose every path is measured."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.domain.model import Model
from service.worker.protocol import AnchorModel, EpochDone, Finished, Note, Saved, Started, Stepped, Stopped, TrainingRun
from tests.engine.conftest import CLASSES, Scene, again
from tests.engine.driver import Engine
from tests.engine.test_kills import finish_despite_kills
from tests.engine.test_trainings import stored, training
from tleg_core.description import Method
from tleg_core.family import Family, Variation
from tleg_core.recipe import Member

pytestmark = pytest.mark.slow  # an engine of its own

CONFIG: dict[str, Any] = {
    "pool": {"method": "sn-net"},
    "anchors": [
        {"name": "small", "size": "test", "embed_dim": 16, "num_heads": 2, "depth": 2},
        {"name": "large", "size": "test", "embed_dim": 32, "num_heads": 2, "depth": 3},
    ],
    "network": {"img_size": 8, "patch_size": 4},
    "stitching": {"images": 16},
    "joint": {"epochs": 1, "alpha": 0.0},
    "training": {"epochs": 1, "batch_size": 24, "lr": 3e-3, "precision": "float32"},
    "augmentation": {"shift": 1},
}
STEPS = 9
"""Three phases of one epoch of 72 images, by 24."""


def pool_run(scene: Scene, *, checkpoint_s: float = 1000.0, **changes: Any) -> TrainingRun:
    """Return the order of a new job: a tiny pool on the scene's images."""
    run = training(scene, checkpoint_s=checkpoint_s)
    return run.model_copy(update={"settings": run.settings | {"config": CONFIG | changes}})


def known_model(scene: Scene) -> Model:
    """Return a model with the data set's classes."""
    family = Family(scene.learngene)
    return Model.of(family, family.recipe(Member(depth=3), Variation(num_classes=len(CLASSES))))


def test_a_pool_is_made_phase_by_phase_and_every_path_is_measured(engine: Engine, scene: Scene) -> None:
    """The phases are named, steps and epochs run on through all of them, and the file knows each member's accuracy."""
    started, *reports = engine.do(pool_run(scene))
    assert isinstance(started, Started)
    assert started.steps == STEPS
    phases = [report.message for report in reports if isinstance(report, Note)]
    assert [message.partition(": ")[2] for message in phases] == [
        "anchor small",
        "anchor large",
        "stitches by least-squares",
        "all together",
    ]
    epochs = [report for report in reports if isinstance(report, EpochDone)]
    assert [(report.epoch, report.step) for report in epochs] == [(1, 3), (2, 6), (3, 9)]
    finished = reports[-1]
    assert isinstance(finished, Finished)
    assert (finished.epoch, finished.step) == (3, STEPS)
    description = stored(scene, finished).description
    assert (description.name, description.method, description.class_names) == ("bands", Method.SN_NET, CLASSES)
    measured = {entry.member: entry.top1 for entry in description.accuracy}
    assert list(measured) == list(description.pool.members)
    assert {f"top1_path_{member.path}": top1 for member, top1 in measured.items()}.items() <= finished.metrics.items()
    assert finished.metrics["top1"] == measured[Member.along(description.pool.whole(1))]
    assert {(entry.data_set.partition(" (")[0], entry.images) for entry in description.accuracy} == {("bands", 18)}
    assert finished.weights.images == 18


@pytest.mark.parametrize("place", [0, 4, -1])
def test_a_pool_goes_on_from_any_state_to_the_same_file(engine: Engine, scene: Scene, place: int) -> None:
    """From a state within a phase, from the seam of two, and from the last, at which all that is left is to measure."""
    run = pool_run(scene, checkpoint_s=0.0)
    reports = engine.do(run)
    saved = [report for report in reports if isinstance(report, Saved)]
    state = saved[place]
    resumed = engine.do(again(run, state.key))
    steps = [report.step for report in resumed if isinstance(report, Stepped)]
    assert all(step > state.step for step in steps)
    assert bool(steps) == (state.step < STEPS)
    assert resumed[-1].weights.sha256 == reports[-1].weights.sha256


def test_a_pool_stops_when_it_is_told_to_and_keeps_its_phases(engine: Engine, scene: Scene) -> None:
    """In the second of them, with a state; what went before is not done again."""
    run = pool_run(scene, training=CONFIG["training"] | {"epochs": 20})
    engine.order(run)
    reports = []
    while not (isinstance(reports[-1] if reports else None, Stepped) and reports[-1].step > 60):
        reports.append(engine.report())
    engine.stop(run.job, save=True)
    reports = engine.until(Stopped)
    assert isinstance(reports[-1], Stopped)
    saved = [report for report in reports if isinstance(report, Saved)][-1]
    assert saved.step > 60
    resumed = engine.do(again(run, saved.key))
    assert isinstance(resumed[-1], Finished), resumed[-1]
    messages = [report.message for report in resumed if isinstance(report, Note)]
    assert not any("anchor small" in message for message in messages)


def test_a_model_of_the_service_teaches_a_pool(engine: Engine, scene: Scene) -> None:
    """Distilled anchors look at its blocks; the file says which model it was."""
    model = known_model(scene)
    run = pool_run(
        scene,
        pool={"method": "pool"},
        network={"img_size": model.config.img_size, "patch_size": model.config.patch_size},
        anchors=[anchor | {"depth": 3, "positions": "front-end"} for anchor in CONFIG["anchors"]],
        anchor_training={"rule": "distilled", "normalisation": "batchmean"},
        stitching={"init": "learned"},
    )
    finished = engine.do(run.model_copy(update={"teacher": model.to_json()}))[-1]
    assert isinstance(finished, Finished), finished
    description = stored(scene, finished).description
    assert description.method is Method.POOL
    assert model.id in description.provenance.ancestry


def test_anchors_that_are_models_are_not_trained_again(engine: Engine, scene: Scene) -> None:
    """They are in the pool bit for bit, where nothing trains them further; without stitches the pool is those alone."""
    model = known_model(scene)
    config = model.config
    anchor = {"name": "given", "embed_dim": config.embed_dim, "num_heads": config.num_heads, "depth": model.stack.depth}
    run = pool_run(
        scene,
        pool={"method": "pretrained"},
        network={"img_size": config.img_size, "patch_size": config.patch_size},
        anchors=[anchor],
        joint={"epochs": 0},
        training={"epochs": 3, "batch_size": 24, "precision": "float32"},
    )
    run = run.model_copy(update={"anchors": [AnchorModel(name="given", model=model.to_json(), learngene_key=None)]})
    started, *_, finished = engine.do(run)
    assert isinstance(finished, Finished), finished
    assert started.steps == finished.step == 0
    learngene = stored(scene, finished)
    expected = scene.learngene.tensors["norm.weight"]
    assert (learngene.tensors["anchors.0.norm.weight"] == expected).all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pool_that_is_killed_at_random_moments_ends_in_the_same_file(start: Callable[..., Engine], scene: Scene) -> None:
    """With states after each update, in whichever phase."""
    changes = {"training": CONFIG["training"] | {"epochs": 8, "drop_path": 0.1}, "joint": {"epochs": 8, "alpha": 0.0}}
    with start() as engine:
        begun = time.monotonic()
        undisturbed = engine.do(pool_run(scene, **changes))[-1]
        took_s = time.monotonic() - begun
    rng = random.Random(11)
    delays_s = [rng.uniform(0.0, took_s) for _ in range(3)]
    killed = finish_despite_kills(start, pool_run(scene, checkpoint_s=0.0, **changes), delays_s)
    assert isinstance(killed, Finished), killed
    assert killed.weights.sha256 == undisturbed.weights.sha256


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_make_a_pool_together(start: Callable[..., Engine], scene: Scene) -> None:
    """They fit stitches and measure together too, and end in the same file twice."""
    run = pool_run(scene)
    run = run.model_copy(update={"settings": run.settings | {"nproc": 2}})
    digests = []
    with start(nproc=2) as engine:
        for _ in range(2):
            finished = engine.do(run)[-1]
            assert isinstance(finished, Finished), finished
            digests.append(finished.weights.sha256)
    assert digests[0] == digests[1]
