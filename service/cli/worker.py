"""`tleg worker`: fine-tunes, one at a time, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import err
from service.domain.catalogue import Catalogue
from service.logs import configure_logging
from service.settings import Settings
from service.storage.embedded_redis import running_url
from service.storage.learngene_registry import load_catalogue, shipped_paths
from service.worker.protocol import Setup
from service.worker.supervisor import Supervisor
from service.worker.warm_engine import WarmEngine
from service.worker.work_folder import WorkFolder


def worker(
    device: Annotated[
        str | None, typer.Option(help="Where to train: auto, cpu or cuda (auto; or TLEG_DEVICE).", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="The server's data folder (~/.local/share/tleg; or TLEG_DATA_DIR).", show_default=False),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Take nothing but: exports, which then wait for no training (or TLEG_ONLY).", show_default=False),
    ] = None,
    learngene: Annotated[
        list[Path] | None, typer.Option(help="A learngene's file to hold beside the shipped ones; repeatable.")
    ] = None,
    shipped: Annotated[bool, typer.Option(help="Hold the learngenes shipped with the package.")] = True,
    until_eof: Annotated[bool, typer.Option(hidden=True, help="Drain when standard input ends: with the parent.")] = False,
) -> None:
    """Run a worker, for jobs of any kind: on the Redis of TLEG_REDIS_URL, or that of a `tleg serve` on the same folder.

    SIGTERM or Ctrl-C drains it: the running job is saved and goes to another worker.
    """
    settings = Settings.load(
        device=device,
        data_dir=data_dir,
        only=only,
        learngenes=tuple(learngene) if learngene else None,
        shipped=None if shipped else False,
    )
    configure_logging(settings.log_level)
    folder = settings.data_dir.expanduser()
    if settings.redis_url is None:
        settings = settings.model_copy(update={"redis_url": running_url(folder)})
    catalogue = load_catalogue(settings.learngenes, shipped=settings.shipped)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"  # there is never another of that name
    with WorkFolder(folder / "work") as work:
        kind = f" for {settings.only} alone" if settings.only else ""
        err.print(f"tleg worker {name}{kind} works on {settings.object_store_url}; Ctrl-C drains it", soft_wrap=True)
        asyncio.run(_work(settings, name=name, catalogue=catalogue, work_dir=work.path, until_eof=until_eof))


async def _work(settings: Settings, *, name: str, catalogue: Catalogue, work_dir: Path, until_eof: bool) -> None:
    """Run the supervisor until a signal, or the end of standard input, drains it."""
    paths = [*(shipped_paths() if settings.shipped else []), *settings.learngenes]
    setup = Setup(
        learngenes=[str(path.expanduser().absolute()) for path in paths],
        store_url=settings.object_store_url,
        device=settings.device,
        heartbeat_s=settings.heartbeat_s,
        work_dir=str(work_dir),
    )
    supervisor = Supervisor(settings, name=name, catalogue=catalogue, engine=WarmEngine(setup))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.drain)
    if until_eof:
        _at_eof(loop, supervisor.drain)
    await supervisor.run()


def _at_eof(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Call `act` when standard input ends."""
    stdin = sys.stdin.fileno()

    def read() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)
            act()

    loop.add_reader(stdin, read)
