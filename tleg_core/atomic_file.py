"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_MODE = 0o644  # temporary files are private; what is published may be read


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write that takes the name `path` at the end of the block, flushed to the disk.

    Whatever was there before stays until then, and stays if the block or the disk fails.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    try:
        temporary_file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tleg-", delete=False)  # noqa: SIM115 (just below)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # by the name that the caller knows
    with temporary_file as file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(_MODE)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a crash
    finally:
        os.close(folder)
