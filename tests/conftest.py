"""What all tests share: one hypothesis profile, one thread for each of several test processes, no GPU tests without a GPU."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the machines that run the tests are shared. The suppressed check counts time too.
settings.register_profile("tleg", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tleg")

if "PYTEST_XDIST_WORKER" in os.environ:  # the networks are tiny, and each core has a test process already
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on a machine without CUDA; torch is imported only where there is such a test."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # noqa: PLC0415 (most runs select no GPU test and need no torch)

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
