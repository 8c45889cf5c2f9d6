"""Trainings of learngenes in the engine: what is reported and stored, and that it is the same whatever happens on the way."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.worker.protocol import EpochDone, Failed, Finished, Note, Saved, Started, Stepped, Stopped, TrainingRun
from tests.engine.conftest import CLASSES, Scene, again
from tests.engine.driver import Engine
from tests.engine.test_engine import tuned_model
from tests.engine.test_kills import finish_despite_kills
from tleg_core.learngene import Learngene

CONFIG: dict[str, dict[str, Any]] = {
    "network": {"embed_dim": 16, "num_heads": 2, "img_size": 8, "patch_size": 4},
    "depths": {"rule": "sandwich", "train": 4, "train_min": 2, "offer_max": 5},
    "distillation": {"alpha": 0.0},
    "training": {"epochs": 6, "batch_size": 8, "lr": 3e-3, "precision": "float32"},
    "augmentation": {"shift": 1},
}
CHANCE = {"training": {"drop_path": 0.1, "ema_decay": 0.9}, "augmentation": {"mixup_alpha": 0.4, "random_erasing": 0.2}}
"""Every source of chance that a training has."""


def training(
    scene: Scene, changes: dict[str, dict[str, Any]] | None = None, *, checkpoint_s: float = 1000.0, teacher: bool = False
) -> TrainingRun:
    """Return the order of a new job: a tiny learngene on the scene's images."""
    config = {section: values | (changes or {}).get(section, {}) for section, values in CONFIG.items()}
    run = scene.run(checkpoint_s=checkpoint_s)
    return TrainingRun(
        job=run.job.replace("ft-", "lt-"),
        attempt=1,
        name="bands",
        licence="MIT",
        teacher=scene.model.to_json() if teacher else None,
        dataset=run.dataset,
        settings={"config": config, "holdout": 0.2, "nproc": 1},
        resume_key=None,
        checkpoint_s=checkpoint_s,
    )


def stored(scene: Scene, finished: Finished) -> Learngene:
    """Return the learngene that lies in the object store."""
    path = scene.store.local_path(finished.weights.key)
    assert path is not None
    return Learngene.open(path)


def test_a_training_reports_accuracy_by_depth_and_stores_a_learngene_that_knows_it(engine: Engine, scene: Scene) -> None:
    """Epochs have the largest, a middle and the smallest depth; the file has every depth offered, and where it comes from."""
    run = training(scene)
    started, *reports = engine.do(run)
    assert isinstance(started, Started)
    assert started.steps == 54
    epochs = [report for report in reports if isinstance(report, EpochDone)]
    assert [report.epoch for report in epochs] == [1, 2, 3, 4, 5, 6]
    assert all(report.metrics.keys() == {"train_loss", "loss", "top1", "top1_depth_3", "top1_depth_2"} for report in epochs)
    assert all(report.weights is None for report in epochs)
    finished = reports[-1]
    assert isinstance(finished, Finished)
    assert finished.metrics["top1"] > 0.8
    learngene = stored(scene, finished)
    description = learngene.description
    measured = {entry.depth: entry.top1 for entry in description.accuracy}
    assert measured == {depth: finished.metrics[f"top1_depth_{depth}"] for depth in range(1, 6)}
    assert measured[4] == finished.metrics["top1"]
    (on,) = {(entry.data_set, entry.images) for entry in description.accuracy}
    assert re.fullmatch(r"bands \(held out, ds-[0-9a-f]{8}\)", on[0])
    assert on[1] == finished.weights.images == 18
    assert (description.name, description.class_names, description.provenance.licence) == ("bands", CLASSES, "MIT")
    assert (description.config.embed_dim, description.config.num_classes, description.basis.trained_depth) == (16, 3, 4)
    assert description.provenance.data_set == "bands (72 images)"
    assert finished.weights.key.startswith(f"jobs/{run.job}/")


def test_the_same_training_gives_the_same_file_another_seed_another(engine: Engine, scene: Scene) -> None:
    """In whichever job: nothing of the job is in the file."""
    first, second = (engine.do(training(scene))[-1].weights.sha256 for _ in range(2))
    other = engine.do(training(scene, {"training": {"seed": 1}}))[-1].weights.sha256
    assert first == second != other


def test_what_the_device_decides_is_decided_once(engine: Engine, scene: Scene) -> None:
    """An open precision is reported as it is used, and used again where it is said."""
    run = training(scene, {"training": {"precision": "auto", "epochs": 1}})
    started, *_, finished = engine.do(run)
    precision = started.settings["config"]["training"]["precision"]
    assert precision in ("float32", "bfloat16")
    assert engine.do(run.model_copy(update={"settings": started.settings}))[-1].weights.sha256 == finished.weights.sha256


def test_a_model_teaches_a_learngene(engine: Engine, scene: Scene) -> None:
    """A fine-tuned model, of another size of image: with alpha 1 no label is looked at, and yet it learns."""
    tuned = engine.do(scene.run(epochs=8, lr=3e-3))[-1]
    assert tuned.metrics["top1"] > 0.9
    model = tuned_model(scene, scene.run(epochs=8, lr=3e-3), tuned.weights.key, tuned.weights.sha256)
    run = training(scene, {"distillation": {"alpha": 1.0, "normalisation": "batchmean"}, "training": {"epochs": 10}})
    finished = engine.do(run.model_copy(update={"teacher": model.to_json()}))[-1]
    assert isinstance(finished, Finished), finished
    assert finished.metrics["top1"] > 0.6
    assert model.id in stored(scene, finished).description.provenance.ancestry


