"""The errors of the training, below the core's.

    TlegError
    ├── TrainingInterruptedError    asked to stop; the checkpoint is written
    ├── MeasurementStoppedError     asked to stop while held-out images were classified
    ├── TrainingDivergedError       the loss is not finite; the last checkpoint stands
    ├── TrainingMemoryError         one image at a time does not fit the device's memory
    ├── ImageWorkerError            a process that makes images ready has died
    ├── ProcessLostError            another of the processes that share the run has ended
    └── ExportError                 a network cannot be exported, or the file computes something else
        └── ExportTooLargeError     the file would be larger than its format allows

Wrong settings are `ConfigError`, unusable files `CheckpointError`, both of `tleg_core.errors`.
"""

from __future__ import annotations

import torch

from tleg_core.errors import TlegError


class TrainingInterruptedError(TlegError):
    """The training was interrupted and can be resumed."""


class MeasurementStoppedError(TlegError):
    """The measurement was stopped."""


class TrainingDivergedError(TlegError):
    """The loss is not a finite number any more."""


class TrainingMemoryError(TlegError):
    """The device's memory does not hold the training, even with one image at a time."""


class ImageWorkerError(TlegError):
    """A process that decodes images has died: killed for memory, most likely; fewer workers take less."""


class ProcessLostError(TlegError):
    """Another process of this run has ended, so this one ends too; with --resume the run goes on from its last checkpoint."""


class ExportError(TlegError):
    """A network cannot be exported, or its file computes something else.

    Attributes:
        kind: `program` or `onnx`.
        reason: What is wrong.
        deviation: The largest deviation of the file's logits from the network's, where that is the reason.
    """

    def __init__(self, kind: str, reason: str, *, deviation: float | None = None) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.deviation = deviation


class ExportTooLargeError(ExportError):
    """The file would be larger than its format allows."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's or the process's memory did not suffice; on a CPU, PyTorch says so in a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
