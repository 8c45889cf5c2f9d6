"""Event files, which TensorBoard reads: named numbers by step, in TensorFlow's record format.

The protocol buffers and the checksum are tensorboardX's, which is imported with the first number. The file is opened, appended
to and closed each time, so that a killed run has lost nothing.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

FOLDER_NAME = "tensorboard"
"""Of the event files, beside a run's journal."""


class EventFile:
    """Writes one file into a folder, made with the first number.

    That file begins by saying where this process started: TensorBoard then forgets what files before it in the folder say of
    that step and later ones, so the curve of a resumed run has no step twice.

    Args:
        folder: Where the files of one curve lie, those of earlier processes among them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append named numbers.

        Raises:
            ModuleNotFoundError: tensorboardX is not installed.
            OSError: The file cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 (optional, and slow)
        from tensorboardX.proto.summary_pb2 import Summary  # noqa: PLC0415

        now_s = time.time()
        events = []
        if self._path is None:
            self._path = self._new_path(now_s, step)
            events.append(Event(wall_time=now_s, step=step, file_version="brain.Event:2"))
            events.append(Event(wall_time=now_s, step=step, session_log=SessionLog(status=SessionLog.START)))
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        events.append(Event(wall_time=now_s, step=step, summary=Summary(value=values)))
        records = b"".join(_record(event.SerializeToString()) for event in events)
        with self._path.open("ab") as file:
            file.write(records)

    def _new_path(self, now_s: float, step: int) -> Path:
        """Return a path that no file has; TensorBoard reads a folder's files in the order of their names."""
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = len(list(self._folder.glob("events.out.tfevents.*")))
        return self._folder / f"events.out.tfevents.{int(now_s):010}.{taken:06}.tleg-{step}"


def _record(data: bytes) -> bytes:
    """Return a TFRecord: length, its checksum, the data, its checksum (tensorflow/core/lib/io/record_writer.h)."""
    from tensorboardX.record_writer import masked_crc32c  # noqa: PLC0415

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
