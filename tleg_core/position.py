"""The position embedding at another image size: bicubic resampling with antialiasing, as timm does on loading.

timm calls torch's `interpolate(mode="bicubic", antialias=True)`. Here the same weights are applied in float64, one tap after
the other, so that the result does not depend on a machine's linear algebra; it agrees with torch's float32 to 1e-6.

Shape legend: G grid side, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tleg_core.errors import ConfigError

MAX_GRID = 64
"""Largest grid resampled to: 4,096 tokens, 1024 pixels at patch size 16; far beyond it attention is not affordable anyway."""

_CUBIC = -0.5  # the coefficient of Keys' cubic kernel that torch takes with antialiasing
_SUPPORT = 2.0  # half the kernel's width, in source samples


def resample(pos_embed: NDArray[np.float32], *, old_grid: int, new_grid: int) -> NDArray[np.float32]:
    """Return the position embedding for another grid.

    Args:
        pos_embed: Shape (1, prefix + G_old^2, D); prefix tokens (a class token) are kept as they are.
        old_grid: Patches along one side now.
        new_grid: Patches along one side wanted.

    Returns:
        Shape (1, prefix + G_new^2, D), float32.

    Raises:
        ConfigError: The new grid is above `MAX_GRID`.
    """
    if new_grid == old_grid:
        return pos_embed
    if new_grid > MAX_GRID:
        raise ConfigError("image_size", f"is {new_grid} patches wide; at most {MAX_GRID} are supported")
    width = pos_embed.shape[-1]
    prefix = pos_embed.shape[1] - old_grid**2
    grid = pos_embed[0, prefix:].reshape(old_grid, old_grid, width).astype(np.float64)  # (G_old, G_old, D)
    columns = _resample_first_axis(grid.transpose(1, 0, 2), new_grid)  # (G_new, G_old, D), columns first
    rows = _resample_first_axis(columns.transpose(1, 0, 2), new_grid)  # (G_new, G_new, D), rows first
    tokens = rows.reshape(new_grid**2, width).astype(np.float32)
    return np.concatenate([pos_embed[0, :prefix], tokens])[None]


def _resample_first_axis(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Resample the first axis to `length`."""
    scale = values.shape[0] / length
    stretch = max(scale, 1.0)
    result = np.zeros((length, *values.shape[1:]))
    for index in range(length):
        centre = scale * (index + 0.5)
        first = max(int(centre - _SUPPORT * stretch + 0.5), 0)
        last = min(int(centre + _SUPPORT * stretch + 0.5), values.shape[0])
        taps = [_kernel((source - centre + 0.5) / stretch) for source in range(first, last)]
        total = sum(taps)
        for source, tap in zip(range(first, last), taps, strict=True):
            result[index] += values[source] * (tap / total)
    return result


def _kernel(x: float) -> float:
    """Return Keys' cubic convolution kernel at `x` source samples from the centre."""
    x = abs(x)
    if x < 1.0:
        return ((_CUBIC + 2.0) * x - (_CUBIC + 3.0)) * x * x + 1.0
    if x < _SUPPORT:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * _CUBIC
    return 0.0
