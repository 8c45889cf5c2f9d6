"""What the loop does where memory runs out: more parts, the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.run_in_child import image_set
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.errors import TrainingMemoryError
from tleg_core.training.keeper import CHECKPOINT_NAME, FolderKeeper
from tleg_core.training.loop import Outcome, Trainer
from tleg_core.training.observer import Silent
from tleg_core.training_config import Augmentation, Precision, TrainingConfig

CPU = torch.device("cpu")


class Notes(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def note(self, message: str) -> None:
        """Keep it."""
        self.messages.append(message)


def trainer(folder: Path, *, largest: int, error: type[Exception] = torch.OutOfMemoryError, notes: Any = None) -> Trainer[Any]:
    """Return a run with dropout whose device holds `largest` images."""
    torch.manual_seed(7)
    model = nn.Linear(8 * 8 * 3, 3)

    def objective(batch: Batch) -> Outcome:
        if len(batch) > largest:
            raise error("DefaultCPUAllocator: can't allocate memory")
        logits = model(batch.images.flatten(1))
        return Outcome(loss=nn.functional.cross_entropy(logits, batch.targets), logits=logits)

    config = TrainingConfig(
        epochs=2, batch_size=32, precision=Precision.FLOAT32, augmentation=Augmentation(), checkpoint_every_steps=1
    )
    return Trainer(
        model,
        objective,
        Batches.of_image_set(image_set(64), config, CPU),
        config,
        identity={},
        keeper=FolderKeeper(folder, 1),
        observer=notes or Silent(),
        device=CPU,
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path: Path, error: type[Exception]) -> None:
    """The weights are those of the run that had memory, but for rounding; the user is told once for each halving."""
    notes = Notes()
    short = trainer(tmp_path / "short", largest=10, error=error, notes=notes).run()
    long = trainer(tmp_path / "long", largest=32).run()
    torch.testing.assert_close(short.weight, long.weight, rtol=1e-3, atol=1e-5)
    assert ["2 parts" in notes.messages[0], "4 parts" in notes.messages[1], len(notes.messages)] == [True, True, 2]


def test_the_parts_are_remembered_by_the_checkpoint(tmp_path: Path) -> None:
    """A run that goes on elsewhere computes in the same parts, so that it ends in the same bits."""
    trainer(tmp_path, largest=10).run()
    assert Checkpoint.read(tmp_path / CHECKPOINT_NAME).facts["parts"] == 4
    resumed = trainer(tmp_path, largest=32)
    resumed.load()
    assert resumed._parts == 4


def test_an_image_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    """With a reason of its own."""
    with pytest.raises(TrainingMemoryError):
        trainer(tmp_path, largest=0).run()


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    """They end the run as they are."""
    run = trainer(tmp_path, largest=0, error=ValueError)
    with pytest.raises(ValueError, match="allocate"):
        run.run()
