"""A number with its noun."""

from __future__ import annotations

import pytest

from tleg_core.amount import amount


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (1_000, "1,000 epochs")],
)
def test_one_alone_is_singular(count: int, words: str) -> None:
    """And thousands are set apart."""
    assert amount(count, "epoch") == words


def test_a_plural_may_be_given() -> None:
    """Where it is not the noun and an s."""
    assert [amount(count, "class", "classes") for count in (1, 2)] == ["1 class", "2 classes"]
