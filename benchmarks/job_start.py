"""From a job's acceptance to its first step on a warm worker, by the store's own times.

    python -m benchmarks.job_start [--jobs 12] [--depth 4]

A server with one worker is started on a fresh data folder; jobs of one epoch follow one another on the drawings that ship. The
first job is shown apart: it decodes the first images and touches everything for the first time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from service.cli.demo_fine_tune import IMAGES
from service.client import BudgetBody, Client, FineTuneBody

_PORT = 8198


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
    with tempfile.TemporaryDirectory(prefix="tleg-bench-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(_PORT), "--data-dir", f"{folder}/data"]
        with log.open("w") as output:
            server = subprocess.Popen(command, stderr=output)
        try:
            while "engine is ready" not in log.read_text():
                time.sleep(0.2)
            with Client(f"http://127.0.0.1:{_PORT}") as client:
                rows = measure(client, args.jobs, args.depth)
        finally:
            server.terminate()
            server.wait()
    out = Console(highlight=False)
    for name, column in (("claimed", 0), ("first step done", 1)):
        first, *others = [row[column] for row in rows]
        out.print(f"{name:<16} first job {first:.0f} ms; then median {statistics.median(others):.0f}, max {max(others):.0f} ms")


if __name__ == "__main__":
    main()
