"""The selection: how the ancestry's layers that a learngene inherits were chosen, and the evidence for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from tleg_core.canonical import Json, canonical_json
from tleg_core.errors import ConfigError

MAX_DETAILS_BYTES = 256 * 1024
"""Length of the details as JSON: a table of numbers for each layer and task fits well."""

MAX_DETAILS_NESTING = 16
"""Lists and objects within one another that the details may have; what is far deeper could be read but not written again."""

_MAX_SCORE = 1e300  # NaN and whole numbers that are no float are above it too


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A choice among the layers of an ancestry model.

    Args:
        rule: In words, enough to make the choice again from the scores.
        scores: One number for each layer of the ancestry, from its first.
        chosen: The layers that the rule took, ascending.
        details: What the scores were made of, such as rates by task, as a JSON object.

    Raises:
        ConfigError: A field is of another kind or outside its limits.
    """

    rule: str
    scores: tuple[float, ...]
    chosen: tuple[int, ...]
    details: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rule, str) or not 1 <= len(self.rule) <= 1000 or not self.rule.isprintable():
            raise ConfigError("selection.rule", "must be 1 to 1000 printable characters")
        if any(
            not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= _MAX_SCORE
            for score in self.scores
        ):
            raise ConfigError("selection.scores", f"must be finite numbers, at most {_MAX_SCORE:g}")
        whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in self.chosen)
        if not whole or any(not 0 <= layer < len(self.scores) for layer in self.chosen):
            raise ConfigError("selection.chosen", "must be layers that have a score")
        if list(self.chosen) != sorted(set(self.chosen)):
            raise ConfigError("selection.chosen", "must ascend")
        if not isinstance(self.details, Mapping):
            raise ConfigError("selection.details", "must be an object")
        if _nested_deeper(self.details, MAX_DETAILS_NESTING):
            raise ConfigError("selection.details", f"must be nested at most {MAX_DETAILS_NESTING} deep")
        if len(canonical_json(dict(self.details))) > MAX_DETAILS_BYTES:
            raise ConfigError("selection.details", f"must be at most {MAX_DETAILS_BYTES:,} bytes of JSON")

    def to_json(self) -> dict[str, Json]:
        """Return the selection as a JSON object."""
        return {"rule": self.rule, "scores": list(self.scores), "chosen": list(self.chosen), "details": dict(self.details)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read `to_json`'s object; raises `ConfigError` where it is another."""
        names = {"rule", "scores", "chosen", "details"}
        if not isinstance(value, Mapping) or value.keys() != names:
            raise ConfigError("selection", f"must be an object with exactly {', '.join(sorted(names))}")
        if not all(isinstance(value[name], list) for name in ("scores", "chosen")):
            raise ConfigError("selection", "its scores and chosen layers must be lists")
        known: dict[str, Any] = dict(value)
        return cls(**known | {name: tuple(known[name]) for name in ("scores", "chosen")})


def _nested_deeper(value: object, limit: int) -> bool:
    """Whether lists and objects lie within one another more than `limit` deep, without recursion."""
    level: list[object] = [value]
    for _ in range(limit):
        inner = (
            item for outer in level for item in (outer.values() if isinstance(outer, Mapping) else cast("list[object]", outer))
        )
        level = [item for item in inner if isinstance(item, Mapping | list | tuple)]
    return bool(level)
