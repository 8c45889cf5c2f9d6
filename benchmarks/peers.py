"""The servers that are compared: ours, and the peers, each as a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI
from starlette.responses import FileResponse

from service.api.schemas.models import ModelRequestBody

_START_TIMEOUT_S = 60
_NOWHERE = Path(os.devnull)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers: its TCP port and its process."""

    port: int
    pid: int


@contextmanager
def tleg_server(folder: Path, learngene: Path, *, workers: int = 0) -> Iterator[Running]:
    """Run `tleg serve` with one learngene; what it logs is in `folder / "log"`."""
    options = ["--no-shipped", "--workers", str(workers), "--learngene", str(learngene), "--data-dir", str(folder / "data")]
    with _python("-m", "service.cli", "serve", "--port", "{port}", *options, path="/readyz", log=folder / "log") as process:
        yield process


@contextmanager
def file_response_server(file: Path) -> Iterator[Running]:
    """Run Starlette's FileResponse over uvicorn with the settings that `tleg serve` has."""
    with _python("-m", "benchmarks.peers", "file", str(file), "{port}", path="/") as process:
        yield process


@contextmanager
def empty_route_server() -> Iterator[Running]:
    """Run an empty FastAPI route that takes the body of `POST /models` and answers nothing."""
    with _python("-m", "benchmarks.peers", "empty", "-", "{port}", path="/docs") as process:
        yield process


@contextmanager
def nginx_server(folder: Path, file: Path) -> Iterator[Running | None]:
    """Run nginx with sendfile over the file, or give None where nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        yield None
        return
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 256; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; sendfile_max_chunk 2m;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{ listen 127.0.0.1:{port}; location / {{ root {file.parent}; try_files /{file.name} =404; }} }}
        }}
        """
    )
    with _process([program, "-c", str(config), "-p", str(folder), "-e", f"{folder}/nginx.log"], port, "/") as process:
        yield process


@contextmanager
def _python(*arguments: str, path: str, log: Path = _NOWHERE) -> Iterator[Running]:
    port = _free_port()
    command = [sys.executable, *(argument.format(port=port) for argument in arguments)]
    with _process(command, port, path, log) as process:
        yield process


@contextmanager
def _process(command: list[str], port: int, path: str, log: Path = _NOWHERE) -> Iterator[Running]:
    """Run a server until the block ends; wait until it answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output)
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                with httpx.stream("GET", f"http://127.0.0.1:{port}{path}"):
                    break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start") from None
                time.sleep(0.05)
        yield Running(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _main(kind: str, file: str, port: str) -> None:
    """Serve one of the Python peers."""
    import uvicorn

    app = FastAPI()
    if kind == "file":

        @app.get("/")
        async def send_file() -> FileResponse:
            return FileResponse(file)

    else:

        @app.post("/models", status_code=204)
        async def take_body(body: ModelRequestBody) -> None:
            """Do nothing with the body."""

    uvicorn.run(app, port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    _main(*sys.argv[1:4])
