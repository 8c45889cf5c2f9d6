"""The errors of the training, below the core's.

    TlegError
    ├── TrainingInterruptedError    asked to stop; the checkpoint is written
    └── TrainingDivergedError       the loss is not finite; the last checkpoint stands

Wrong settings are `ConfigError`, unusable files `CheckpointError`, both of `tleg_core.errors`.
"""

from __future__ import annotations

from tleg_core.errors import TlegError


class TrainingInterruptedError(TlegError):
    """The training was interrupted and can be resumed."""


class TrainingDivergedError(TlegError):
    """The loss is not a finite number any more."""
