"""The folder of one upload: everything that is written on its way, gone at its end, however that comes.

A lock that the kernel lets go of tells the folders of living servers from those that a killed one left.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger(__name__)

_LOCK_SUFFIX = ".lock"


class UploadFolder:
    """A folder for one upload; close it."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.id = uuid4().hex
        self.path = root / self.id
        self._leaves_claim = False
        self._lock_path = root / f"{self.id}{_LOCK_SUFFIX}"
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.mkdir(mode=0o700)
        except BaseException:
            self.close()
            raise

    @property
    def upload(self) -> Path:
        """The upload as it came."""
        return self.path / "upload"

    @property
    def image_file(self) -> Path:
        """The data set file that it becomes."""
        return self.path / "images.arrow"

    @property
    def spool(self) -> Path:
        """Images that were accepted."""
        return self.path / "spool"

    @property
    def current(self) -> Path:
        """The name of the entry that is being validated."""
        return self.path / "current"

    @property
    def claim(self) -> Path:
        """Which data set and object key it is about to take: `service.ingest.ingestion`'s."""
        return self.path / "claim"

    def leave_claim(self) -> None:
        """Keep the claim for the next server's `delete_stale`: nobody knows now what came of it."""
        self._leaves_claim = True

    def close(self) -> None:
        """Delete it all, but for a claim that is left."""
        if self._leaves_claim:
            for path in self.path.iterdir():
                if path != self.claim:
                    path.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


async def delete_stale(root: Path, release: Callable[[bytes], Awaitable[None]]) -> None:
    """Delete the folders of servers that are gone, and those that were left for their claims.

    Args:
        root: Where the folders lie.
        release: Gives up what the content of a folder's `claim` names; a folder whose claim it fails to give up stays.
    """
    if not root.is_dir():
        return
    for lock_path in sorted(root.glob(f"*{_LOCK_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(lock_path, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                await _delete(lock_path, release)
            except BlockingIOError:
                continue  # a living server's
            finally:
                os.close(lock)


async def _delete(lock_path: Path, release: Callable[[bytes], Awaitable[None]]) -> None:
    folder = lock_path.with_suffix("")
    with contextlib.suppress(FileNotFoundError):
        await release((folder / "claim").read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    lock_path.unlink(missing_ok=True)
    logger.info("deleted what an upload left", extra={"action": "stale_upload_deleted", "upload": folder.name})
