"""Processes of this machine that tests look for; each may end while it is looked at."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_with(argument: str, pid: int | None = None, *, recursive: bool = False) -> list[psutil.Process]:
    """Return a process's running children that were started with an argument; this process's where `pid` is None."""
    found = []
    try:
        children = psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []
    for child in children:
        try:
            if argument in child.cmdline():
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
