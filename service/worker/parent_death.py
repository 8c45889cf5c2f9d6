"""A process that ends with its parent, however that one ends; Linux's `PR_SET_PDEATHSIG`, and nothing elsewhere."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; to be called first of all.

    The kernel watches the thread that started this process, so the parent must have done so from one that lives as long as it
    does. Elsewhere than on Linux nothing happens, and the end of the connection must do.
    """
    if not sys.platform.startswith("linux"):
        return
    parent_pid = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
