"""What a learngene's training is like where nobody says: derived from the data set. Torch-free.

These are judgement, sized for small data sets and a few processors; the paper's settings are recipes.
"""

from __future__ import annotations

from typing import Any, Final

from tleg_core.learngene_config import DepthRule, LearngeneConfig

_IMAGES: Final = 200_000  # repetitions counted, that a training sees
_MIN_EPOCHS, _MAX_EPOCHS = 10, 200
_LARGEST_SIDE: Final = 224
_PATCHES: Final = (
    (16, 2),
    (40, 4),
    (80, 8),
    (_LARGEST_SIDE, 16),
)  # up to a side in pixels, a patch's
_BATCH: Final = 128
_UPDATES_AN_EPOCH: Final = 8  # at least, where there are images enough
_DEPTHS: Final = {"rule": DepthRule.SANDWICH.value, "train": 12, "train_min": 4}  # each works without a fine-tune


def default_config(*, num_train: int, min_side: int, has_teacher: bool, nproc: int = 1) -> LearngeneConfig:
    """Return the configuration for a data set.

    Args:
        num_train: Training images.
        min_side: Smallest side of an image, in pixels; none is enlarged.
        has_teacher: Whether there is a model to learn from; the labels alone teach otherwise.
        nproc: Processes that share each batch.
    """
    epochs = min(_MAX_EPOCHS, max(_MIN_EPOCHS, round(_IMAGES / num_train)))
    img_size, patch_size = _sides(min_side)
    values: dict[str, dict[str, Any]] = {
        "network": {"img_size": img_size, "patch_size": patch_size},
        "depths": dict(_DEPTHS),
        "distillation": {"alpha": 1.0 if has_teacher else 0.0},
        "training": {
            "epochs": epochs,
            "warmup_epochs": epochs // 10,
            "batch_size": _batch_size(num_train, nproc),
            "precision": "float32",
        },
        "augmentation": {"shift": min(64, max(1, img_size // 14))},
    }
    return LearngeneConfig.from_json(values)


def _sides(min_side: int) -> tuple[int, int]:
    """Return the sides of the input and of a patch: as large as the smallest image, a whole number of patches."""
    side = min(_LARGEST_SIDE, max(2, min_side))
    patch = next(size for largest, size in _PATCHES if side <= largest)
    return side - side % patch, patch


def _batch_size(num_train: int, nproc: int) -> int:
    """Return a batch size that leaves an epoch some updates, a multiple of the processes."""
    size = _BATCH
    while size > 2 and size * _UPDATES_AN_EPOCH > num_train:
        size //= 2
    size = max(size, 2 * nproc)
    return size - size % (2 * nproc) if size <= num_train else nproc
