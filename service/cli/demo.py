"""`tleg demo`: the main job, done on real input.

It starts the service, posts three budgets, downloads the weights, loads each strictly in plain timm, classifies real test
images, and prints one table. Then the service fine-tunes one of the three (`demo_fine_tune`). At a terminal it is left running.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer

import tleg_core
from service.api.schemas.budget import BudgetBody
from service.api.schemas.models import CreatedModel, ModelRequestBody
from service.cli.console import compact, err, out, percent, print_table
from service.cli.demo_accuracy import measure_top1
from service.cli.demo_fine_tune import compare_starts, print_comparison
from service.client import Client, ClientError
from service.settings import ClientSettings
from tleg_core.images import ImageSet, load_image_set

TEST_IMAGES = Path(tleg_core.__file__).parent / "data" / "fashion-mnist-test-1000.parquet"
"""A thousand test images that are part of the package (MIT licence)."""

LEARNGENE = "tleg-ti-fashion-mnist"

BUDGETS = (
    BudgetBody(max_params=2_000_000),
    BudgetBody(max_macs=60_000_000, max_weights_bytes=14_000_000),
    BudgetBody(depth=12),
)

_START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one budget came to."""

    budget: BudgetBody
    model: CreatedModel
    seconds_to_weights: float
    top1: float


def demo(
    port: Annotated[int, typer.Option(help="TCP port of the service; 0 picks a free one.")] = 8000,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune/--no-fine-tune", help="Fine-tune one of the networks at the end, a minute or two.")
    ] = True,
    stay: Annotated[
        bool | None, typer.Option("--stay/--exit", help="Keep the service running at the end; by default at a terminal only.")
    ] = None,
) -> None:
    """Start the service and do the main job on real images: budgets in, networks out, accuracy measured.

    At the end it fine-tunes one of them on other images, beside the same network from scratch.
    """
    images = load_image_set(TEST_IMAGES)
    err.print("starting the service …")
    with tempfile.TemporaryDirectory(prefix="tleg-demo-") as folder, _service(Path(folder), port) as url:
        out.print(f"\nThe service runs on {url}. Three budgets, {len(images.labels):,} real test images ({images.name}).\n")
        results = [_try(url, budget, images, Path(folder)) for budget in BUDGETS]
        _print_results(results)
        if fine_tune:
            with Client(url) as client:
                print_comparison(compare_starts(client, url, results[0].model, Path(folder)))
        stays = stay if stay is not None else sys.stdin.isatty() and sys.stdout.isatty()
        _print_next(url if stays else ClientSettings().url, results[0].model, stays=stays)
        if stays:
            out.print("The service is left running; Ctrl-C stops it.")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                out.print()


@contextmanager
def _service(folder: Path, port: int) -> Iterator[str]:
    """Run `tleg serve` on the embedded default; give its address, and stop it at the end."""
    port = _free_port(port)
    url = f"http://127.0.0.1:{port}"
    log = (folder / "serve.log").open("wb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TLEG_")}
    command = [sys.executable, "-P", "-m", "service.cli", "serve", "--port", str(port), "--data-dir", str(folder / "data")]
    process = subprocess.Popen(  # noqa: S603 (our own program)
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                log.flush()
                tail = (folder / "serve.log").read_text(errors="replace").strip().splitlines()[-3:]
                raise ClientError("the service did not start: " + " ".join(tail))
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()
        log.close()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.TransportError:
        return False


def _free_port(port: int) -> int:
    """Return `port` if it is free, else one that is."""
    for candidate in (port, 0):
        try:
            with socket.create_server(("127.0.0.1", candidate)) as listening:
                return int(listening.getsockname()[1])
        except OSError:
            continue
    raise ClientError("no TCP port is free")


def _try(url: str, budget: BudgetBody, images: ImageSet, folder: Path) -> Result:
    """Post a budget, download the weights, load them in plain timm and classify the images."""
    started = time.perf_counter()
    with Client(url) as client:
        model = client.create_model(ModelRequestBody(budget=budget, learngene=LEARNGENE))
        path = folder / f"{model.id}.safetensors"
        client.download(model.id, path)
        seconds = time.perf_counter() - started
    top1 = measure_top1(f"{url}{model.links['config']}", path, images)
    return Result(budget=budget, model=model, seconds_to_weights=seconds, top1=top1)


def _print_results(results: list[Result]) -> None:
    rows = []
    for result in results:
        limits = ", ".join(f"{name} {compact(limit)}" for name, limit in result.budget.to_domain().limits().items())
        rows.append(
            (
                limits,
                f"d{result.model.member.depth}",
                compact(result.model.params),
                compact(result.model.macs),
                f"{compact(result.model.size_bytes)}B",
                f"{1000 * result.seconds_to_weights:.0f} ms",
                percent(result.top1),
            )
        )
    print_table(("budget", "member", "params", "MACs", "size", "to weights", "top-1"), rows)
    err.print("to weights: POST, download and digest check together; top-1: without any fine-tuning")


def _print_next(url: str, model: CreatedModel, *, stays: bool) -> None:
    """Print what to try; where the service does not stay, how to start it first."""
    name = f"{model.learngene}-d{model.member.depth}"
    first = (
        "Try next, in another terminal" if stays else "The service has stopped. Start it with `.venv/bin/tleg serve`, then try"
    )
    out.print(
        f"""
{first}:

  curl -s {url}/models -H 'Content-Type: application/json' \\
       -d '{{"budget": {{"max_params": 3000000}}, "num_classes": 5}}'
  curl -s -o descendant.safetensors \\
       {url}/tleg/{name}/resolve/main/model.safetensors
  curl -s {url}/frontier
  curl -s -X POST -T images.zip {url}/datasets     # a zip of class folders
  .venv/bin/tleg datasets upload FOLDER                    # or a folder
  .venv/bin/tleg fine-tunes create --max-params 3M --dataset ds-… --watch
  HF_ENDPOINT={url} .venv/bin/python -c \\
      'import timm; print(timm.create_model("hf-hub:tleg/{name}", pretrained=True))'

In a browser: {url}/ and {url}/docs
""",
        soft_wrap=True,
    )
