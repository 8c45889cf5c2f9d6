"""A worker's folder: its own, gone with it, and gone too when it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.worker.work_folder import WorkFolder

HOLDER = """
import sys, time
from pathlib import Path
from service.worker.work_folder import WorkFolder
with WorkFolder(Path(sys.argv[1])) as work:
    (work.path / "large").write_text("fetched")
    print(work.path, flush=True)
    time.sleep(600)
"""


def test_the_folder_of_a_killed_worker_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """The next worker that starts clears up, once the lock is gone."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        with WorkFolder(tmp_path) as other:
            assert other.path.is_dir()
            assert (held / "large").exists()
        assert not other.path.exists()
        holder.kill()
    with WorkFolder(tmp_path):
        assert not held.exists()
