"""The validating process: an order on its input, one line of outcome on its output, and an end with its parent."""

from __future__ import annotations

import os
import resource
import sys
import threading
import warnings

import pyarrow as pa
from PIL import Image

from service.ingest.limits import Limits
from service.ingest.validation import Order, validate

_MAX_ORDER_BYTES = 64 * 1024
_CPU_S = 6 * 3600
_OPEN_FILES = 128


def main() -> None:
    """Validate one upload."""
    order = Order.model_validate_json(sys.stdin.buffer.readline(_MAX_ORDER_BYTES))
    threading.Thread(target=_end_with_input, daemon=True).start()
    _confine(order.limits)
    warnings.simplefilter("ignore")  # decoders warn of what they repair
    Image.MAX_IMAGE_PIXELS = None  # the limit here is the operator's, and looked at first
    outcome = validate(order)
    sys.stdout.write(outcome.model_dump_json() + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    """End when the parent has: the kernel closes the pipe, however it ended."""
    while os.read(sys.stdin.fileno(), 1024):  # past its buffer, whose lock an end of the interpreter would wait for
        pass
    os._exit(1)


def _confine(limits: Limits) -> None:
    """Take from this process what it does not need."""
    pa.set_memory_pool(pa.system_memory_pool())  # the others set far more address space aside than they use
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_FSIZE, 2 * limits.max_unpacked_bytes + limits.max_entries * 512),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


if __name__ == "__main__":
    main()
