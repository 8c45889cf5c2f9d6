"""The training of a learngene at one depth and at several: which depths, which loss, and what comes out of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.learngene_config import DepthRule, Depths, KdNormalisation, LearngeneConfig
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.distillation import divergence
from tleg_core.training.learngene_run import LearngeneObjective, depth_metrics, depths_of, learngene_trainer
from tleg_core.training.observer import Silent
from tleg_core.training.preprocessing import prepare
from tleg_core.training.teacher import Teacher

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing()


class FixedTeacher:
    """A teacher whose logits follow from the rows alone."""

    class_names = ("top", "middle", "bottom")

    def check(self, batches: Batches, config: Any) -> None:
        """Know every image."""

    def logits(self, batch: Batch) -> Tensor:
        """Return logits (B, 3) that are certain of the row's remainder."""
        return 4.0 * functional.one_hot(batch.rows % 3, 3).float()

    def describe(self) -> str:
        """Return a name."""
        return "remainders"

    def identity(self) -> dict[str, Any]:
        """Return a name."""
        return {"teacher": "remainders"}


class Forgetful:
    """A keeper that keeps nothing."""

    def due(self, step: int, *, ends_epoch: bool) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def keep(self, checkpoint: object, step: int) -> None:
        """Do nothing."""

    def read(self) -> Any:
        """Fail."""
        raise AssertionError


def config_of(**sections: dict[str, Any]) -> LearngeneConfig:
    """Return a tiny configuration with some fields changed."""
    base = LearngeneConfig.from_json(
        {
            "network": {"size": "test", "embed_dim": 16, "img_size": 16, "patch_size": 8},
            "training": {"epochs": 1, "batch_size": 16, "precision": "float32"},
            "depths": {"train": 6},
        }
    )
    return base.with_changes(sections)


def trainer_of(config: LearngeneConfig, data: ImageSet, teacher: Teacher | None) -> Any:
    """Return the trainer of a tiny model."""
    return learngene_trainer(
        config,
        Batches.of_image_set(data, config.training, CPU),
        teacher,
        num_classes=3,
        preprocessing=PREPROCESSING,
        keeper=Forgetful(),
        observer=Silent(),
        device=CPU,
    )


@pytest.mark.parametrize("rule", DepthRule)
def test_depths_follow_from_seed_and_step(rule: DepthRule) -> None:
    """Drawn again they are the same; another seed draws others, except where nothing is drawn."""
    depths = Depths(rule=rule, train=12, train_min=3)
    first = [depths_of(depths, 0, step) for step in range(50)]
    assert first == [depths_of(depths, 0, step) for step in range(50)]
    assert (first == [depths_of(depths, 1, step) for step in range(50)]) == (rule is DepthRule.FIXED)


def test_a_fixed_depth_is_the_only_one() -> None:
    """The published rule."""
    assert {depths_of(Depths(train=12), 0, step) for step in range(20)} == {(12,)}


def test_uniform_depths_are_drawn_alike() -> None:
    """Each of the ten comes about a tenth of the time, one in each update."""
    drawn = Counter(depths_of(Depths(rule=DepthRule.UNIFORM, train=12, train_min=3), 0, step) for step in range(3000))
    assert set(drawn) == {(depth,) for depth in range(3, 13)}
    assert all(220 < count < 390 for count in drawn.values())  # 300 +- 5 standard deviations


def test_a_sandwich_is_the_largest_one_between_and_the_smallest() -> None:
    """Largest first; where nothing lies between, two; where there is one depth, that one."""
    drawn = {depths_of(Depths(rule=DepthRule.SANDWICH, train=6, train_min=3), 0, step) for step in range(60)}
    assert drawn == {(6, 4, 3), (6, 5, 3)}
    assert depths_of(Depths(rule=DepthRule.SANDWICH, train=4, train_min=3), 0, 0) == (4, 3)
    assert depths_of(Depths(rule=DepthRule.SANDWICH, train=4, train_min=4), 0, 0) == (4,)


def batch_of(data: ImageSet, step: int = 3) -> Batch:
    """Return eight images of `data` as a batch."""
    rows = torch.arange(8)
    images = torch.from_numpy(data.images[:8]).permute(0, 3, 1, 2).float() / 255
    return Batch(images=images, targets=torch.from_numpy(data.labels[:8]), rows=rows, view=0, step=step)


