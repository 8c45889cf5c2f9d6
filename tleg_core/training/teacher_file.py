"""A teacher's file: an ancestry model, to be asked at each update, or the logits that it gave beforehand."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tleg_core.errors import CheckpointError
from tleg_core.training.ancestry import AncestryModel
from tleg_core.training.stored_logits import METADATA_KEY as LOGITS_KEY
from tleg_core.training.stored_logits import StoredLogits
from tleg_core.training.teacher import AncestryTeacher, Teacher
from tleg_core.training_config import Precision


def open_teacher(path: Path, device: torch.device, precision: Precision) -> Teacher:
    """Return the teacher in a file, of whichever kind it is.

    Args:
        path: The file.
        device: Where an ancestry model computes.
        precision: Its arithmetic; that of stored logits was chosen when they were made.

    Raises:
        CheckpointError: The file is of neither kind, or broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    if LOGITS_KEY in metadata:
        return StoredLogits.open(path)
    return AncestryTeacher(AncestryModel.open(path), device, precision)
