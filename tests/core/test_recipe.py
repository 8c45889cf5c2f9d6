"""Recipes and model ids: canonical, complete, and checked."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation
from tleg_core.recipe import MAX_SEED, Head, Member, Recipe

RECIPE: dict[str, Any] = {
    "learngene": "ab" * 32,
    "member": Member(depth=7),
    "num_classes": 10,
    "head": Head.RANDOM,
    "seed": 3,
    "img_size": 32,
    "dtype": DType.BFLOAT16,
}


def test_the_id_is_the_sha256_of_the_sorted_compact_json() -> None:
    """The canonical bytes, written out by hand here, give the digest and the id."""
    text = (
        '{"dtype":"bfloat16","format":1,"head":"random","img_size":32,"learngene":"' + "ab" * 32 + '",'
        '"member":{"depth":7},"num_classes":10,"seed":3}'
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert Recipe(**RECIPE).digest == digest
    assert Recipe(**RECIPE).model_id == f"m-{digest[:32]}"


@pytest.mark.parametrize(
    "changes",
    [
        {"learngene": "cd" * 32},
        {"member": Member(depth=8)},
        {"num_classes": 11},
        {"head": Head.ZERO, "seed": None},
        {"seed": 4},
        {"img_size": 40},
        {"dtype": DType.FLOAT32},
    ],
)
def test_every_field_decides_the_id(changes: dict[str, Any]) -> None:
    """Two recipes that differ have different ids."""
    assert Recipe(**RECIPE | changes).model_id != Recipe(**RECIPE).model_id


@pytest.mark.parametrize(
    "changes", [{}, {"head": Head.ZERO, "seed": None}, {"head": Head.NONE, "seed": None, "num_classes": 0}]
)
def test_a_recipe_survives_json(changes: dict[str, Any]) -> None:
    """Written and read, it is equal and has the same id."""
    recipe = Recipe(**RECIPE | changes)
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.model_id == recipe.model_id


def test_a_foreign_format_is_refused() -> None:
    """A recipe of another version is not guessed at."""
    with pytest.raises(ConfigError, match="format: is version 2"):
        Recipe.from_json(dict(Recipe(**RECIPE).to_json()) | {"format": 2})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"head": Head.NONE, "seed": None}, "head"),
        ({"num_classes": 0}, "head"),
        ({"seed": None}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes: dict[str, Any], field: str) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError) as caught:
        Recipe(**RECIPE | changes)
    assert caught.value.field == field


def test_a_seed_without_a_draw_leaves_the_id_alone(family: Family) -> None:
    """The same bytes have the same id: a seed counts for a random head only."""
    member = Member(depth=3)
    for head in (None, Head.INHERIT, Head.ZERO, Head.NONE):
        ids = {family.recipe(member, Variation(), head=head, seed=seed).model_id for seed in (0, 1, 99)}
        assert len(ids) == 1
    assert len({family.recipe(member, Variation(), head=Head.RANDOM, seed=seed).model_id for seed in (0, 1, 99)}) == 3


def test_asking_for_the_default_leaves_the_id_alone(family: Family) -> None:
    """The learngene's own classes, image size and head, said or unsaid, are one recipe; the batch size is none of it."""
    plain = family.recipe(Member(depth=3), Variation())
    said = family.recipe(Member(depth=3), Variation(num_classes=10, img_size=32, batch_size=64), head=Head.INHERIT)
    assert plain == said
    assert plain.model_id == said.model_id
