"""The training loop: its arithmetic, and that a run which was killed ends like one which was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.training.run_in_child import CONFIG, image_set, trainer
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.errors import TrainingDivergedError
from tleg_core.training.journal import Journal
from tleg_core.training.keeper import CHECKPOINT_NAME, FolderKeeper
from tleg_core.training.loop import Outcome, Trainer
from tleg_core.training_config import Augmentation, Precision, TrainingConfig

PLAIN = Augmentation(flip=0.0, shift=0)


def linear_trainer(
    model: nn.Module,
    config: TrainingConfig,
    folder: Path,
    scale: float = 1.0,
    gradients: Callable[[int], None] = lambda _step: None,
) -> Trainer[nn.Module]:
    """Return a run of `model` on flattened noise images, with cross-entropy times `scale`."""

    def objective(batch: Batch) -> Outcome:
        logits = model(batch.images.flatten(1))
        return Outcome(loss=scale * nn.functional.cross_entropy(logits, batch.targets), logits=logits)

    return Trainer(
        model,
        objective,
        Batches.of_image_set(image_set(64), config, torch.device("cpu")),
        config,
        identity={},
        keeper=FolderKeeper(folder, config.checkpoint_every_steps),
        observer=Journal(folder / "journal.jsonl"),
        device=torch.device("cpu"),
        gradients=gradients,
    )


def linear() -> nn.Linear:
    """Return the same small model each time."""
    torch.manual_seed(7)
    return nn.Linear(8 * 8 * 3, 3)


def same(left: nn.Module, right: nn.Module) -> bool:
    """Whether two modules hold the same tensors, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


class CrashError(Exception):
    """Raised from inside a run, as a crash would be."""


def crash_after(run: Trainer[nn.Module], steps: int) -> None:
    """Run until `steps` checkpoints were made, then crash."""
    save = run.save
    made = 0

    def count() -> None:
        nonlocal made
        save()
        made += 1
        if made == steps:
            raise CrashError

    run.save = count  # type: ignore[method-assign]
    with pytest.raises(CrashError):
        run.run()


def test_micro_batches_give_the_gradient_of_the_large_batch(tmp_path: Path) -> None:
    """Accumulation over 4 parts, the last gradient kept, equals plain autograd on the whole batch."""
    model = linear()
    config = TrainingConfig(epochs=1, batch_size=64, micro_batches=4, precision=Precision.FLOAT32, augmentation=PLAIN)
    run = linear_trainer(model, config, tmp_path)
    batch = run._batch()
    loss = nn.functional.cross_entropy(model(batch.images.flatten(1)), batch.targets)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    run._update(batch)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-8)  # sums in another order


def test_gradients_are_told_once_an_update_and_whole(tmp_path: Path) -> None:
    """With 4 parts a batch, whoever asks is called before each update with the gradient of all of them."""
    model = linear()
    config = TrainingConfig(epochs=2, batch_size=32, micro_batches=4, precision=Precision.FLOAT32, augmentation=PLAIN)
    told: list[tuple[int, float]] = []

    def gradients(step: int) -> None:
        batch = run._batch()
        loss = nn.functional.cross_entropy(model(batch.images.flatten(1)), batch.targets)
        assert model.weight.grad is not None
        told.append((step, float((model.weight.grad - torch.autograd.grad(loss, model.weight)[0]).abs().max())))

    run = linear_trainer(model, config, tmp_path, gradients=gradients)
    run.run()
    assert [step for step, _ in told] == [0, 1, 2, 3]
    assert max(difference for _, difference in told) < 1e-6  # sums in another order


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16])
def test_micro_batches_of_mixed_images_give_the_auxiliary_models_gradient(tmp_path: Path, precision: Precision) -> None:
    """Images are mixed over the whole batch before it is divided, and the basis' gradient is the sum over the parts."""
    augmentation = Augmentation(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1)
    gradients = []
    for parts in (1, 2, 8):
        config = replace(CONFIG, micro_batches=parts, precision=precision, augmentation=augmentation)
        run = trainer(tmp_path / str(parts), config, drop_path=0.0)  # its draws are those of a part
        run._update(run._batch())
        gradients.append([parameter.grad for parameter in run._model.parameters()])
    half = precision is Precision.FLOAT16
    for whole, *others in zip(*gradients, strict=True):
        for other in others:  # sums in another order; float16 rounds each activation to 11 bits
            torch.testing.assert_close(other, whole, rtol=0, atol=float(whole.abs().max()) * (2e-2 if half else 1e-5) + 1e-8)


def test_micro_batches_train_to_the_same_weights(tmp_path: Path) -> None:
    """A whole run in parts ends where the run in one piece ends, up to rounding."""
    weights = []
    for parts in (1, 4):
        config = TrainingConfig(epochs=2, batch_size=32, micro_batches=parts, precision=Precision.FLOAT32)
        weights.append(linear_trainer(linear(), config, tmp_path / str(parts)).run().weight)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)  # Adam divides by small numbers


def test_the_ema_starts_from_the_loaded_weights_and_is_the_result(tmp_path: Path) -> None:
    """Its first value is the model's, its later ones the running average."""
    model = linear()
    start = model.weight.detach().clone()
    run = linear_trainer(model, TrainingConfig(epochs=1, batch_size=64, ema_decay=0.75, precision=Precision.FLOAT32), tmp_path)
    assert torch.equal(run.result.weight, start)
    result = run.run()
    assert result is not model
    torch.testing.assert_close(result.weight, 0.75 * start + 0.25 * model.weight)


