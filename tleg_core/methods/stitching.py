"""Stitching: between which blocks of which anchors stitches stand, and along which paths a pool is run.

Neighbouring anchors are joined (SN-Net's nearest stitching), from each to the next larger one. Equally deep anchors are joined
within sliding windows over their blocks, others where nearest interpolation puts one's blocks beside the other's. Both ways, as
in SN-Netv2, a path may also go from large to small, and there and back again.

Sources: SN-Net (arXiv 2302.06586, section 3.3), SN-Netv2 (arXiv 2307.00154, section 3.1), Learngene Pool (arXiv 2312.05743).
Torch-free.

Shape legend: L blocks of an anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TypeAlias

from tleg_core.designs.pool import MAX_STITCHES, Stitch
from tleg_core.errors import ConfigError
from tleg_core.path import Path, Segment

Join: TypeAlias = tuple[int, int]
"""(j, k): from the output of the source's block j to the input of the target's block k."""

KERNEL = 2
"""Blocks of a window, as SN-Net has them."""

STRIDE = 1
"""Blocks from a window to the next."""


@dataclass(frozen=True, slots=True)
class Stitching:
    """The stitches of a pool and its stitched paths, both in the papers' order."""

    stitches: tuple[Stitch, ...]
    paths: tuple[Path, ...]


def paired_joins(depth: int, *, kernel: int = KERNEL, stride: int = STRIDE) -> tuple[tuple[Join, ...], ...]:
    """Return the joins of each stitch between two anchors of L = `depth` blocks.

    Windows of `kernel` blocks slide over both; all pairs within one share a stitch, a pair in several belongs to the first.
    With two blocks and a stride of one there are 3L - 2 pairs and L - 1 stitches.

    Raises:
        ConfigError: A number is below 1.
    """
    for name, value in (("depth", depth), ("kernel", kernel), ("stride", stride)):
        if value < 1:
            raise ConfigError(name, f"must be at least 1, not {value}")
    seen: set[Join] = set()
    stitches: list[tuple[Join, ...]] = []
    for start in range(0, depth, stride):
        window = range(start, min(start + kernel, depth))
        joins = tuple((j, k) for j in window for k in window if (j, k) not in seen)
        seen.update(joins)
        if joins:
            stitches.append(joins)
    return tuple(stitches)


def unpaired_joins(source_depth: int, target_depth: int) -> tuple[tuple[Join, ...], ...]:
    """Return the joins of each stitch between anchors of unequal depths: one for each block of the shallower one.

    Block i of the deeper one stands beside block floor(i * shallow / deep) of the shallower one, as nearest interpolation of
    the block numbers has it, and each pair that stands side by side is joined; as in the authors' code, (0, 0) is not.

    Raises:
        ConfigError: A depth is below 1.
    """
    shallow, deep = sorted((source_depth, target_depth))
    if shallow < 1:
        raise ConfigError("depth", f"must be at least 1, not {shallow}")
    stitches: list[list[Join]] = [[] for _ in range(shallow)]
    for block in range(1, deep):
        beside = block * shallow // deep
        stitches[beside].append((beside, block) if source_depth == shallow else (block, beside))
    return tuple(tuple(joins) for joins in stitches if joins)


def boundaries(depth: int, other: int) -> tuple[Join, ...]:
    """Return where SN-Netv2 changes between anchors of two depths: numbers of blocks of each that lie before the change.

    The shallower one may be left after each of its blocks but the last; the deeper one in proportion.
    """
    shallow = min(depth, other)
    return tuple((-(-b * depth // shallow), -(-b * other // shallow)) for b in range(1, shallow))


def nearest_stitching(depths: Sequence[int], *, kernel: int = KERNEL, stride: int = STRIDE) -> Stitching:
    """Return the stitches from each anchor to the next, and a path for each join, pair of anchors by pair.

    Args:
        depths: Blocks of each anchor, the smallest anchor first.
        kernel: Blocks of a window, for equally deep anchors.
        stride: Blocks from a window to the next.

    Raises:
        ConfigError: A number is below 1, there is one anchor alone, or there would be more paths than a pool can have.
    """
    _check_several(depths)
    _check_count(max(pair) if pair[0] != pair[1] else pair[0] * min(2 * kernel - 1, pair[0]) for pair in pairwise(depths))
    stitches, paths = [], []
    for source, (depth, next_depth) in enumerate(pairwise(depths)):
        paired = depth == next_depth
        found = paired_joins(depth, kernel=kernel, stride=stride) if paired else unpaired_joins(depth, next_depth)
        stitches += [Stitch(source=source, target=source + 1, joins=joins) for joins in found]
        paths += [_path(depths, (source, source + 1), (join,)) for joins in found for join in joins]
    return Stitching(tuple(stitches), tuple(paths))


def both_ways_stitching(depths: Sequence[int]) -> Stitching:
    """Return the stitches of each two neighbours in both directions, and the paths that change over once or twice.

    Each stitch has one join: the block behind it goes on where the one before it stopped. For each two neighbours S and L the
    paths are those S-L, L-S, L-S-L and S-L-S.

    Args:
        depths: Blocks of each anchor, the smallest anchor first.

    Raises:
        ConfigError: A depth is below 1, there is one anchor alone, or there would be more paths than a pool can have.
    """
    _check_several(depths)
    _check_count(min(pair) * (min(pair) - 1) for pair in pairwise(depths))
    stitches, paths = [], []
    for small, (depth, next_depth) in enumerate(pairwise(depths)):
        large = small + 1
        places = boundaries(depth, next_depth)
        up = [(in_small - 1, in_large) for in_small, in_large in places]
        down = [(in_large - 1, in_small) for in_small, in_large in places]
        stitches += [Stitch(source=small, target=large, joins=(join,)) for join in up]
        stitches += [Stitch(source=large, target=small, joins=(join,)) for join in down]
        paths += [_path(depths, (small, large), (join,)) for join in up]
        paths += [_path(depths, (large, small), (join,)) for join in down]
        paths += [_path(depths, (large, small, large), joins) for joins in _there_and_back(down, up)]
        paths += [_path(depths, (small, large, small), joins) for joins in _there_and_back(up, down)]
    return Stitching(tuple(stitches), tuple(paths))


def _there_and_back(there: Sequence[Join], back: Sequence[Join]) -> Iterator[tuple[Join, Join]]:
    """Yield the pairs of joins that leave blocks between them."""
    for first, second in combinations(range(len(there)), 2):
        yield there[first], back[second]


def _path(depths: Sequence[int], anchors: Sequence[int], joins: Sequence[Join]) -> Path:
    """Return the path through `anchors` that changes over at `joins`."""
    firsts = [0, *(k for _, k in joins)]
    lasts = [*(j for j, _ in joins), depths[anchors[-1]] - 1]
    return Path(tuple(Segment(*segment) for segment in zip(anchors, firsts, lasts, strict=True)))


def _check_several(depths: Sequence[int]) -> None:
    if len(depths) < 2:
        raise ConfigError("anchors", "must be at least two to be stitched")
    if min(depths) < 1:
        raise ConfigError("depth", f"must be at least 1, not {min(depths)}")


def _check_count(at_most: Iterable[int]) -> None:
    """Raise `ConfigError` where so many paths, one number for each pair of anchors, are more than a pool can have."""
    count = sum(at_most)
    if count > MAX_STITCHES:
        raise ConfigError("stitching", f"makes up to {count:,} paths; a pool has at most {MAX_STITCHES:,}")
