"""Heur-LG: a sequence of tasks tells stable layers from others, and what each of the authors' defects would break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tleg_core.description import Preprocessing
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.images import ImageSet
from tleg_core.inheritance_config import CarriedWeights, GradientSign, Stability, TaskStart
from tleg_core.layer_choice import highest, stability_scores
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.class_tasks import draw_tasks
from tleg_core.training.collective_model import CollectiveModel
from tleg_core.training.errors import TrainingInterruptedError
from tleg_core.training.keeper import CHECKPOINT_NAME, FolderKeeper
from tleg_core.training.layer_stability import StabilityEvidence, measure_stability
from tleg_core.training.loop import Wish
from tleg_core.training.network import Network
from tleg_core.training.observer import EpochReport, Silent, StepReport
from tleg_core.training.pixels import Draws, MemoryPixels
from tleg_core.training_config import Augmentation, Precision, TrainingConfig
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

CPU = torch.device("cpu")
VIT = VitConfig(embed_dim=16, num_heads=2, img_size=16, patch_size=8, num_classes=3, mlp_ratio=2.0)
DEPTH = 4
TRAINING = TrainingConfig(epochs=2, batch_size=8, lr=1e-3, precision=Precision.FLOAT32, augmentation=Augmentation(shift=0))
TASKS = Stability(num_tasks=3, classes_per_task=2, windows=2, fisher_images=4)
INDEPENDENT: dict[str, Any] = {"start": TaskStart.ANCESTRY, "weights": CarriedWeights.ANCESTRY, "ewc_lambda": 0.0}


def ancestry_vit(*dead: int) -> AncestryVit:
    """Return a random ViT; the branches of `dead` blocks are zero, at a point where no gradient ever moves them."""
    network = Network(architecture=timm_architecture(VIT), model_args=timm_model_args(VIT, DEPTH), num_classes=3)
    weights = {name: tensor.detach().clone() for name, tensor in network.build(drop_path=0.0, seed=0).state_dict().items()}
    for layer in dead:
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            weights[f"blocks.{layer}.{part}.weight"].zero_()
            weights[f"blocks.{layer}.{part}.bias"].zero_()
    return AncestryVit(config=VIT, depth=DEPTH, weights=weights, preprocessing=Preprocessing(), identity="random")


def measured(
    ancestry: AncestryVit, data: ImageSet, folder: Path, stability: Stability = TASKS, **options: Any
) -> StabilityEvidence:
    """Return the evidence of a tiny sequence."""
    return measure_stability(
        ancestry,
        data,
        MemoryPixels(data, CPU),
        stability,
        options.pop("training", TRAINING),
        plain=options.pop("plain", MemoryPixels(data, CPU)),
        keeper=FolderKeeper(folder, 1000),
        observer=options.pop("observer", Silent()),
        device=CPU,
        **options,
    )


def test_layers_whose_weights_get_no_gradient_are_the_stable_ones(bars: ImageSet, tmp_path: Path) -> None:
    """Planted: blocks 1 and 3 are where no gradient moves them, and the rule takes them."""
    evidence = measured(ancestry_vit(1, 3), bars, tmp_path)
    assert evidence.rates.shape == (3, 2, DEPTH)
    assert np.all(evidence.rates[:, :, [1, 3]] == 0.0)
    assert np.all(evidence.rates[:, :, [0, 2]] > 0.05)
    assert highest(stability_scores(evidence.rates), 2) == (1, 3)


def test_rates_are_those_of_the_parameters_own_gradients(bars: ImageSet, tmp_path: Path) -> None:
    """One update, computed again by plain autograd: the share of matrix entries above the threshold, and one softmax."""
    stability = Stability(num_tasks=1, classes_per_task=3, windows=1, threshold=1e-3)
    training = TrainingConfig(
        epochs=1, batch_size=48, precision=Precision.FLOAT32, augmentation=Augmentation(flip=0.0, shift=0)
    )
    ancestry = ancestry_vit()
    evidence = measured(ancestry, bars, tmp_path, stability, training=training)
    model = CollectiveModel(ancestry, stability, drop_path=0.0, device=CPU)
    model.begin(0, training.seed)
    images = torch.from_numpy(bars.images).permute(0, 3, 1, 2) / 255.0
    logits = model((images - 0.5) / 0.5)
    loss = -logits.log_softmax(dim=1)[torch.arange(48), torch.from_numpy(bars.labels)].mean()
    network: Any = model.network
    for layer, block in enumerate(network.blocks):
        matrices = [block.attn.qkv.weight, block.attn.proj.weight, block.mlp.fc1.weight, block.mlp.fc2.weight]
        entries = torch.cat([part.flatten() for part in torch.autograd.grad(loss, matrices, retain_graph=True)])
        share = float((entries.abs() > 1e-3).double().mean())
        assert evidence.rates[0, 0, layer] == pytest.approx(share, abs=3 / len(entries))  # an entry at the very threshold


def test_the_penalty_is_no_part_of_the_rates() -> None:
    """What pulls weights back says nothing of the task."""
    model = CollectiveModel(ancestry_vit(), TASKS, drop_path=0.0, device=CPU)
    model.threshold.fill_(1e-6)
    held = list(model._held().values())
    model.consolidation.hold([torch.ones_like(parameter) for parameter in held])
    with torch.no_grad():
        for parameter in held:
            parameter.add_(1.0)
    model.consolidation.penalty().backward()  # type: ignore[no-untyped-call]
    model.note_gradients(0, 0)
    assert float(model.rates.max()) == 0.0


@pytest.mark.parametrize(("sign", "expected"), [(GradientSign.ABSOLUTE, 0.5), (GradientSign.POSITIVE, 0.25)])
def test_both_signs_of_the_criterion(sign: GradientSign, expected: float) -> None:
    """A quarter of the entries is at +1, a quarter at -1, the rest at 0."""
    stability = Stability(num_tasks=1, classes_per_task=2, windows=1, threshold=0.5, sign=sign, ewc_lambda=0.0)
    model = CollectiveModel(ancestry_vit(), stability, drop_path=0.0, device=CPU)
    model.set_threshold([])
    for parameter in model.parameters():
        values = torch.tensor([1.0, 0.0, -1.0, 0.0]).repeat(-(-parameter.numel() // 4))[: parameter.numel()]
        parameter.grad = values.view_as(parameter)
    model.note_gradients(0, 0)
    assert model.rates[0, 0].tolist() == [expected] * DEPTH


def test_the_threshold_is_the_quantile_of_the_first_gradients() -> None:
    """Half of all entries are above their median."""
    model = CollectiveModel(ancestry_vit(), TASKS, drop_path=0.0, device=CPU)
    model.begin(0, seed=0)
    images = torch.rand(4, 3, 16, 16)
    loss = functional.cross_entropy(model(images), torch.tensor([0, 1, 0, 1]))
    model.set_threshold([loss])
    functional.cross_entropy(model(images), torch.tensor([0, 1, 0, 1])).backward()
    model.note_gradients(0, 0)
    assert float(model.rates[0, 0].mean()) == pytest.approx(0.5, abs=1e-3)  # all blocks have as many entries


def test_micro_batches_change_neither_threshold_nor_rates(bars: ImageSet, tmp_path: Path) -> None:
    """They are for the memory alone: sums in another order, and the entries that lie at the very threshold."""
    whole = measured(ancestry_vit(), bars, tmp_path / "whole", TASKS)
    for parts in (2, 8):
        training = replace(TRAINING, micro_batches=parts)
        divided = measured(ancestry_vit(), bars, tmp_path / str(parts), TASKS, training=training)
        assert divided.threshold == pytest.approx(whole.threshold, rel=1e-4)
        np.testing.assert_allclose(divided.rates, whole.rates, atol=2e-3)


def test_a_task_goes_on_from_the_one_before_or_from_a_copy_of_the_ancestry() -> None:
    """The head is fresh either way, and the ancestry's own weights never change."""
    ancestry = ancestry_vit()
    before = {name: tensor.clone() for name, tensor in ancestry.weights.items()}
    for stability, expected in ((TASKS, 9.0), (Stability(num_tasks=2, classes_per_task=2, **INDEPENDENT), None)):
        model = CollectiveModel(ancestry, stability, drop_path=0.0, device=CPU)
        model.begin(0, seed=5)
        network: Any = model.network
        head = network.head.weight.detach().clone()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(9.0)
        model.begin(1, seed=5)
        assert not torch.equal(network.head.weight, head)
        assert network.head.weight.abs().max().item() < 1.0
        for name, tensor in model.body().items():
            wanted = before[name] if expected is None else torch.full_like(tensor, expected)
            assert torch.equal(tensor, wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ancestry.weights.items())