@pytest.mark.slow
@pytest.mark.parametrize("save", [True, False])
def test_a_training_stops_when_it_is_told_to(engine: Engine, scene: Scene, save: bool) -> None:
    """With its state saved where that is wanted, from which it goes on to the same file."""
    changes = {"training": {"epochs": 30}}
    run = training(scene, changes)
    engine.order(run)
    engine.until(Stepped)
    engine.stop(run.job, save=save)
    reports = engine.until(Stopped)
    assert isinstance(reports[-1], Stopped)
    saved = [report for report in reports if isinstance(report, Saved)]
    assert len(saved) == int(save)
    if save:
        resumed = engine.do(again(run, saved[0].key))
        assert min(report.step for report in resumed if isinstance(report, Stepped)) > saved[0].step
        assert resumed[-1].weights.sha256 == engine.do(training(scene, changes))[-1].weights.sha256


def test_a_training_goes_on_from_any_state_to_the_same_file(engine: Engine, scene: Scene) -> None:
    """From the first, one in the middle and the last, at which all that is left is to measure."""
    run = training(scene, CHANCE, checkpoint_s=0.0)
    reports = engine.do(run)
    saved = [report for report in reports if isinstance(report, Saved)]
    assert saved[-1].step == reports[-1].step == 54
    for state in (saved[0], saved[len(saved) // 2], saved[-1]):
        resumed = engine.do(again(run, state.key))
        assert resumed[-1] == reports[-1].model_copy(update={"weights": resumed[-1].weights})
        assert resumed[-1].weights.sha256 == reports[-1].weights.sha256


def test_a_state_that_cannot_be_used_only_costs_time(engine: Engine, scene: Scene) -> None:
    """Gone, or of another training: it begins again, says so, and ends in the same file."""
    run = training(scene)
    other = next(
        report.key
        for report in engine.do(training(scene, {"training": {"seed": 9, "epochs": 1}}, checkpoint_s=0.0))
        if isinstance(report, Saved)
    )
    expected = engine.do(run)[-1].weights.sha256
    for key in ("jobs/nothing.safetensors", other):
        reports = engine.do(again(run, key))
        assert any(isinstance(report, Note) for report in reports)
        assert reports[-1].weights.sha256 == expected


def test_failures_of_a_training_say_why_and_leave_the_engine_whole(engine: Engine, scene: Scene) -> None:
    """A loss that needs a teacher, a missing data set, a policy that timm does not know, processes that are not there."""
    plain = training(scene)
    bad = {
        "distillation.alpha": training(scene, {"distillation": {"alpha": 0.5}}),
        "rand_augment": training(scene, {"augmentation": {"crop": "random-resized", "rand_augment": "nonsense", "shift": 0}}),
        "nproc": plain.model_copy(update={"settings": plain.settings | {"nproc": 2}}),
        "not in the object store": plain.model_copy(update={"dataset": plain.dataset | {"object_key": "datasets/gone.arrow"}}),
    }
    for text, run in bad.items():
        failed = engine.do(run)[-1]
        assert isinstance(failed, Failed)
        assert failed.code in ("invalid_settings", "dataset_missing")
        assert text in failed.message
    assert isinstance(engine.do(training(scene, {"training": {"epochs": 1}}))[-1], Finished)


def test_random_resized_crops_train_to_the_same_file_twice(engine: Engine, scene: Scene) -> None:
    """Each image's view follows from the seed, not from the order in which threads draw."""
    changes = {
        "training": {"epochs": 2},
        "augmentation": {"crop": "random-resized", "rand_augment": "rand-m9-mstd0.5-inc1", "shift": 0},
    }
    first, second = (engine.do(training(scene, changes))[-1] for _ in range(2))
    assert isinstance(first, Finished), first
    assert first.weights.sha256 == second.weights.sha256


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_is_killed_at_random_moments_ends_in_the_same_file(
    start: Callable[..., Engine], scene: Scene, tmp_path: Path
) -> None:
    """With every source of chance, states after each update, and several depths in each."""
    changes = CHANCE | {"training": CHANCE["training"] | {"epochs": 20}}
    with start() as engine:
        begun = time.monotonic()
        undisturbed = engine.do(training(scene, changes))[-1]
        took_s = time.monotonic() - begun
    rng = random.Random(7)
    killed = finish_despite_kills(
        start, training(scene, changes, checkpoint_s=0.0), [rng.uniform(0.0, took_s) for _ in range(3)]
    )
    assert killed.weights.sha256 == undisturbed.weights.sha256
    assert stored(scene, killed).digest == stored(scene, undisturbed).digest
    assert tmp_path.is_dir()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_a_learngene_together(start: Callable[..., Engine], scene: Scene) -> None:
    """They measure together too, and end in the same file twice."""
    run = training(scene)
    run = run.model_copy(update={"settings": run.settings | {"nproc": 2}})
    digests = []
    for _ in range(2):
        with start(nproc=2) as engine:
            finished = engine.do(run)[-1]
            assert isinstance(finished, Finished), finished
            digests.append(finished.weights.sha256)
    assert digests[0] == digests[1]
