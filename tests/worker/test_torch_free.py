"""The supervisor's process never loads torch: only its engine does."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_supervisor_leaves_torch_out() -> None:
    """Neither torch nor anything that loads it is among the modules, with the command that runs a worker."""
    code = "import sys, service.cli.worker; print({'torch', 'torchvision', 'timm'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
