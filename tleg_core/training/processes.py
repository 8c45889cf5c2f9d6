"""The processes of one run: alone, or a group of `torch.distributed` that was initialised before.

Each takes its share of every batch. Gradients are averaged by one sum over all processes after the backward pass, not by hooks
within it: so the processes can first agree that none of them ran out of memory, and retry the update together.

Shape legend: B images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

_FOR_EVER = timedelta(days=1000)  # a process whose peer has died is told so at once; this is for peers that wait for work


class Processes:
    """This process among those of the run; alone unless a process group is initialised."""

    def __init__(self) -> None:
        grouped = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if grouped else 0
        self.count = distributed.get_world_size() if grouped else 1
        self._patient: Any = distributed.new_group(backend="gloo", timeout=_FOR_EVER) if self.count > 1 else None

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and saves."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part (B / count,) of a batch's rows (B,)."""
        size = len(rows) // self.count
        return rows[self.rank * size : (self.rank + 1) * size]

    def deal(self, rows: Tensor) -> Tensor:
        """Return this process's part (B / count,) of a batch's rows (B,), dealt one by one as cards are."""
        return rows[self.rank :: self.count][: len(rows) // self.count]

    def told(self, text: str) -> str:
        """Return the first process's text; all must ask, and may wait for it for ever."""
        if self.count == 1:
            return text
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if self.first else torch.zeros(0)
        length = torch.tensor(len(content))
        distributed.broadcast(length, 0, group=self._patient)
        if not self.first:
            content = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(content, 0, group=self._patient)
        return content.numpy().tobytes().decode()

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers; all must ask."""
        if self.count == 1:
            return number
        value = torch.tensor(number, dtype=torch.int64)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return int(value)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, all of one shape; all must ask."""
        if self.count == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by the mean over the processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
