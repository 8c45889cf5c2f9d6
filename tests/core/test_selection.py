"""The evidence of a choice of layers: what it holds, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tleg_core.canonical import canonical_json
from tleg_core.errors import ConfigError
from tleg_core.selection import MAX_DETAILS_BYTES, MAX_DETAILS_NESTING, Selection

GOOD: dict[str, Any] = {
    "rule": "the two most stable",
    "scores": (0.5, 2, 0.25, 1e-9),
    "chosen": (0, 1),
    "details": {"tasks": [{"name": "first", "rates": [0.5, None]}], "seed": 3},
}


def nested(depth: int) -> dict[str, Any]:
    """Return an object with so many lists and objects within one another, itself among them."""
    value: list[Any] = []
    for _ in range(depth - 2):
        value = [value]
    return {"x": value}


def test_details_may_be_nested_as_deeply_as_is_said() -> None:
    """And no deeper, as the next test has it."""
    assert Selection(**GOOD | {"details": nested(MAX_DETAILS_NESTING)}).details == nested(MAX_DETAILS_NESTING)


def test_a_selection_survives_json() -> None:
    """The canonical text reads back as an equal value."""
    selection = Selection(**GOOD)
    assert Selection.from_json(json.loads(canonical_json(selection.to_json()))) == selection


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rule": ""}, "selection.rule"),
        ({"rule": "x" * 1001}, "selection.rule"),
        ({"rule": "a\x1b[31mb"}, "selection.rule"),
        ({"rule": 3}, "selection.rule"),
        ({"scores": (float("nan"), 0, 0, 0)}, "selection.scores"),
        ({"scores": (float("-inf"), 0, 0, 0)}, "selection.scores"),
        ({"scores": (10**400, 0, 0, 0)}, "selection.scores"),
        ({"scores": (True, 0, 0, 0)}, "selection.scores"),
        ({"scores": ("1", 0, 0, 0)}, "selection.scores"),
        ({"chosen": (4,)}, "selection.chosen"),
        ({"chosen": (-1,)}, "selection.chosen"),
        ({"chosen": (True,)}, "selection.chosen"),
        ({"chosen": (1, 0)}, "selection.chosen"),
        ({"chosen": (1, 1)}, "selection.chosen"),
        ({"details": []}, "selection.details"),
        ({"details": {"x": "y" * MAX_DETAILS_BYTES}}, "selection.details"),
        ({"details": nested(MAX_DETAILS_NESTING + 1)}, "selection.details"),
        ({"details": nested(100_000)}, "selection.details"),
    ],
)
def test_a_wrong_field_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    """A rule in words, finite scores, layers that have one, details that are not too long."""
    with pytest.raises(ConfigError) as caught:
        Selection(**GOOD | changes)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [None, [], {}, {"rule": "x"}, Selection(**GOOD).to_json() | {"more": 1}])
def test_no_other_json_is_a_selection(value: object) -> None:
    """An object with exactly its fields."""
    with pytest.raises(ConfigError):
        Selection.from_json(value)
