"""A container's health check: exit code 0 if it is well, 1 and a line that says why not otherwise.

    python health.py URL             # something answers 200 there
    python health.py FILE SECONDS    # FILE was touched within so many seconds

Nothing but the standard library: it runs every few seconds, beside a process that has better use for the time.
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_TIMEOUT_S = 4  # below the five seconds that the image gives a check


def ask(url: str) -> str | None:
    """Return what is wrong with the server at `url`, None if nothing is."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment is not for ourselves
    try:
        with direct.open(url, timeout=_TIMEOUT_S) as answer:
            return None if answer.status == 200 else f"{url} answered {answer.status}"
    except (OSError, ValueError) as error:
        return f"{url}: {error}"


def look_at(file: Path, limit_s: float) -> str | None:
    """Return what is wrong with the process that touches `file`, None if nothing is."""
    try:
        age_s = time.time() - file.stat().st_mtime
    except OSError as error:
        return f"{file}: {error.strerror}"
    return None if age_s <= limit_s else f"{file} was last touched {age_s:.0f} s ago, more than {limit_s:g}"


def main(arguments: list[str]) -> int:
    """Check what the arguments name."""
    wrong = ask(arguments[0]) if len(arguments) == 1 else look_at(Path(arguments[0]), float(arguments[1]))
    if wrong:
        print(wrong, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
