"""The forms that a model's weights are to be had in, and the file that an export makes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

MAX_EXPORTED_BYTES: Final = 20 * 1024**3
"""Bytes that all exports may have, where the operator says nothing else."""


class ExportFormat(StrEnum):
    """What a worker makes of a model: a file that runs without this package, timm or, as ONNX, PyTorch."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"

    @property
    def suffix(self) -> str:
        """What the names of such files end with."""
        return ".onnx" if self is ExportFormat.ONNX else ".pt2"


class WeightsFormat(StrEnum):
    """What a model's weights can be downloaded as."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"

    @property
    def export(self) -> ExportFormat | None:
        """The export that it is; None of the weights themselves."""
        return None if self is WeightsFormat.SAFETENSORS else ExportFormat(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """The file that an export made; its text is the job's result."""

    sha256: str
    size_bytes: int

    def __str__(self) -> str:
        """Return both as one text."""
        return f"{self.sha256}-{self.size_bytes}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text; raises ValueError."""
        sha256, size_bytes = text.split("-")
        return cls(sha256=sha256, size_bytes=int(size_bytes))
