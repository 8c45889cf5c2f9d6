"""An image made and run without a container engine: a Dockerfile's instructions carried out in a folder of this machine.

The folder stands for the image's root: every absolute path of the Dockerfile is taken to lie in it. RUN runs with an
environment that holds nothing but what the Dockerfile sets and what reaches a package index, among the files that COPY brought.
A container is a process as the image's user, where the tests may change to it. It is not an image: the base is this machine
and its Python, and the rest of the machine can be seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.docker.dockerfile import Dockerfile, Instruction

_PATH_INSIDE = re.compile(r"(?<![\w./])/(?=(?:opt|src|data|tmp|mnt|var/cache/tleg)(?![\w-]))")
# What a machine needs to reach its package index, and what it has fetched before: the cache that RUN --mount=type=cache keeps.
_REACHING_AN_INDEX = re.compile(r"(?i)(uv|pip)_.*|ssl_cert_\w+|(http|https|all|no)_proxy|home")
_CAN_BE_A_BASE = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"


class Image:
    """A Dockerfile's result in `root`, which must be an empty folder that everyone may enter."""

    def __init__(self, dockerfile: Path, root: Path) -> None:
        self.root = root
        self._file = Dockerfile(dockerfile)
        self._sources = dockerfile.parents[1]
        self._directory = root
        self._bin = root / "usr/local/bin"

    def build(self, **changes: str) -> None:
        """Carry out every instruction; `changes` replace variables that the Dockerfile sets."""
        self._bin.mkdir(parents=True)
        (self._bin / "python3").symlink_to(_base_python())
        (self._bin / "python").symlink_to(_base_python())
        for folder in ("etc", "tmp"):
            (self.root / folder).mkdir()
        (self.root / "tmp").chmod(0o1777)
        for number, stage in enumerate(self._file.stages):
            env = self._inside(self._file.env(number)) | changes
            for instruction in stage:
                self._carry_out(instruction, env)

    @contextmanager
    def container(self, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the image's command as its user, with variables added; it is told to stop in the end."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self._as_user(), *map(self._path_inside, self._file.command())],
                env=self._environment() | env,
                cwd=self.root / "data",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(timeout=60)

    def is_healthy(self, **env: str) -> bool:
        """Whether the image's health check succeeds."""
        command = [*self._as_user(), *map(self._path_inside, self._file.health_check())]
        limit_s = float(self._file.health_flags()["timeout"].removesuffix("s"))
        answer = subprocess.run(
            command, env=self._environment() | env, capture_output=True, timeout=limit_s, check=False, cwd="/"
        )
        return answer.returncode == 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run another command in it, as its user."""
        return subprocess.run(
            [*self._as_user(), *command], env=self._environment(), capture_output=True, text=True, check=False, cwd="/"
        )

    @property
    def user_id(self) -> int:
        """The number of the user that containers run as here."""
        return int(self._file.user().split(":")[0]) if self._as_user() else os.getuid()

    def _environment(self) -> dict[str, str]:
        return self._inside(self._file.env()) | {"HOME": str(self.root / "var/cache/tleg")}

    def _carry_out(self, instruction: Instruction, env: dict[str, str]) -> None:
        match instruction.name:
            case "WORKDIR":
                self._directory = Path(self._path_inside(instruction.value))
                self._directory.mkdir(parents=True, exist_ok=True)
            case "COPY" if instruction.flag("from") is None:
                *sources, target = instruction.value.split()
                for source in sources:
                    self._copy(source, target, several=len(sources) > 1)
            case "RUN":
                self._run(instruction, env)

    def _copy(self, source: str, target: str, *, several: bool) -> None:
        """Copy a file of the sources, or a folder's content, as COPY does."""
        goal = self._directory / self._path_inside(target)
        if (self._sources / source).is_dir():
            shutil.copytree(self._sources / source, goal, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            return
        if several or target.endswith("/"):
            goal = goal / Path(source).name
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._sources / source, goal)

    def _run(self, instruction: Instruction, env: dict[str, str]) -> None:
        for name, value in instruction.flags:
            mount = dict(part.split("=", 1) for part in value.split(","))
            if name == "mount" and mount["type"] == "bind":
                self._copy(mount["source"], mount["target"], several=False)
        command = self._path_inside(instruction.value)
        if "install-compiler.sh" in command:  # it would change this machine
            return
        if "make-user.sh" in command:  # the one step that is told where the root is: who may not make users makes its folders
            if os.getuid() != 0:
                for folder in ("data", "var/cache/tleg"):
                    (self.root / folder).mkdir(parents=True)
                return
            command += f" {self.root}"
        kept = {name: value for name, value in os.environ.items() if _REACHING_AN_INDEX.fullmatch(name)}
        env = {"UV_SYSTEM_CERTS": "true"} | kept | env | {"UV_CACHE_DIR": _uv_cache()}
        subprocess.run(["sh", "-c", command], cwd=self._directory, env=env, check=True, timeout=600)

    def _inside(self, env: dict[str, str]) -> dict[str, str]:
        inside = {name: self._path_inside(value) for name, value in env.items()}
        inside["PATH"] = inside["PATH"].replace("/usr/local/bin", str(self._bin), 1)
        return inside

    def _path_inside(self, text: str) -> str:
        """Return a text with its absolute paths put into the root."""
        return _PATH_INSIDE.sub(f"{self.root}/", text)

    def _as_user(self) -> list[str]:
        """Return the start of a command that runs as the image's user, without any capability; nothing where that cannot be."""
        user, group = self._file.user().split(":")
        if not _may_change_user():
            return []
        return [
            *("setpriv", "--reuid", user, "--regid", group, "--clear-groups"),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
        ]


@cache
def _may_change_user() -> bool:
    """Whether commands can be run as another user, and that user has a Python to run."""
    return os.getuid() == 0 and shutil.which("setpriv") is not None and _is_for_everyone(_base_python())


@cache
def _base_python() -> Path:
    """Return a Python that is no virtual environment's, one that everyone may run if there is one."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    others = (Path(folder) / "python3" for folder in ("/usr/local/bin", "/usr/bin"))
    for python in (own, *others):
        if (
            _is_for_everyone(python)
            and subprocess.run([python, "-c", _CAN_BE_A_BASE], capture_output=True, check=False).returncode == 0
        ):
            return python.resolve()
    return own


def _is_for_everyone(python: Path) -> bool:
    return python.exists() and all(folder.stat().st_mode & 0o001 for folder in python.resolve().parents)


@cache
def _uv_cache() -> str:
    answer = subprocess.run([Path(sys.executable).parent / "uv", "cache", "dir"], capture_output=True, text=True, check=True)
    return answer.stdout.strip()
