"""Joining the processes that torchrun started, of one machine or of several, and leaving them again.

What they do together is `processes`'. torchrun's own options say how many there are and where they meet.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from tleg_core.errors import ConfigError
from tleg_core.training.errors import ProcessLostError, TrainingInterruptedError, is_out_of_memory
from tleg_core.training.processes import Processes

_GLOO_SAYS = ("gloo", "Connection closed by peer", "Connection reset by peer")  # in plain RuntimeErrors


@contextmanager
def process_group() -> Iterator[Processes]:
    """Give the processes that share this run; this one alone unless torchrun started it.

    An error ends the group: torchrun ends the others.

    Raises:
        ProcessLostError: Another process has ended before its time.
    """
    if not distributed.is_torchelastic_launched():
        yield Processes()
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    processes = Processes()
    try:
        yield processes
    except TrainingInterruptedError:
        if processes.first:
            raise
        sys.exit(1)  # all were asked to stop, and the first says so
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise ProcessLostError from error
    finally:
        distributed.destroy_process_group()


def local_device(name: str) -> str:
    """Return the device that this process computes on, where `name` (auto, cpu, cuda …) is wanted of all of them.

    Raises:
        ConfigError: It names one GPU for several processes, or this machine has fewer GPUs than processes.
    """
    if not distributed.is_torchelastic_launched() or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return name
    if name not in ("auto", "cuda"):
        raise ConfigError("device", f"must be auto, cuda or cpu under torchrun, which gives each process its own, not {name!r}")
    index = distributed.get_node_local_rank()
    if index >= torch.cuda.device_count():
        raise ConfigError("device", f"process {index} of this machine has no GPU; there are {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def _is_loss(error: RuntimeError) -> bool:
    """Whether a sum over all processes failed because one of them is not there any more."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, distributed.DistError) or any(words in str(error) for words in _GLOO_SAYS)
