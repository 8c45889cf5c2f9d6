"""A Dockerfile's instructions, and its last stage: what a container of it has and runs."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
API, WORKER = ROOT / "docker" / "api.Dockerfile", ROOT / "docker" / "worker.Dockerfile"

_BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FLAG = re.compile(r"--(\w[\w-]*)=(\S+)\s+")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction; `flags` are those before its value, as name and value."""

    name: str
    flags: tuple[tuple[str, str], ...]
    value: str

    def flag(self, name: str) -> str | None:
        """Return a flag's value."""
        return dict(self.flags).get(name)


class Dockerfile:
    """A parsed Dockerfile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages: list[list[Instruction]] = []
        with tempfile.TemporaryFile() as file:  # else the parser would write beside the original
            file.write(path.read_bytes())
            structure = DockerfileParser(fileobj=file).structure
        for entry in structure:
            if entry["instruction"] == "COMMENT":
                continue
            if entry["instruction"] == "FROM":
                self.stages.append([])
            self.stages[-1].append(_instruction(entry["instruction"], entry["value"]))

    @property
    def instructions(self) -> list[Instruction]:
        """All instructions, of all stages."""
        return [instruction for stage in self.stages for instruction in stage]

    def last(self, name: str) -> Instruction:
        """Return the last instruction of that name in the last stage."""
        return [instruction for instruction in self.stages[-1] if instruction.name == name][-1]

    def env(self, stage: int = -1) -> dict[str, str]:
        """Return the variables that a stage sets, put into each other."""
        env: dict[str, str] = {"PATH": _BASE_PATH}
        for instruction in self.stages[stage]:
            if instruction.name == "ENV":
                pairs = (pair.split("=", 1) for pair in shlex.split(instruction.value))
                env |= {name: Template(value).safe_substitute(env) for name, value in pairs}
        return env

    def command(self) -> list[str]:
        """Return what a container runs."""
        return json.loads(self.last("CMD").value)

    def user(self) -> str:
        """Return whom it runs as."""
        return self.last("USER").value

    def volumes(self) -> list[str]:
        """Return the folders that are to be volumes."""
        value = self.last("VOLUME").value
        return json.loads(value) if value.startswith("[") else value.split()

    def health_check(self) -> list[str]:
        """Return the command that checks its health."""
        return json.loads(self.last("HEALTHCHECK").value.partition("CMD ")[2])

    def health_flags(self) -> dict[str, str]:
        """Return how often, and how patiently, it is checked."""
        return dict(self.last("HEALTHCHECK").flags)


def _instruction(name: str, value: str) -> Instruction:
    flags: list[tuple[str, str]] = []
    while found := _FLAG.match(value):
        flags.append((found[1], found[2]))
        value = value[found.end() :]
    return Instruction(name=name, flags=tuple(flags), value=value.strip())
