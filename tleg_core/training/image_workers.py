"""Image workers: processes that decode and augment images into memory that they share with this one.

Each picture's view is a function of the picture and a seed, so which process makes it, and how many there are, changes nothing.
The processes are started afresh (never forked from this one, which may hold a GPU and threads), leave Ctrl-C to this process,
and end with it however it ends.

Shape legend: P places in the shared memory, S side, C channels.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tleg_core.image_source import ImageSource, read_picture
from tleg_core.training.errors import ImageWorkerError

View: TypeAlias = Callable[[Image.Image, int], npt.NDArray[np.uint8]]
"""Makes a picture's (S, S, C) of it and a seed; pickled to the workers."""

_START_METHODS = ("forkserver", "spawn")  # from a server that has loaded PyTorch once, or each by itself


class ImageWorkers:
    """Processes that work on one source; started by the first order.

    Args:
        source: The images.
        view: What is made of each.
        size: (S, S, C) of what it makes.
        places: P.
        count: Processes.
    """

    def __init__(self, source: ImageSource, view: View, *, size: tuple[int, int, int], places: int, count: int) -> None:
        method = next(method for method in _START_METHODS if method in multiprocessing.get_all_start_methods())
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["tleg_core.training.image_workers", "tleg_core.training.random_view"])
        shape = (places, *size)
        # In /dev/shm if that has room for it, else in a temporary file; without a name, so that nothing can be left behind.
        memory = context.RawArray("B", int(np.prod(shape)))
        self._views = np.frombuffer(memory, dtype=np.uint8).reshape(shape)  # (P, S, S, C)
        self._pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_prepare, initargs=(source, view, memory, shape)
        )

    def begin(self, start: int, rows: Sequence[int], seeds: Sequence[int]) -> Future[None]:
        """Begin to write the views of `rows` to the places from `start`.

        Raises:
            ImageWorkerError: A process has died.
        """
        try:
            with _ctrl_c_blocked():  # a process that this starts inherits that, and so cannot be interrupted half-made
                return self._pool.submit(_work, start, list(rows), list(seeds))
        except BrokenProcessPool as error:
            raise ImageWorkerError from error

    def end(self, work: Sequence[Future[None]]) -> None:
        """Wait until what was begun is done.

        Raises:
            PictureError: A picture cannot be read.
            ImageWorkerError: A process has died.
        """
        try:
            for part in work:
                part.result()
        except BrokenProcessPool as error:
            raise ImageWorkerError from error

    def views(self, start: int, count: int) -> npt.NDArray[np.uint8]:
        """Return `count` places (count, S, S, C) of the shared memory, not copied."""
        return self._views[start : start + count]

    def close(self) -> None:
        """End the processes; what was begun and is not done is given up."""
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Put SIGINT off until the end, in this thread and for what it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """What a worker holds."""

    def __init__(self, source: ImageSource, view: View, views: npt.NDArray[np.uint8]) -> None:
        self.source, self.view, self.views = source, view, views


_worker: _Worker | None = None  # of this process, if it is one


def _prepare(source: ImageSource, view: View, memory: Any, shape: tuple[int, ...]) -> None:
    """Begin a worker's life."""
    global _worker  # noqa: PLW0603 (a pool gives its workers no other place to keep anything)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = _Worker(source, view, np.frombuffer(memory, dtype=np.uint8).reshape(shape))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: its pool would wait for orders for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(start: int, rows: Sequence[int], seeds: Sequence[int]) -> None:
    """Do an order in a worker."""
    if _worker is None:
        raise RuntimeError("no worker was prepared in this process")
    for place, (row, seed) in enumerate(zip(rows, seeds, strict=True), start):
        _worker.views[place] = _worker.view(read_picture(_worker.source, row), seed)