def test_a_penalty_keeps_what_the_first_task_needed(bars: ImageSet, tmp_path: Path) -> None:
    """With it, the hundredth of the weights that its Fisher information is largest for moves less in the second task."""
    one, two = (
        Stability(num_tasks=number, classes_per_task=2, windows=1, ewc_lambda=1e5, fisher_images=8) for number in (1, 2)
    )
    first = flat(measured(ancestry_vit(), bars, tmp_path / "first", one))
    held = flat(measured(ancestry_vit(), bars, tmp_path / "held", two))
    free = flat(measured(ancestry_vit(), bars, tmp_path / "free", replace(two, ewc_lambda=0.0)))
    fisher = Checkpoint.read(tmp_path / "held" / CHECKPOINT_NAME).tensors["model.consolidation.fisher"]
    needed = fisher.topk(len(fisher) // 100).indices
    assert (held - first)[needed].square().sum() < 0.5 * (free - first)[needed].square().sum()


def flat(evidence: StabilityEvidence) -> Tensor:
    """Return the collective model's weights as one vector."""
    return torch.cat([tensor.flatten() for tensor in evidence.weights.values()])


def test_weights_are_held_by_images_as_they_are(bars: ImageSet, tmp_path: Path) -> None:
    """After each task but the last, four of its images; what it is trained on are other pixels."""
    taken: list[list[int]] = []

    class Noted(MemoryPixels):
        def take(self, rows: Sequence[int], draws: Draws) -> Tensor:
            taken.append(list(rows))
            return super().take(rows, draws)

    measured(ancestry_vit(), bars, tmp_path, plain=Noted(bars, CPU))
    tasks = draw_tasks(bars.labels, num_tasks=3, classes_per_task=2, seed=TRAINING.seed)
    assert [len(rows) for rows in taken] == [4, 4]
    assert all(set(rows) <= set(task.rows.tolist()) for rows, task in zip(taken, tasks[:2], strict=True))


def test_each_task_has_one_optimiser(bars: ImageSet, tmp_path: Path) -> None:
    """At its end the optimiser has counted the updates of the whole task, and of no other."""
    measured(ancestry_vit(), bars, tmp_path)
    checkpoint = Checkpoint.read(tmp_path / CHECKPOINT_NAME)
    assert checkpoint.facts["identity"]["task"] == 2
    counts = {float(tensor) for name, tensor in checkpoint.tensors.items() if name.startswith("optimizer.") and "step" in name}
    assert counts == {2 * (32 // 8)}  # epochs, and two classes of 16 images in batches of 8


@pytest.mark.parametrize("stop_after", [3, 8, 11])
def test_a_stopped_sequence_goes_on_to_the_same_evidence(bars: ImageSet, tmp_path: Path, stop_after: int) -> None:
    """Stopped within the first task, at its last update, and within the second: rates and weights are the same, bit for bit."""
    whole = measured(ancestry_vit(), bars, tmp_path / "whole")
    asked = 0

    def wish() -> Wish:
        nonlocal asked
        asked += 1
        return Wish.SAVE if asked == stop_after else Wish.GO_ON

    folder = tmp_path / "stopped"
    if stop_after == 8:  # the last update of a task is not interrupted: the crash comes after it

        class Crash(Silent):
            def note(self, message: str) -> None:
                if message.startswith("task 2"):
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measured(ancestry_vit(), bars, folder, observer=Crash())
    else:
        with pytest.raises(TrainingInterruptedError, match="--resume"):
            measured(ancestry_vit(), bars, folder, wish=wish)
    resumed = measured(ancestry_vit(), bars, folder, resume=True)
    assert np.array_equal(resumed.rates, whole.rates)
    assert resumed.threshold == whole.threshold
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())


def test_another_sequence_is_not_gone_on_with(bars: ImageSet, tmp_path: Path) -> None:
    """The checkpoint is of the tasks that it says."""
    measured(ancestry_vit(), bars, tmp_path)
    with pytest.raises(CheckpointError, match="of another run"):
        measured(ancestry_vit(), bars, tmp_path, Stability(num_tasks=4, classes_per_task=2, windows=2), resume=True)


def test_progress_is_told_through_all_tasks(bars: ImageSet, tmp_path: Path) -> None:
    """Epochs and updates count on, and each task is announced."""
    told: list[Any] = []

    class Listener(Silent):
        def stepped(self, report: StepReport) -> None:
            told.append((report.step, report.steps))

        def epoch_done(self, report: EpochReport) -> None:
            told.append(f"epoch {report.epoch} of {report.epochs}")

        def note(self, message: str) -> None:
            told.append(message.partition(":")[0])

    measured(ancestry_vit(), bars, tmp_path, observer=Listener())
    assert [entry for entry in told if isinstance(entry, str)] == [
        *("task 1 of 3", "epoch 1 of 6", "epoch 2 of 6", "task 2 of 3", "epoch 3 of 6", "epoch 4 of 6"),
        *("task 3 of 3", "epoch 5 of 6", "epoch 6 of 6"),
    ]
    steps = [entry for entry in told if isinstance(entry, tuple)]
    assert steps == sorted(steps)
    assert steps[-1] == (24, 24)


def test_tasks_follow_from_the_seed(bars: ImageSet) -> None:
    """Each has different classes, its own images and labels from 0; another seed draws others."""
    labels = np.arange(1000, dtype=np.int64) % 20
    tasks = draw_tasks(labels, num_tasks=6, classes_per_task=5, seed=1)
    assert [task.classes for task in tasks] == [
        task.classes for task in draw_tasks(labels, num_tasks=6, classes_per_task=5, seed=1)
    ]
    assert [task.classes for task in tasks] != [
        task.classes for task in draw_tasks(labels, num_tasks=6, classes_per_task=5, seed=2)
    ]
    for task in tasks:
        assert len(set(task.classes)) == 5
        assert np.array_equal(np.array(task.classes)[task.labels], labels[task.rows])
        assert len(task.rows) == 250
    with pytest.raises(ConfigError, match=r"classes_per_task: 4 is more than the 3 classes"):
        draw_tasks(bars.labels, num_tasks=1, classes_per_task=4, seed=0)


@pytest.mark.parametrize(
    ("stability", "training", "named"),
    [
        (
            Stability(num_tasks=1, classes_per_task=2, windows=9),
            TRAINING,
            r"stability\.windows: 9 is more than the 8 updates .*smaller",
        ),
        (TASKS, TrainingConfig(epochs=1, batch_size=40), r"training\.batch_size: 40 is more than the 32 images of task 0"),
        (Stability(num_tasks=200, classes_per_task=2, windows=8), None, None),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    bars: ImageSet, tmp_path: Path, stability: Stability, training: TrainingConfig | None, named: str | None
) -> None:
    """Windows without an update, and batches without images; a long sequence is no mistake."""
    if training is None or named is None:

        class Enough(Silent):
            def note(self, message: str) -> None:
                raise TrainingInterruptedError(message)

        with pytest.raises(TrainingInterruptedError, match="task 1 of 200"):
            measured(ancestry_vit(), bars, tmp_path, stability, observer=Enough())
        return
    with pytest.raises(ConfigError, match=named):
        measured(ancestry_vit(), bars, tmp_path, stability, training=training)
