"""The service against its peers: the first five rows of the project's targets, measured in one run.

    python -m benchmarks.serving [--rounds 7]

What is compared is run in turn, round by round, so that noise falls on all alike; the table shows medians and their ratio.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.load import Download, download, post, posts
from benchmarks.peers import empty_route_server, file_response_server, nginx_server, tleg_server
from tleg_core.description import Description, Method, Provenance
from tleg_core.designs.basis import Basis, basis_shapes
from tleg_core.learngene import Learngene
from tleg_core.schedule import Polynomial
from tleg_core.vit import VIT_SIZES

CLIENTS = 8
CONNECTIONS = 4
POSTS = 300  # a round and connection
LOAD_ROUNDS = 4  # for each of the others, for a 99th percentile needs many
DEPTH = 12

console = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    peer: str
    ratio: str
    target: str
    met: bool | None


def random_learngene(path: Path, size: str = "base") -> None:
    """Write a learngene of a named size with random components: for timing, weights are weights."""
    words = "random components, for timing only"
    description = Description(
        name=f"random-{size}",
        method=Method.TLEG,
        design=Basis(schedule=Polynomial(), config=VIT_SIZES[size], trained_depth=None),
        provenance=Provenance(data_set="none", ancestry="none", command=words, version="-", licence="CC0-1.0"),
    )
    generator = np.random.default_rng(0)
    shapes = basis_shapes(description.config, 2)
    Learngene.create(
        description, {name: 0.02 * generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    ).write(path)


def create(port: int) -> dict[str, Any]:
    """Create the ViT-B at depth 12 and return the model."""
    model: dict[str, Any] = json.loads(post(port, json.dumps({"budget": {"depth": DEPTH}}).encode()))
    return model


def time_to_weights(port: int, weights: str, out: str | None) -> float:
    """Return the seconds from POST to the last byte, written to `out` if it names a file."""
    started = time.perf_counter()
    create(port)
    download(port, weights, write_to=out)
    return time.perf_counter() - started


def time_timm(source: str, out: str) -> float:
    """Return the seconds that timm's own way takes: create, load a state, save it."""
    import timm
    from safetensors.torch import load_file, save_file

    state = load_file(source)
    args: dict[str, Any] = {"class_token": False, "global_pool": "avg", "fc_norm": False, "depth": DEPTH}
    started = time.perf_counter()
    network = timm.create_model("vit_base_patch16_224", **args)
    network.load_state_dict(state)
    save_file(network.state_dict(), out)
    return time.perf_counter() - started


def creation_rows(pool: ProcessPoolExecutor, port: int, weights: str, folder: Path, rounds: int) -> list[Row]:
    """POST and full download against timm's create, load and save; the download kept in a file, and only received."""
    source, out = str(folder / "descendant.safetensors"), str(folder / "out.safetensors")
    seconds: dict[str, list[float]] = {"received": [], "to a file": [], "timm": []}
    for _ in track(range(rounds), "create + download, against timm", console=console, transient=True):
        seconds["received"].append(pool.submit(time_to_weights, port, weights, None).result())
        seconds["to a file"].append(pool.submit(time_to_weights, port, weights, out).result())
        seconds["timm"].append(pool.submit(time_timm, source, out).result())
    peer = statistics.median(seconds["timm"])
    rows = []
    for how in ("received", "to a file"):
        ours = statistics.median(seconds[how])
        rows.append(
            Row(
                what=f"POST + full download of ViT-B d12, {how}; timm create_model + load_state_dict + save_file",
                ours=f"{ours:.2f} s",
                peer=f"{peer:.2f} s",
                ratio=f"{peer / ours:.1f}x faster",
                target=">= 20x",
                met=peer / ours >= 20,
            )
        )
    return rows


def throughput_rows(pool: ProcessPoolExecutor, ports: dict[str, int], weights: str, rounds: int) -> list[Row]:
    """The computed file against the same bytes from the disk."""
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for _ in track(range(rounds), "one download, against files", console=console, transient=True):
        for name, port in ports.items():
            result = pool.submit(download, port, weights if name == "tleg" else "/").result()
            rates[name].append(result.size_bytes / result.total_s / 1e9)
    median = {name: statistics.median(values) for name, values in rates.items()}
    rows = []
    for name, target in (("FileResponse", 2.0), ("nginx", 0.5)):
        if name not in median:
            rows.append(Row(what=f"computed file; {name}", ours="", peer="not installed", ratio="", target="", met=None))
            continue
        ratio = median["tleg"] / median[name]
        rows.append(
            Row(
                what=f"computed file; the same bytes by {name}",
                ours=f"{median['tleg']:.2f} GB/s",
                peer=f"{median[name]:.2f} GB/s",
                ratio=f"{ratio:.2f}x",
                target=f">= {target}x",
                met=ratio >= target,
            )
        )
    return rows


