"""Prefetching: the next batch is made in a thread while the current one is trained on.

On a GPU the thread works in a stream of its own, so that copies and augmentation run beside the training, and nobody waits but
the GPU. What a batch holds is the maker's business, and follows from the update's number alone: what is made ahead is what
would be made when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor


class Made(Protocol):
    """What is made: it knows its tensors on the device."""

    def device_tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that were made on the device."""
        ...


MadeT = TypeVar("MadeT", bound=Made)


class Prefetch(Generic[MadeT]):
    """Makes one ahead.

    Args:
        make: Makes what belongs to an update; called in the thread, for one update at a time.
        device: Where it is made; what `make` reads there must have been written.
    """

    def __init__(self, make: Callable[[int], MadeT], device: torch.device) -> None:
        self._make, self._device = make, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._coming: tuple[int, Future[tuple[MadeT, torch.cuda.Event | None]]] | None = None

    def of(self, step: int) -> MadeT:
        """Return what belongs to an update, and begin with the next; raises what `make` raised."""
        if self._coming is not None and self._coming[0] == step:
            making = self._coming[1]
        else:
            if self._coming is not None:
                self._coming[1].cancel()
            making = self._thread.submit(self._in_thread, step)
        self._coming = (step + 1, self._thread.submit(self._in_thread, step + 1))
        made, event = making.result()
        if event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            for tensor in made.device_tensors():
                tensor.record_stream(current)
        return made

    def close(self) -> None:
        """Wait for what is being made, and end the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _in_thread(self, step: int) -> tuple[MadeT, torch.cuda.Event | None]:
        if self._stream is None:
            return self._make(step), None
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            made = self._make(step)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return made, event
