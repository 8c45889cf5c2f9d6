"""docker-compose.yml as Compose reads it: variables put in, anchors resolved. Its other checks are not repeated here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class VariableMissingError(ValueError):
    """A variable without which Compose refuses the file."""


def variables() -> dict[str, str | None]:
    """Return the variables that the file reads, with their defaults; None for those that have none."""
    text = re.sub(r"(?m)#.*$", "", COMPOSE_FILE.read_text())
    found = {m["name"]: m["rest"] if m["kind"] == "-" else None for m in _VARIABLE.finditer(text) if m["name"]}
    taken_over = {
        name for service in load().values() for name, value in service.get("environment", {}).items() if value is None
    }
    return found | dict.fromkeys(taken_over)


def load() -> dict[str, dict[str, Any]]:
    """Return the services as they stand in the file."""
    return yaml.safe_load(COMPOSE_FILE.read_text())["services"]


def resolve(value: Any, env: Mapping[str, str]) -> Any:
    """Return a part of the file with its variables put in; raises `VariableMissingError`."""
    if isinstance(value, dict):
        return {key: resolve(inner, env) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve(inner, env) for inner in value]
    return _VARIABLE.sub(lambda found: _put_in(found, env), value) if isinstance(value, str) else value


def environment(service: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Return what a resolved service's container has in its environment."""
    given = service.get("environment", {})
    return {
        name: value if value is not None else env[name] for name, value in given.items() if value is not None or name in env
    }


def seconds(duration: str) -> int:
    """Return a duration like 1m30s in seconds."""
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))


def _put_in(found: re.Match[str], env: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    if value := env.get(found["name"]):
        return value
    if found["kind"] == "?":
        raise VariableMissingError(f"{found['name']} {found['rest']}")
    return found["rest"] or ""
