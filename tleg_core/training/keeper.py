"""The keeper of a run's checkpoints: says when one is due, and where it lies. This is the port, and a folder on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tleg_core.training.checkpoint import Checkpoint

CHECKPOINT_NAME = "checkpoint.safetensors"


class Keeper(Protocol):
    """Keeps the last checkpoint of a run. Its `str` names it in messages."""

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether a checkpoint should be made after `step` updates, the last of which may have ended an epoch."""
        ...

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep it in place of the one before; raises where it cannot."""
        ...

    def read(self) -> Checkpoint:
        """Return the kept checkpoint; raises `CheckpointError`."""
        ...


class FolderKeeper:
    """Keeps one file in a folder, renewed every so many updates and at each epoch's end."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        self._path = folder / CHECKPOINT_NAME
        self._every_steps = every_steps

    def __str__(self) -> str:
        """Return the file's path."""
        return str(self._path)

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether it is time."""
        return ends_epoch or step % self._every_steps == 0

    def keep(self, checkpoint: Checkpoint, step: int) -> None:  # noqa: ARG002 (the file has one name)
        """Write the file; raises `CheckpointError`."""
        checkpoint.write(self._path)

    def read(self) -> Checkpoint:
        """Read the file; raises `CheckpointError`."""
        return Checkpoint.read(self._path)
