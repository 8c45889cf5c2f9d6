"""Recipes: the training configurations that come with the package, each a TOML file with a header that says what it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tleg_core.config_section import read_toml
from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig

AnyConfig: TypeAlias = LearngeneConfig | PoolConfig | InheritanceConfig
"""How any learngene comes about."""

_FOLDER = Path(__file__).parent / "recipes"
_PARTS = ("Paper", "Command", "Expected", "Time")


def config_kind(sections: Collection[str]) -> type[AnyConfig]:
    """Return which configuration has these sections: a pool's has anchors, that of inherited layers a selection."""
    if "anchors" in sections:
        return PoolConfig
    return InheritanceConfig if "selection" in sections else LearngeneConfig


def config_from_json(value: Mapping[str, Any]) -> AnyConfig:
    """Read the JSON object of any configuration; raises `ConfigError`."""
    return config_kind(value).from_json(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeHeader:
    """What a recipe says of itself in the comment that it begins with; further lines are indented.

    Args:
        title: Its first line.
        paper: What it is made after, and where it departs from that.
        command: The commands that run it.
        expected: The result, as far as it is known.
        time: How long it takes, and on what.
    """

    title: str
    paper: str
    command: str
    expected: str
    time: str

    @classmethod
    def from_text(cls, text: str) -> RecipeHeader:
        """Read the header of a recipe's file.

        Raises:
            ConfigError: A part of it is missing or empty.
        """
        found: dict[str, list[str]] = {"Title": []}
        part = "Title"
        for line in text.splitlines():
            if not line.startswith("#"):
                break
            words = line.removeprefix("#").removeprefix(" ")
            name, colon, rest = words.partition(":")
            if colon and name in _PARTS:
                part, words = name, rest.strip()
            found.setdefault(part, []).append(words.removeprefix("  ").rstrip())
        parts = {name: "\n".join(lines).strip("\n") for name, lines in found.items()}
        for name in ("Title", *_PARTS):
            if not parts.get(name):
                raise ConfigError("recipe", f"its header lacks {name!r}: it is a comment of {', '.join(('Title', *_PARTS))}")
        return cls(**{name.lower(): parts[name] for name in ("Title", *_PARTS)})


def recipe_names() -> list[str]:
    """Return the names of the package's recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def recipe_text(name: str) -> str:
    """Return a recipe's file, of the package by its name, or any file by its path.

    Raises:
        ConfigError: There is none.
    """
    names = recipe_names()
    path = _FOLDER / f"{name}.toml" if name in names else Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("recipe", f"{name!r} is neither a readable file nor one of {', '.join(names)}") from error


def read_recipe(name: str) -> AnyConfig:
    """Return a recipe's configuration, of the kind that its sections say.

    Raises:
        ConfigError: There is no such recipe, or a field of it is wrong.
    """
    return config_from_json(read_toml(recipe_text(name)))


def learngene_recipe(name: str) -> LearngeneConfig:
    """Return the configuration of a recipe that trains one auxiliary model.

    Raises:
        ConfigError: There is no such recipe, a field of it is wrong, or it is of another kind.
    """
    config = read_recipe(name)
    if not isinstance(config, LearngeneConfig):
        raise ConfigError("recipe", f"{name!r} does not train one auxiliary model, which this is for")
    return config