def load_rows(pool: ProcessPoolExecutor, process: psutil.Process, port: int, weights: str, rounds: int) -> list[Row]:
    """Memory and first byte with 8 clients, while models go on being created."""
    peak, stop = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.005)

    list(pool.map(download, [port] * 2, [weights] * 2))  # warm
    before = process.memory_info().rss
    sampler = threading.Thread(target=sample)
    sampler.start()
    results: list[Download] = []
    for _ in track(range(LOAD_ROUNDS * rounds), f"{CLIENTS} downloads at once", console=console, transient=True):
        running = [pool.submit(download, port, weights) for _ in range(CLIENTS)]
        while not all(item.done() for item in running):
            create(port)
        results += [item.result() for item in running]
    stop.set()
    sampler.join()
    grown = (peak - before) / 1e6
    first = sorted(result.first_byte_s for result in results)
    p99_ms = 1000 * first[min(len(first) - 1, int(0.99 * len(first)))]
    rate = CLIENTS * results[0].size_bytes / statistics.median(result.total_s for result in results)
    return [
        Row(
            what=f"memory of the API while {CLIENTS} clients download and models are created",
            ours=f"+{grown:.0f} MB",
            peer=f"of {before / 1e6:.0f} MB",
            ratio=f"{rate / 1e9:.2f} GB/s in all",
            target="< 64 MB",
            met=grown < 64,
        ),
        Row(
            what=f"time to first byte, {CLIENTS} clients, 99th percentile of {len(first)}",
            ours=f"{p99_ms:.1f} ms",
            peer="",
            ratio=f"median {1000 * statistics.median(first):.1f} ms",
            target="< 25 ms",
            met=p99_ms < 25,
        ),
    ]


def post_rows(pool: ProcessPoolExecutor, ours_port: int, empty_port: int, rounds: int) -> list[Row]:
    """`POST /models` against an empty route with the same body: for a model that is known, and for new ones."""
    budget = {"max_params": 60_000_000, "max_macs": 15_000_000_000}
    known = [[json.dumps({"budget": budget, "num_classes": 100}).encode()] for _ in range(CONNECTIONS)]
    rates: dict[str, list[float]] = {"known": [], "new": [], "empty": []}
    seeds = itertools.count()
    for _ in track(range(rounds), "POST /models, against an empty route", console=console, transient=True):
        new = [
            [
                json.dumps({"budget": budget, "num_classes": 1, "head": "random", "seed": next(seeds)}).encode()
                for _ in range(POSTS)
            ]
            for _ in range(CONNECTIONS)
        ]
        for name, port, bodies in (("known", ours_port, known), ("empty", empty_port, known), ("new", ours_port, new)):
            rates[name].append(sum(pool.map(posts, [port] * CONNECTIONS, bodies, [POSTS] * CONNECTIONS)))
    peer = statistics.median(rates["empty"])
    rows = []
    for name, what in (("known", "a model that is there"), ("new", "new models, each flushed to the disk")):
        ours = statistics.median(rates[name])
        rows.append(
            Row(
                what=f"POST /models, {CONNECTIONS} connections, {what}; an empty FastAPI route with the same body",
                ours=f"{ours:,.0f} /s",
                peer=f"{peer:,.0f} /s",
                ratio=f"{ours / peer:.2f}x",
                target=">= 0.5x",
                met=ours / peer >= 0.5,
            )
        )
    return rows


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison")
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tleg-bench-")))
        folder.chmod(0o755)
        learngene, file = folder / "learngene.safetensors", folder / "descendant.safetensors"
        random_learngene(learngene)
        server = stack.enter_context(tleg_server(folder, learngene))
        port = server.port
        weights = str(create(port)["links"]["weights"])
        download(port, weights, write_to=str(file))
        ports = {"tleg": port, "FileResponse": stack.enter_context(file_response_server(file)).port}
        if nginx := stack.enter_context(nginx_server(folder, file)):
            ports["nginx"] = nginx.port
        empty = stack.enter_context(empty_route_server()).port
        pool = stack.enter_context(ProcessPoolExecutor(CLIENTS, mp_context=get_context("spawn")))
        rows = [
            *throughput_rows(pool, ports, weights, rounds),
            *load_rows(pool, psutil.Process(server.pid), port, weights, rounds),
            *post_rows(pool, port, empty, rounds),
            *creation_rows(pool, port, weights, folder, rounds),
        ]
    table = Table(title=f"medians of {rounds} rounds, interleaved", title_justify="left")
    for column in ("what", "ours", "peer", "ratio", "target", "met"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(row.what, row.ours, row.peer, row.ratio, row.target, {True: "yes", False: "no", None: "-"}[row.met])
    console.print(table)


if __name__ == "__main__":
    main()
