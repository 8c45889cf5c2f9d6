"""Layers of a model inherited, in the engine: chosen by a rule, from whichever state, and every descendant measured."""

from __future__ import annotations

from typing import Any

import pytest

from service.worker.protocol import Finished, Note, Saved, Started, Stepped, TrainingRun
from tests.engine.conftest import CLASSES, Scene, again
from tests.engine.driver import Engine
from tests.engine.test_pool_trainings import known_model
from tests.engine.test_trainings import stored, training
from tleg_core.description import Method

pytestmark = pytest.mark.slow  # an engine of its own

TRAINING = {"epochs": 1, "batch_size": 12, "lr": 1e-3, "precision": "float32"}
DEPTHS = {"offer_max": 4}
RULES: dict[str, dict[str, Any]] = {
    "stability": {
        "selection": {"rule": "stability", "num_layers": 2},
        "stability": {"num_tasks": 2, "classes_per_task": 2, "windows": 2, "fisher_images": 4},
    },
    "transfer": {
        "selection": {"rule": "transfer", "num_layers": 2},
        "transfer": {"depth": 2, "meta_images": 8, "score_images": 16},
    },
}


def inheritance_run(scene: Scene, sections: dict[str, Any], *, checkpoint_s: float = 1000.0) -> TrainingRun:
    """Return the order of a new job: layers of a model of three."""
    run = training(scene, checkpoint_s=checkpoint_s)
    config = {"training": TRAINING, "depths": DEPTHS} | sections
    model = known_model(scene).to_json()
    return run.model_copy(update={"settings": run.settings | {"config": config}, "teacher": model})


@pytest.mark.parametrize("rule", RULES)
def test_layers_are_chosen_and_inherited_from_any_state_on(engine: Engine, scene: Scene, rule: str) -> None:
    """The file has the choice, its evidence and every depth's accuracy; resumed at any point it has the same bytes."""
    started, *reports = engine.do(inheritance_run(scene, RULES[rule], checkpoint_s=0.0))
    assert isinstance(started, Started)
    finished = reports[-1]
    assert isinstance(finished, Finished), finished
    steps = [report.step for report in reports if isinstance(report, Stepped)]
    assert steps[-1] == started.steps == finished.step
    description = stored(scene, finished).description
    assert (description.method, description.class_names) == (Method.LEARNGENE, CLASSES)
    assert description.selection is not None
    assert (len(description.selection.chosen), len(description.selection.scores)) == (2, 3)
    measured = {entry.depth: entry.top1 for entry in description.accuracy}
    assert list(measured) == [2, 3, 4]
    assert {f"top1_depth_{depth}": top1 for depth, top1 in measured.items()}.items() <= finished.metrics.items()
    saved = [report for report in reports if isinstance(report, Saved)]
    assert [report.step for report in saved] == sorted(report.step for report in saved)
    for state in (saved[len(saved) // 2], saved[-1]):
        run = inheritance_run(scene, RULES[rule])
        resumed = engine.do(again(run, state.key))
        assert all(report.step > state.step for report in resumed if isinstance(report, Stepped))
        assert not any("cannot be used" in report.message for report in resumed if isinstance(report, Note))
        assert resumed[-1].weights.sha256 == finished.weights.sha256


def test_a_state_of_another_choice_only_costs_time(engine: Engine, scene: Scene) -> None:
    """It begins again, says so, and ends in the same file."""
    other = {**RULES["transfer"], "training": TRAINING | {"seed": 3}}
    reports = engine.do(inheritance_run(scene, other, checkpoint_s=0.0))
    state = next(report for report in reports if isinstance(report, Saved))
    run = inheritance_run(scene, RULES["transfer"])
    expected = engine.do(run)[-1].weights.sha256
    resumed = engine.do(again(run, state.key))
    assert any("cannot be used" in report.message for report in resumed if isinstance(report, Note))
    assert resumed[-1].weights.sha256 == expected


def test_layers_that_are_named_are_inherited_without_any_training(engine: Engine, scene: Scene) -> None:
    """Nothing but the measurement is done."""
    started, *_, finished = engine.do(inheritance_run(scene, {"selection": {"rule": "given", "layers": [0, 2]}}))
    assert isinstance(finished, Finished), finished
    assert started.steps == finished.step == 0
    description = stored(scene, finished).description
    assert description.selection is not None
    assert description.selection.chosen == (0, 2)
