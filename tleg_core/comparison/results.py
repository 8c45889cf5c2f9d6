"""The results of a comparison's units: one JSON object a line, appended and flushed, so that a kill loses nothing done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tleg_core.errors import CheckpointError

Result: TypeAlias = Mapping[str, Any]
"""What a unit gave: `unit` is its id, `top1` a fraction, `curve` the accuracies after each epoch, `seconds` its time."""

RESULTS_NAME = "results.jsonl"


class Results:
    """The results in a file, by unit.

    Args:
        path: The file; a last line that a kill cut off is left out, and removed when the next result is kept.

    Raises:
        CheckpointError: A line in the middle is not a result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_unit: dict[str, Result] = {}
        self._whole = 0
        if not path.exists():
            return
        content = path.read_bytes()
        self._whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[: self._whole].splitlines(), start=1):
            try:
                result = json.loads(line)
                self._by_unit[result["unit"]] = result
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{path}, line {number} is no result: {error}") from error

    def __contains__(self, unit: str) -> bool:
        return unit in self._by_unit

    def __getitem__(self, unit: str) -> Result:
        return self._by_unit[unit]

    def done(self, units: Iterable[str]) -> set[str]:
        """Return those of `units` that have a result."""
        return {unit for unit in units if unit in self._by_unit}

    def append(self, result: Result) -> None:
        """Keep a result, on the disk before this returns."""
        line = json.dumps(result, allow_nan=False).encode() + b"\n"
        with self._path.open("ab") as file:
            file.truncate(self._whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._whole += len(line)
        self._by_unit[result["unit"]] = result
