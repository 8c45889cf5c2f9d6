"""A tiny real image set, and where the shared data lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tleg_core.images import ImageSet

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Real data sets and pretrained models, beside the repository on the project's own machines."""


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Give the path of a shared file, or skip the test where this machine does not have it."""

    def path_of(name: str) -> Path:
        if not (SHARED_DATA / name).is_file():
            pytest.skip(f"shared/data/{name} is not on this machine")
        return SHARED_DATA / name

    return path_of


@pytest.fixture(scope="session")
def bars() -> ImageSet:
    """48 noisy images of 16 px with a bright band at the top, the middle or the bottom: three classes a network can learn."""
    rng = np.random.default_rng(0)
    labels = np.arange(48, dtype=np.int64) % 3
    images = rng.integers(0, 80, (48, 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[5 * label : 5 * label + 5] += 150
    return ImageSet(name="bars", images=images, labels=labels, class_names=("top", "middle", "bottom"))
