"""A folder for one worker's files, which are worth nothing without it: fetched data, weights on their way to the object store.

It is locked as long as the worker lives; what killed workers left is removed by the next one that starts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

_PREFIX = "worker-"


class WorkFolder:
    """A fresh folder under `parent`; use it as a context manager."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._lock: int | None = None
        self.path = parent

    def __enter__(self) -> Self:
        """Make the folder, and remove those that nobody holds."""
        self._parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        gate = os.open(self._parent, os.O_RDONLY)  # so that no folder is seen between its making and its locking
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for left in self._parent.glob(f"{_PREFIX}*"):
                _remove_unless_held(left)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        finally:
            os.close(gate)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _remove_unless_held(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("removed what a killed worker had left", extra={"action": "work_folder_removed", "folder": str(folder)})
    finally:
        os.close(lock)
