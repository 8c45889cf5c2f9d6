"""From a job's acceptance to its first step on a warm worker, by the store's own times.

    python -m benchmarks.job_start [--jobs 12] [--depth 4]

A server with one worker is started on a fresh data folder; jobs of one epoch follow one another on the drawings that ship. The
first job is shown apart: it decodes the first images and touches everything for the first time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.peers import tleg_server
from service.cli.demo_fine_tune import IMAGES
from service.client import BudgetBody, Client, FineTuneBody
from service.storage.learngene_registry import shipped_paths

_START_TIMEOUT_S = 120.0


def measure(client: Client, jobs: int, depth: int) -> list[tuple[float, float]]:
    """Return, for each job, milliseconds from its acceptance to its claim and to the end of its first step."""
    dataset = client.upload_dataset(IMAGES)
    rows = []
    for seed in range(jobs):
        body = FineTuneBody.model_validate(
            {"budget": BudgetBody(depth=depth), "dataset": dataset.id, "settings": {"epochs": 1, "seed": seed}}
        )
        events = list(client.events(client.create_fine_tune(body).id))
        accepted = events[0].at
        claimed = next(event.at for event in events if event.facts.get("status") == "running")
        stepped = next(event.at for event in events if event.kind == "progress" and event.facts["step"] >= 1)
        rows.append((1000 * (claimed - accepted).total_seconds(), 1000 * (stepped - accepted).total_seconds()))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--depth", type=int, default=4)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tleg-bench-") as folder,
        tleg_server(Path(folder), shipped_paths()[0], workers=1) as server,
    ):
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "engine_ready" not in (log := (Path(folder) / "log").read_text()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not start: {log}")
            time.sleep(0.2)
        with Client(f"http://127.0.0.1:{server.port}") as client:
            rows = measure(client, args.jobs, args.depth)
    out = Console(highlight=False)
    for name, column in (("claimed", 0), ("first step done", 1)):
        first, *others = [row[column] for row in rows]
        out.print(f"{name:<16} first job {first:.0f} ms; then median {statistics.median(others):.0f}, max {max(others):.0f} ms")


if __name__ == "__main__":
    main()
