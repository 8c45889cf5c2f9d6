"""Recipes: the training configurations that come with the package, each a TOML file with a header that says what it is."""

from __future__ import annotations

from pathlib import Path

from tleg_core.errors import ConfigError
from tleg_core.learngene_config import LearngeneConfig

_FOLDER = Path(__file__).parent / "recipes"


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


def read_recipe(name: str) -> LearngeneConfig:
    """Return a recipe's configuration.

    Raises:
        ConfigError: There is no such recipe, or a field of it is wrong.
    """
    return LearngeneConfig.from_toml(recipe_text(name))
