"""The engine: the process that trains. `python -m service.worker.engine SOCKET`, which the supervisor listens on.

Before anything else it binds its life to its parent: torch takes seconds to import, and a supervisor that dies meanwhile would
leave a process behind that loads it for nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from service.worker.parent_death import end_with_parent


def main() -> None:
    """Start the engine."""
    parser = argparse.ArgumentParser(prog="service.worker.engine", description="Trains for `tleg worker`, which starts it.")
    parser.add_argument("socket", type=Path, help="the unix socket of the supervisor")
    socket = parser.parse_args().socket
    end_with_parent()
    try:
        from service.worker.engine_loop import run  # noqa: PLC0415 (it imports torch)
    except ModuleNotFoundError as error:
        sys.exit(f"the engine cannot start: {error}; a worker needs torch and timm")
    run(socket)


if __name__ == "__main__":
    main()
