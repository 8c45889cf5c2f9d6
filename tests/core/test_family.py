"""The family: its members, their costs, and which requests it can meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tleg_core.cost import cost
from tleg_core.descendant import Descendant
from tleg_core.description import Measurement, Method
from tleg_core.designs.pool import Anchor, Pool, Stitch
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation
from tleg_core.path import Path
from tleg_core.position import MAX_GRID
from tleg_core.recipe import Head, Member
from tleg_core.vit import VIT_SIZES

from .conftest import LearngeneFactory, build_pool


def test_members_are_the_offered_depths(make_learngene: LearngeneFactory) -> None:
    """Smallest first, both ends included."""
    family = Family(make_learngene(min_depth=3, max_depth=5))
    assert [member.depth for member in family.members] == [3, 4, 5]
    assert [candidate.member.label for candidate in family.candidates(Variation())] == ["d3", "d4", "d5"]


def test_candidates_carry_their_own_measurements_only(make_learngene: LearngeneFactory) -> None:
    """A measurement belongs to the member of its depth."""
    accuracy = (
        Measurement(depth=4, data_set="digits", top1=0.5, images=10),
        Measurement(depth=4, data_set="cifar", top1=0.25, images=20),
        Measurement(depth=5, data_set="digits", top1=0.75, images=10),
    )
    candidates = Family(make_learngene(min_depth=3, max_depth=5, accuracy=accuracy)).candidates(Variation())
    found = [{name: entry.top1 for name, entry in candidate.accuracy.items()} for candidate in candidates]
    assert found == [{}, {"digits": 0.5, "cifar": 0.25}, {"digits": 0.75}]


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("num_classes", [None, 0, 3])
@pytest.mark.parametrize("img_size", [None, 16, 64])
def test_a_candidates_costs_are_those_of_the_file_it_leads_to(
    family: Family, dtype: DType, num_classes: int | None, img_size: int | None
) -> None:
    """The promised bytes of weights are the file's bytes after its header, for any variation."""
    variation = Variation(num_classes=num_classes, img_size=img_size, dtype=dtype, batch_size=4)
    for candidate in family.candidates(variation)[:3]:
        descendant = Descendant(family, family.recipe(candidate.member, variation))
        assert candidate.cost.weights_bytes == descendant.size - len(descendant.header)
        config = family.config(num_classes=num_classes, img_size=img_size)
        assert candidate.cost == cost(config, candidate.member.depth, dtype=dtype, batch_size=4)


@pytest.mark.parametrize(
    ("num_classes", "head", "expected"),
    [
        (None, None, (10, Head.INHERIT)),
        (10, None, (10, Head.INHERIT)),
        (3, None, (3, Head.ZERO)),
        (0, None, (0, Head.NONE)),
        (None, Head.NONE, (0, Head.NONE)),
        (None, Head.ZERO, (10, Head.ZERO)),
        (None, Head.RANDOM, (10, Head.RANDOM)),
        (3, Head.RANDOM, (3, Head.RANDOM)),
        (0, Head.NONE, (0, Head.NONE)),
    ],
)
def test_the_head_follows_from_the_classes(
    family: Family, num_classes: int | None, head: Head | None, expected: tuple[int, Head]
) -> None:
    """Unsaid, the head is inherited for the learngene's own classes and zero for others."""
    recipe = family.recipe(Member(depth=3), Variation(num_classes=num_classes), head=head)
    assert (recipe.num_classes, recipe.head) == expected


@pytest.mark.parametrize(
    ("variation", "arguments", "field"),
    [
        ({"num_classes": 3}, {"head": Head.INHERIT}, "head"),
        ({"num_classes": 10}, {"head": Head.NONE}, "head"),
        ({"num_classes": 0}, {"head": Head.ZERO}, "head"),
        ({"num_classes": 0}, {"head": Head.INHERIT}, "head"),
        ({"num_classes": -1}, {}, "num_classes"),
        ({"num_classes": 65_537}, {}, "num_classes"),
        ({"img_size": 33}, {}, "image_size"),
        ({"img_size": 0}, {}, "image_size"),
        ({"img_size": -8}, {}, "image_size"),
        ({"img_size": 8 * (MAX_GRID + 1)}, {}, "image_size"),
        ({}, {"head": Head.RANDOM, "seed": -1}, "seed"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_by_name(
    family: Family, variation: dict[str, Any], arguments: dict[str, Any], field: str
) -> None:
    """The error names what is wrong."""
    with pytest.raises(ConfigError) as caught:
        family.recipe(Member(depth=3), Variation(**variation), **arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("depth", [0, 2, 6])
def test_a_depth_that_is_not_offered_is_refused(make_learngene: LearngeneFactory, depth: int) -> None:
    """Members are the offered depths only."""
    with pytest.raises(ConfigError) as caught:
        Family(make_learngene(min_depth=3, max_depth=5)).recipe(Member(depth=depth), Variation())
    assert caught.value.field == "depth"


def test_another_learngenes_recipe_is_refused(family: Family, make_learngene: LearngeneFactory) -> None:
    """A recipe goes with the digest it names."""
    foreign = Family(make_learngene(method=Method.STAGEWISE)).recipe(Member(depth=5), Variation())
    with pytest.raises(ConfigError) as caught:
        family.sources(foreign)
    assert caught.value.field == "learngene"


def test_plans_of_many_image_sizes_hold_no_embeddings(family: Family) -> None:
    """A plan asks for its position embedding when it is read, so many plans take no more memory than a few."""
    family = Family(family.learngene)  # with nothing kept from other tests
    sizes = [8 * side for side in range(1, 40)]
    plans = [family.sources(family.recipe(Member(depth=1), Variation(img_size=size))) for size in sizes]
    assert family._position.cache_info().currsize == 0
    for plan in plans:
        assert sum(source.read(0, spec.size).size == spec.size for spec, source in plan) == len(plan)
    assert family._position.cache_info().currsize <= 8


def test_few_variations_of_many_members_are_kept() -> None:
    """What a family keeps is bounded in members: a pool with thousands does not take gigabytes for 256 numbers of classes."""
    few, many = Family(build_pool()), Family(build_pool(_with_paths(2048)))
    assert few.candidates.cache_info().maxsize == 256
    assert many.candidates.cache_info().maxsize == 4
    for classes in range(2, 9):
        assert len(many.candidates(Variation(num_classes=classes))) == 2050
    assert many.candidates.cache_info().currsize == 4


def _with_paths(count: int) -> Pool:
    """Return a pool of two small anchors with so many paths."""
    config = replace(VIT_SIZES["test"], embed_dim=2)
    anchors = tuple(Anchor(name=name, config=config, depth=64) for name in ("a", "b"))
    joins = tuple((before, after) for before in range(64) for after in range(64))[:count]
    paths = tuple(Path.parse(f"0.0-{before}_1.{after}-63") for before, after in joins)
    return Pool(anchors=anchors, stitches=(Stitch(source=0, target=1, joins=joins),), paths=paths)
