"""Which stitches and paths a pool has: the papers' numbers, and what must hold of any depths."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.cost import stack_cost
from tleg_core.designs.pool import Anchor, Pool
from tleg_core.errors import ConfigError
from tleg_core.methods.stitching import (
    Stitching,
    both_ways_stitching,
    boundaries,
    nearest_stitching,
    paired_joins,
    unpaired_joins,
)
from tleg_core.vit import VIT_SIZES, VitConfig


def deit(size: str) -> VitConfig:
    """Return DeiT's network of that size: with a class token, for 1000 classes."""
    plain = VIT_SIZES[size]
    return VitConfig(embed_dim=plain.embed_dim, num_heads=plain.num_heads, class_token=True, global_pool="token")


def pool_of(sizes: tuple[str, ...], depths: tuple[int, ...], stitching: Stitching) -> Pool:
    """Return DeiT anchors with these stitches: every one of them is checked."""
    anchors = tuple(Anchor(name=size, config=deit(size), depth=depth) for size, depth in zip(sizes, depths, strict=True))
    return Pool(anchors=anchors, stitches=stitching.stitches, paths=stitching.paths)


@pytest.mark.parametrize(
    ("depth", "pairs", "stitches", "paths"), [(12, 34, 11, 36), (9, 25, 8, 27), (6, 16, 5, 18), (1, 1, 1, 3)]
)
def test_sliding_windows_have_the_papers_numbers(depth: int, pairs: int, stitches: int, paths: int) -> None:
    """METHODS 10: 34 pairs in 11 stitches at depth 12, and Learngene Pool's 18 and 27 paths with their two anchors."""
    windows = paired_joins(depth)
    assert (sum(map(len, windows)), len(windows)) == (pairs, stitches)
    assert len(pool_of(("tiny", "base"), (depth, depth), nearest_stitching((depth, depth))).members) == paths


def test_three_anchors_have_71_paths_in_sn_nets_order() -> None:
    """0 to 2 are the anchors, 3 to 36 lead from Ti to S, 37 to 70 from S to B; Ti is never joined to B."""
    members = pool_of(("tiny", "small", "base"), (12, 12, 12), nearest_stitching((12, 12, 12))).members
    assert len(members) == 71
    labels = [str(member.path) for member in members]
    assert labels[:3] == ["0.0-11", "1.0-11", "2.0-11"]
    joins = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    assert labels[3:11] == [f"0.0-{j}_1.{k}-11" for j, k in joins]
    assert labels[36] == "0.0-11_1.11-11"
    assert labels[37:45] == [f"1.0-{j}_2.{k}-11" for j, k in joins]
    assert labels[70] == "1.0-11_2.11-11"


def test_path_24_has_the_authors_parameters() -> None:
    """It joins Ti and S at (7, 7); their rule leaves out position embedding and class token, ours does not."""
    pool = pool_of(("tiny", "small", "base"), (12, 12, 12), nearest_stitching((12, 12, 12)))
    member = pool.members[24]
    assert str(member.path) == "0.0-7_1.7-11"
    tiny = deit("tiny")
    left_out = tiny.embed_dim * (tiny.num_tokens + 1)
    assert stack_cost(pool.stack(member)).params - left_out == 13_038_760
    assert stack_cost(pool.stack(member)).params == 13_038_760 + 192 * 198


def test_a_pair_belongs_to_the_first_window_that_has_it() -> None:
    """Its stitch is the first one's; a stride as long as the window leaves pairs out."""
    assert paired_joins(3) == (((0, 0), (0, 1), (1, 0), (1, 1)), ((1, 2), (2, 1), (2, 2)))
    assert paired_joins(4, stride=2) == (((0, 0), (0, 1), (1, 0), (1, 1)), ((2, 2), (2, 3), (3, 2), (3, 3)))
    assert paired_joins(3, kernel=1) == (((0, 0),), ((1, 1),), ((2, 2),))
    assert len(paired_joins(3, kernel=9)) == 1


def test_unequal_depths_are_joined_where_interpolation_puts_them_side_by_side() -> None:
    """Block k of 24 stands beside block k // 2 of 12, whichever of the two is the source."""
    stitches = unpaired_joins(12, 24)
    assert len(stitches) == 12
    assert stitches[:2] == (((0, 1),), ((1, 2), (1, 3)))
    assert stitches[11] == ((11, 22), (11, 23))
    assert unpaired_joins(24, 12)[1] == ((2, 1), (3, 1))
    assert unpaired_joins(4, 2) == (((1, 0),), ((2, 1), (3, 1)))


@given(st.integers(1, 20), st.integers(1, 20))
def test_an_unpaired_join_is_never_far_from_its_place(source: int, target: int) -> None:
    """Every block of both but the first is joined, and the relative positions differ by less than a block of the shallower."""
    joins = [join for stitch in unpaired_joins(source, target) for join in stitch]
    assert len(joins) == len(set(joins)) == max(source, target) - 1
    for j, k in joins:
        assert abs(j / source - k / target) < 1 / min(source, target)


def test_both_ways_have_sn_netv2s_134_paths() -> None:
    """12 blocks of S and 24 of L: 2 anchors, 11 up, 11 down, 55 there and back for each."""
    pool = pool_of(("small", "large"), (12, 24), both_ways_stitching((12, 24)))
    assert len(pool.members) == 134
    assert [(item.source, item.target, item.joins) for item in (pool.stitches[0], pool.stitches[11])] == [
        (0, 1, ((0, 2),)),
        (1, 0, ((1, 1),)),
    ]
    assert [str(path) for path in (pool.paths[0], pool.paths[11], pool.paths[22], pool.paths[77])] == [
        "0.0-0_1.2-23",
        "1.0-1_0.1-11",
        "1.0-1_0.1-1_1.4-23",
        "0.0-0_1.2-3_0.2-11",
    ]


@given(st.integers(1, 14), st.integers(1, 14))
def test_both_ways_leave_out_no_part_of_a_network(small: int, large: int) -> None:
    """Whatever the depths: each path's blocks, in shares of their anchors, make one network, to a block of the deeper one."""
    if min(small, large) < 2:
        assert boundaries(small, large) == ()
        return
    depths = (small, large)
    count = min(depths) - 1
    found = both_ways_stitching(depths)
    assert len(found.paths) == 2 * count + 2 * len(list(combinations(range(count), 2)))
    for path in found.paths:
        for before, after in path.joins:
            gap = after.first / depths[after.anchor] - (before.last + 1) / depths[before.anchor]
            assert abs(gap) < 1 / min(depths)
        assert all(before.anchor != after.anchor for before, after in pairwise(path.segments))


def test_more_paths_than_a_pool_can_have_are_refused_at_once() -> None:
    """Before they are made: a thousand blocks both ways would be a million paths."""
    for stitching, depths in ((both_ways_stitching, (1000, 1000)), (nearest_stitching, (900, 900, 900))):
        with pytest.raises(ConfigError, match="a pool has at most 4,096"):
            stitching(depths)
    with pytest.raises(ConfigError, match="a pool has at most 4,096"):
        nearest_stitching((100, 100), kernel=100)
    assert len(nearest_stitching((64, 64), kernel=64).paths) == 4096


@pytest.mark.parametrize("depths", [(), (3,), (0, 3), (3, -1)])
def test_one_anchor_alone_is_not_stitched(depths: tuple[int, ...]) -> None:
    """Nor is one without blocks."""
    for stitching in (nearest_stitching, both_ways_stitching):
        with pytest.raises(ConfigError):
            stitching(depths)