@pytest.mark.parametrize("alpha", [1.0, 0.0, 0.3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_sandwichs_loss_is_the_mean_over_its_depths(bars: ImageSet, alpha: float, share: float) -> None:
    """The largest learns from teacher and labels; the others, by their share, from the largest, which gets no gradient."""
    config = config_of(
        depths={"rule": "sandwich", "train": 6, "train_min": 2, "self_distillation": share}, distillation={"alpha": alpha}
    )
    model = AuxiliaryModel(config.network.vit(3), config.schedule.build(), depth=6, seed=1)
    batch, teacher = batch_of(bars), FixedTeacher()
    objective = LearngeneObjective(model, config, teacher if alpha else None, PREPROCESSING)
    outcome = objective(batch)
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()

    images = prepare(batch.images, 16, PREPROCESSING)
    between = KdNormalisation.NUMEL if alpha == 1.0 else KdNormalisation.BATCHMEAN
    logits = {depth: model(images, depth) for depth in depths_of(config.depths, 0, batch.step)}

    def learned(own: Tensor) -> Tensor:
        labels = functional.cross_entropy(own, batch.targets)
        taught = divergence(own, teacher.logits(batch), config.distillation)
        return alpha * taught + (1 - alpha) * labels

    largest = logits[6].detach()
    from_largest = {
        depth: divergence(own, largest, type(config.distillation)(normalisation=between)) for depth, own in logits.items()
    }
    losses = [
        learned(own) if depth == 6 else (1 - share) * learned(own) + share * from_largest[depth]
        for depth, own in logits.items()
    ]
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(outcome.loss, expected)
    torch.testing.assert_close(outcome.logits, logits[6])
    expected.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_a_drawn_depth_learns_from_the_largest_too(bars: ImageSet) -> None:
    """With the uniform rule the largest depth is asked without a gradient."""
    config = config_of(
        depths={"rule": "uniform", "train": 6, "train_min": 2, "self_distillation": 1.0}, distillation={"alpha": 0.0}
    )
    model = AuxiliaryModel(config.network.vit(3), config.schedule.build(), depth=6, seed=1)
    objective = LearngeneObjective(model, config, None, PREPROCESSING)
    steps = {depths_of(config.depths, 0, step)[0]: step for step in range(40)}
    images = prepare(batch_of(bars).images, 16, PREPROCESSING)
    loss = type(config.distillation)(normalisation=KdNormalisation.BATCHMEAN)
    for depth in (2, 4):
        expected = divergence(model(images, depth), model(images, 6).detach(), loss)
        torch.testing.assert_close(objective(batch_of(bars, steps[depth])).loss, expected)
    labels = functional.cross_entropy(model(images, 6), batch_of(bars).targets)
    torch.testing.assert_close(objective(batch_of(bars, steps[6])).loss, labels)


@pytest.mark.parametrize("method", ["tleg", "polynomial", "spline", "stagewise"])
def test_every_schedule_is_trained(bars: ImageSet, method: str) -> None:
    """Each component moves, and every depth that is measured has a number."""
    stages = {"stages": [1, 2, 1]} if method == "stagewise" else {}
    config = config_of(
        schedule={"method": method} | stages,
        depths={"rule": "uniform", "train": 6, "train_min": 4, "offer_min": 4},
        distillation={"alpha": 0.5, "normalisation": "batchmean"},
        training={"epochs": 2},
    )
    before = AuxiliaryModel(config.network.vit(3), config.schedule.build(), depth=6, seed=0).learngene_tensors()
    result = trainer_of(config, bars, FixedTeacher()).run()
    for name, tensor in result.learngene_tensors().items():
        moved = (tensor != before[name]).flatten(1).any(dim=1) if name.startswith("basis.") else (tensor != before[name]).any()
        assert bool(moved.all()), name
    metrics = depth_metrics(result.eval(), bars, config, PREPROCESSING, CPU)
    assert set(metrics) == {"top1", "images", "top1_depth_5", "top1_depth_4"}
    assert all(0.0 <= value <= 1.0 for name, value in metrics.items() if name != "images")


def test_elastic_training_in_parts_is_that_of_the_whole_batch(bars: ImageSet) -> None:
    """All parts of an update train the same depths."""
    whole = config_of(depths={"rule": "sandwich", "train": 4, "train_min": 1, "self_distillation": 0.5})
    parts = whole.with_changes({"training": {"micro_batches": 4}})
    first, second = (trainer_of(config, bars, FixedTeacher()).run().learngene_tensors() for config in (whole, parts))
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor.numpy(), second[name].numpy(), atol=2e-5)


def test_activations_computed_again_change_nothing(bars: ImageSet) -> None:
    """A run that keeps few activations ends in the weights of one that keeps all, to the bit, with drop path too."""
    kept = config_of(
        depths={"rule": "uniform", "train": 4}, distillation={"alpha": 0.0}, training={"drop_path": 0.3, "epochs": 2}
    )
    again = kept.with_changes({"training": {"grad_checkpointing": True}})
    first, second = (trainer_of(config, bars, None).run().learngene_tensors() for config in (kept, again))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_run_ends_where_the_eager_one_does(bars: ImageSet) -> None:
    """Up to the rounding of fused kernels, which AdamW's division can make as large as some hundredth of a step."""
    eager = config_of(depths={"rule": "sandwich", "train": 4}, distillation={"alpha": 0.0}, training={"drop_path": 0.3})
    compiled = eager.with_changes({"training": {"compile": True}})
    first, second = (trainer_of(config, bars, None).run().learngene_tensors() for config in (eager, compiled))
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor.numpy(), second[name].numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("alpha", "teacher"), [(0.0, FixedTeacher()), (1.0, None), (0.5, None)])
def test_a_teacher_is_there_exactly_where_one_is_needed(bars: ImageSet, alpha: float, teacher: FixedTeacher | None) -> None:
    """A loss without its teacher, and a teacher that nothing is learned from, are errors."""
    with pytest.raises(ConfigError, match=r"distillation\.alpha"):
        trainer_of(config_of(distillation={"alpha": alpha}), bars, teacher)
