"""The updates: AdamW against its formula, clipping, float16's loss scale, and the moving average."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.errors import TrainingDivergedError
from tleg_core.training.processes import Processes
from tleg_core.training.updates import Updates
from tleg_core.training_config import Precision, TrainingConfig

CPU = torch.device("cpu")


def config(**changes: Any) -> TrainingConfig:
    """Return the settings of ten updates at a constant rate of 0.1 and no decay, unless changed."""
    settings: dict[str, Any] = {"epochs": 10, "lr": 0.1, "min_lr": 0.1, "weight_decay": 0.0, "precision": Precision.FLOAT32}
    return TrainingConfig(**(settings | changes))


def updates_of(model: nn.Module, settings: TrainingConfig) -> Updates[nn.Module]:
    """Return the updates of a module, one of them an epoch."""
    return Updates(model, settings, steps_per_epoch=1, device=CPU, processes=Processes())


def line() -> nn.Linear:
    """Return a module with the weights 1, 2, 3."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    return model


def step(updates: Updates[nn.Module], model: nn.Linear, gradient: Tensor, number: int) -> None:
    """Take an update of which `gradient` (1, 3) is the gradient."""
    updates.forget()
    updates.backward((model.weight * gradient).sum())
    updates.apply(number)


def state(updates: Updates[nn.Module]) -> dict[str, Tensor]:
    """Return a copy of weights, EMA and moments."""
    return {name: tensor.clone() for name, tensor in updates.tensors().items()}


def test_two_updates_are_adamws() -> None:
    """With decoupled decay, bias correction and the published betas, in float64 by hand."""
    model = line()
    updates = updates_of(model, config(weight_decay=0.5))
    gradients = [torch.tensor([[0.5, -2.0, 1e-3]]), torch.tensor([[1.0, 1.0, 0.0]])]
    weight = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    first = second = torch.zeros_like(weight)
    for number, gradient in enumerate(gradients, start=1):
        step(updates, model, gradient, number)
        first = 0.9 * first + 0.1 * gradient.double()
        second = 0.999 * second + 0.001 * gradient.double() ** 2
        weight = weight - 0.1 * 0.5 * weight
        weight = weight - 0.1 * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
    torch.testing.assert_close(model.weight.double(), weight, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_to_their_norm() -> None:
    """All parameters' gradients together, and only where they are longer."""
    for limit, norm in ((0.5, 0.5), (100.0, 13.0)):
        model = line()
        updates = updates_of(model, config(clip_grad=limit))
        step(updates, model, torch.tensor([[3.0, 4.0, 12.0]]), 1)  # its norm is 13
        assert model.weight.grad is not None
        torch.testing.assert_close(model.weight.grad.norm(), torch.tensor(norm))


def test_float16_divides_what_it_multiplied_before_it_clips() -> None:
    """Scaling and unscaling by powers of two change nothing: weights are those without, to the bit."""
    weights = []
    for precision in (Precision.FLOAT32, Precision.FLOAT16):
        model = line()
        updates = updates_of(model, config(precision=precision, clip_grad=1.0))
        for number in (1, 2, 3):
            step(updates, model, torch.tensor([[3e-7, -4.0, 12.0]]) / number, number)
        weights.append(model.weight)
    assert torch.equal(*weights)


def test_an_update_that_overflows_is_left_out_and_counts() -> None:
    """Weights, moments, their count and the EMA stay; the schedule goes on, and the next update is made at half the scale."""
    model = line()
    updates = updates_of(model, config(precision=Precision.FLOAT16, ema_decay=0.5, min_lr=0.0))
    step(updates, model, torch.tensor([[1.0, 1.0, 1.0]]), 1)
    before, lr, scale = state(updates), updates.lr, updates.facts()["scale"]
    step(updates, model, torch.tensor([[1.0, float("inf"), 1.0]]), 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in updates.tensors().items())
    assert updates.lr < lr
    assert updates.facts()["scale"] == scale / 2
    step(updates, model, torch.tensor([[1.0, 1.0, 1.0]]), 3)
    changed = {name for name, tensor in updates.tensors().items() if not torch.equal(tensor, before[name])}
    assert {"model.weight", "ema.weight", "optimizer.0.step"} <= changed
    assert updates.tensors()["optimizer.0.step"] == 2


def test_gradients_that_are_never_finite_end_the_run() -> None:
    """Float16 halves its scale some thirty times, then says what to do."""
    model = line()
    updates = updates_of(model, config(precision=Precision.FLOAT16))
    gradient = torch.tensor([[float("nan"), 0.0, 0.0]])
    for number in range(1, 32):  # from 2^16 to below float16's smallest number, 2^-14
        step(updates, model, gradient, number)
    with pytest.raises(TrainingDivergedError, match="bfloat16"):
        step(updates, model, gradient, 32)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16])
def test_the_state_goes_on_to_the_same_bits(tmp_path: Path, precision: Precision) -> None:
    """Through a file: weights, EMA, moments, scale and its count of updates without overflow."""
    settings = config(precision=precision, ema_decay=0.9)
    model = line()
    updates = updates_of(model, settings)
    given = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(0))
    for number in (1, 2, 3):
        step(updates, model, given[number - 1], number)
    if precision is Precision.FLOAT16:
        step(updates, model, torch.full((1, 3), float("inf")), 4)
    Checkpoint(tensors=updates.tensors(), facts={"scaler": updates.facts()}).write(tmp_path / "file.safetensors")
    other = copy.deepcopy(line())
    resumed = updates_of(other, settings)
    resumed.load(Checkpoint.read(tmp_path / "file.safetensors"), 4)
    assert json.dumps(resumed.facts()) == json.dumps(updates.facts())
    for number in (5, 6):
        step(updates, model, given[number - 1], number)
        step(resumed, other, given[number - 1], number)
    for name, tensor in updates.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