def test_each_epoch_sees_every_image_once_in_another_order(tmp_path: Path) -> None:
    """The order depends on seed and epoch only."""
    config = TrainingConfig(epochs=2, batch_size=16, precision=Precision.FLOAT32, augmentation=PLAIN)
    run = linear_trainer(linear(), config, tmp_path)
    batches = []
    for step in range(8):
        run._step = step
        batches.append(run._batch().images)
    first, second = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten(1).sum(1).sort().values, second.flatten(1).sum(1).sort().values)


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.FLOAT16])
def test_a_crashed_run_resumes_to_the_same_bits(tmp_path: Path, precision: Precision) -> None:
    """With mixup, stochastic depth, EMA, clipping and two parts of each batch, from the middle of an epoch."""
    config = replace(CONFIG, precision=precision, micro_batches=2, clip_grad=1.0)
    seldom = replace(config, checkpoint_every_steps=1000)
    undisturbed = trainer(tmp_path / "a", seldom).run()
    crash_after(trainer(tmp_path / "b", config), steps=57)
    resumed = trainer(tmp_path / "b", seldom)
    resumed.load()
    assert same(resumed.run(), undisturbed)
    assert not same(trainer(tmp_path / "c", seldom, seed=1).run(), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path, number: signal.Signals) -> None:
    """A real process is killed at an arbitrary moment; what it left goes on as if nothing had happened."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.training.run_in_child", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 60
    while not (tmp_path / CHECKPOINT_NAME).exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(0.2)
    child.send_signal(number)
    _, message = child.communicate(timeout=60)
    config = replace(CONFIG, epochs=1000)
    step = Checkpoint.read(tmp_path / CHECKPOINT_NAME).facts["step"]
    if number is not signal.SIGKILL:
        assert f"stopped after step {step} of 41000" in message
        assert "--resume" in message
    resumed, undisturbed = trainer(tmp_path, config), trainer(tmp_path / "undisturbed", config)
    resumed.load()
    crash_after(resumed, steps=10)
    crash_after(undisturbed, steps=step + 10)
    assert same(resumed.result, undisturbed.result)


def test_a_run_does_not_resume_another_ones_checkpoint(tmp_path: Path) -> None:
    """The error names what differs; how often checkpoints are made may differ."""
    crash_after(trainer(tmp_path), steps=2)
    with pytest.raises(CheckpointError, match="of another run: training was"):
        trainer(tmp_path, replace(CONFIG, lr=1e-3)).load()
    trainer(tmp_path, replace(CONFIG, checkpoint_every_steps=9)).load()


def test_checkpoints_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """None at all, rubbish, and a safetensors file of another kind."""
    run = trainer(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        run.load()
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run.load()
    save_file({"x": torch.zeros(1)}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(CheckpointError, match="no checkpoint of tleg"):
        run.load()


def test_a_diverged_run_stops_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A loss that is not finite is an error, and never reaches a file."""
    config = TrainingConfig(epochs=1, batch_size=64, precision=Precision.FLOAT32)
    with pytest.raises(TrainingDivergedError, match="learning rate"):
        linear_trainer(linear(), config, tmp_path, scale=float("inf")).run()
    assert not (tmp_path / CHECKPOINT_NAME).exists()


def test_a_run_whose_last_update_was_one_too_far_has_diverged(tmp_path: Path) -> None:
    """The losses were finite until then; what is measured afterwards is not, and is not passed on as a result."""
    run = linear_trainer(linear(), TrainingConfig(epochs=1, batch_size=64, precision=Precision.FLOAT32), tmp_path)
    run._measure = lambda _: {"top1": 0.3, "loss": float("nan")}
    with pytest.raises(TrainingDivergedError, match="held-out"):
        run.run()


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path: Path) -> None:
    """The only update was one too far, and its own loss was finite; nothing was measured that would have told."""
    model = linear()
    run = linear_trainer(model, TrainingConfig(epochs=1, batch_size=64, precision=Precision.FLOAT32), tmp_path)
    with torch.no_grad():
        next(model.parameters())[0] = float("inf")
    with pytest.raises(TrainingDivergedError, match="is not finite after step"):
        run.save()
    assert not (tmp_path / CHECKPOINT_NAME).exists()


def test_the_journal_has_a_line_an_epoch(tmp_path: Path) -> None:
    """Loss, accuracy and rate are there for machines."""
    linear_trainer(linear(), TrainingConfig(epochs=2, batch_size=32, precision=Precision.FLOAT32), tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [1, 2]
    assert lines[-1]["loss"] > 0
    assert 0 <= lines[-1]["train_top1"] <= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("micro_batches", 3),
        ("warmup_epochs", 5),
        ("lr", 0.0),
        ("weight_decay", float("nan")),
        ("ema_decay", 1.0),
    ],
)
def test_settings_outside_their_limits_are_refused(field: str, value: float) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError, match=field):
        TrainingConfig(**({"epochs": 5, "batch_size": 128} | {field: value}))


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    """It would be an epoch without a step."""
    with pytest.raises(ConfigError, match="batch_size: 65 is more than the 64 images"):
        linear_trainer(linear(), TrainingConfig(epochs=1, batch_size=65), tmp_path)
