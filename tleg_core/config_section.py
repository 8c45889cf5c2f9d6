"""Reading a configuration: sections of TOML or JSON become frozen dataclasses, strictly, and every error names its place.

Torch-free. Which sections there are is the configurations' own business (`learngene_config`, `pool_config`).
"""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from tleg_core.errors import ConfigError


class Sectioned(ABC):
    """A configuration in sections: read from TOML or JSON, and changed field by field."""

    __slots__ = ()

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a TOML file's text.

        Raises:
            ConfigError: It is no TOML, or a field is unknown, of another type, or outside its limits.
        """
        return cls.from_json(read_toml(text))

    @classmethod
    @abstractmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; what is missing has its default. Raises as `from_toml` does."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the whole configuration as a JSON object, defaults included."""

    def with_changes(self, changes: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return this configuration with some fields of some sections replaced. Raises as `from_toml` does."""
        value = self.to_json()
        for section, values in changes.items():
            value[section] = self._changed(section, value.get(section, {}), values)
        return self.from_json(value)

    def _changed(self, section: str, before: Any, values: Any) -> Any:
        """Return a section of `to_json` with some of its fields replaced."""
        if not isinstance(values, Mapping):
            raise ConfigError(str(section)[:80], "must be an object")
        return before | dict(values)

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """Return this configuration with `section.field=value` applied, each value in TOML or, failing that, a bare word.

        Raises:
            ConfigError: One is not of that form, or names no field, or its value cannot be.
        """
        return self.with_changes(parse_overrides(overrides))


def read_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML file's text.

    Raises:
        ConfigError: It is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config", f"is no TOML: {error}") from error


def check_sections(value: Mapping[str, Any], sections: Iterable[str]) -> None:
    """Raise `ConfigError` where `value` has another section than these."""
    known = sorted(sections)
    for name in value:
        if name not in known:
            raise ConfigError(str(name)[:80], f"is no section; there are {', '.join(known)}")


def parse_overrides(overrides: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the fields that `section.field=value` texts set, by section; each value in TOML or, failing that, a bare word.

    Raises:
        ConfigError: One is not of that form.
    """
    changes: dict[str, dict[str, Any]] = {}
    for text in overrides:
        place, equals, value = text.partition("=")
        section, dot, name = place.strip().partition(".")
        if not (equals and dot and name):
            raise ConfigError("set", f"must be like training.epochs=3, not {text[:80]!r}")
        changes.setdefault(section, {})[name] = _toml_value(value.strip())
    return changes


def _toml_value(text: str) -> Any:
    if text == "none":
        return None  # TOML has no null
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_SectionT = TypeVar("_SectionT")


def read_section(kind: type[_SectionT], section: str, value: object, **given: object) -> _SectionT:
    """Return the dataclass `kind` from a mapping, strictly; every error is given its place."""
    if not isinstance(value, Mapping):
        raise ConfigError(section, "must be a table of fields")
    hints = get_type_hints(kind)
    names = hints.keys() - given.keys()
    for name in value:
        if name not in names:
            raise ConfigError(f"{section}.{str(name)[:80]}", f"is no field; there are {', '.join(sorted(names))}")
    read = {name: _typed(hints[name], f"{section}.{name}", item) for name, item in value.items()}
    try:
        return kind(**(read | given))
    except ConfigError as error:
        place = error.field if error.field.partition(".")[0] == section else f"{section}.{error.field}"
        raise ConfigError(place, error.reason) from error
    except TypeError as error:  # a field without a default is not there
        missing = sorted(names - read.keys())
        raise ConfigError(section, f"lacks {', '.join(name for name in missing if f'{name!r}' in str(error))}") from error


def _typed(hint: Any, place: str, value: object) -> Any:
    """Return `value` as the type that a field is annotated with; raises `ConfigError` where it is of another."""
    if get_origin(hint) in (UnionType, Union):
        if value is None:
            return None
        hint = next(item for item in get_args(hint) if item is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(place, f"must be a list, not {str(value)[:80]!r}")
        return tuple(_typed(get_args(hint)[0], place, item) for item in value)
    if issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in set(hint):
            raise ConfigError(place, f"must be one of {', '.join(hint)}, not {str(value)[:80]!r}")
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ConfigError(place, f"must be {words[hint]}, not {str(value)[:80]!r}")
    return value
