"""`tleg serve`: the whole service on one machine."""

from __future__ import annotations

import contextlib
import gc
import socket
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from service.api.app import create_app
from service.cli.console import err
from service.cli.worker_processes import WorkerProcesses
from service.domain.errors import StoreUnavailableError
from service.logs import configure_logging
from service.settings import Settings
from service.storage.embedded_redis import EmbeddedRedis
from service.storage.learngene_registry import load_catalogue

_BACKLOG = 1024  # connections waiting to be accepted


class _Server(uvicorn.Server):
    """uvicorn with workers beside it: they start when it answers, and drain with it.

    Readiness ends with the signal, before the last connection is done.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, workers: WorkerProcesses) -> None:
        super().__init__(config)
        self._state = app.state
        self._workers = workers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then start the workers: the first request does not wait for their torch."""
        await super().startup(sockets)
        if self.started:
            self._workers.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        if hasattr(self._state, "resources"):
            self._state.resources.draining = True
        self._workers.drain()
        super().handle_exit(sig, frame)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (127.0.0.1; or TLEG_HOST).", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one (8000; or TLEG_PORT).", show_default=False),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="What outlives a restart (~/.local/share/tleg; or TLEG_DATA_DIR).", show_default=False)
    ] = None,
    learngene: Annotated[
        list[Path] | None, typer.Option(help="A learngene's file to serve beside the shipped ones; repeatable.")
    ] = None,
    shipped: Annotated[bool, typer.Option(help="Serve the learngenes shipped with the package.")] = True,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Fine-tuning workers beside the API (1; or TLEG_WORKERS).", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where they train: auto, cpu or cuda (auto; or TLEG_DEVICE).", show_default=False)
    ] = None,
) -> None:
    """Serve the API and run a worker, with a private Redis in the data folder unless TLEG_REDIS_URL names one."""
    settings = Settings.load(
        host=host,
        port=port,
        data_dir=data_dir,
        learngenes=tuple(learngene) if learngene else None,
        shipped=None if shipped else False,
        workers=workers,
        device=device,
    )
    configure_logging(settings.log_level)
    catalogue = load_catalogue(settings.learngenes, shipped=settings.shipped)  # a bad file ends it before anything is started
    listening = _listen(settings.host, settings.port)
    with contextlib.ExitStack() as stack:
        stack.callback(listening.close)
        if settings.redis_url is None:
            redis = stack.enter_context(EmbeddedRedis(settings.data_dir.expanduser()))
            settings = settings.model_copy(update={"redis_url": redis.url})
        worker_processes = WorkerProcesses(
            settings.workers, _worker_options(settings), drain_timeout_s=settings.drain_timeout_s
        )
        stack.enter_context(worker_processes)  # they end before their Redis does
        app = create_app(settings, catalogue)
        gc.collect()
        gc.freeze()  # what is imported and opened by now stays: each full collection would take 70 ms more to look at it
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=settings.access_log,
            timeout_graceful_shutdown=settings.drain_timeout_s,
            server_header=False,
        )
        address = f"http://{_host_in_url(settings.host)}:{listening.getsockname()[1]}"
        err.print(f"tleg serves on {address} (docs: {address}/docs); Ctrl-C stops it", soft_wrap=True)
        if settings.only is not None and settings.workers:
            err.print(f"TLEG_ONLY: the workers of this server take {settings.only} alone", soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            _Server(config, app, worker_processes).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises `StoreUnavailableError` where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python adds the address, which stands before it
        raise StoreUnavailableError(f"cannot listen on {host}:{port}: {reason}; try another --port") from None


def _worker_options(settings: Settings) -> list[str]:
    """Return the options of a worker for what may have come from ours; the rest it reads from the environment as we did."""
    options = ["--data-dir", str(settings.data_dir), "--device", settings.device]
    options += [] if settings.shipped else ["--no-shipped"]
    return options + [text for path in settings.learngenes for text in ("--learngene", str(path))]


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
