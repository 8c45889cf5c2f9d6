"""The element types a descendant can be written in: their sizes, names, and the one rounding of float32 to them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DType(StrEnum):
    """An element type a descendant can be written in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return 4 if self is DType.FLOAT32 else 2

    @property
    def code(self) -> str:
        """The name in a safetensors header."""
        return {DType.FLOAT32: "F32", DType.FLOAT16: "F16", DType.BFLOAT16: "BF16"}[self]

    def pack(self, values: NDArray[np.float32]) -> memoryview:
        """Return the little-endian bytes of `values`, each rounded once to this type, to nearest, ties to even.

        A value beyond float16's range becomes an infinity, as in IEEE 754.
        """
        array: NDArray[Any]
        match self:
            case DType.FLOAT32:
                array = values.astype("<f4", copy=False)
            case DType.FLOAT16:
                with np.errstate(over="ignore"):
                    array = values.astype("<f2")
            case DType.BFLOAT16:
                bits = values.view(np.uint32)
                ties_to_even = 0x7FFF + ((bits >> 16) & 1)
                array = ((bits + ties_to_even) >> 16).astype("<u2")
        return array.view(np.uint8).data
