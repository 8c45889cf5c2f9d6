"""The plan of a comparison: every unit of work, in an order that respects what needs what, and the cells of the report.

It is made by `planner`; this is what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tleg_core.comparison.rows import Row
from tleg_core.comparison.unit import Unit
from tleg_core.recipe import Member


class Stage(StrEnum):
    """When a family is measured, before any of its members is fine-tuned."""

    STITCHED = "stitched"
    """Of a pool: its stitches as they start, not trained yet."""
    WHOLE = "whole"
    """When it is made as far as it will be: of a pool, after its joint training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number of the report: an accuracy, and the unit that gives it.

    Args:
        row: The initialisation's name.
        depth: The network's; of a pool's member, that of the network which it is compared with.
        seed: The run's.
        data: The data set's name.
        epochs: Of fine-tuning; 0 before any.
        unit: The unit whose result holds it.
        flops: What the fine-tuning cost, without what came before it.
        path: Of a pool's member.
    """

    row: str
    depth: int
    seed: int
    data: str
    epochs: int
    unit: str
    flops: int
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMember:
    """One member of a row's family, as a network: before any fine-tuning, on the data that all was trained on.

    Args:
        row: The row's name.
        stage: When.
        member: Which one.
        macs: Multiply-accumulates of it, for an image.
        params: Its parameters.
        units: The unit whose result holds its accuracy, by seed.
    """

    row: str
    stage: Stage
    member: Member
    macs: int
    params: int
    units: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Units by id, in an order in which they can be done one by one, and the report's cells.

    Args:
        units: The work.
        cells: The numbers of the report.
        sources: The unit that trained what a row starts from, by row, depth and seed; absent where nothing was trained.
        stored_params: Parameters kept for all depths, by row; 0 where nothing is.
        members: Every member of every family, whether it is fine-tuned or not.
        ancestors: The unit that trained the ancestry network that a row learned or inherited from, by row and seed; absent
            where there is none, or where it came from elsewhere.
        borrowed: FLOPs of what a unit takes over that another one made, by unit: a pool's anchors.
    """

    units: Mapping[str, Unit]
    cells: tuple[Cell, ...]
    sources: Mapping[tuple[str, int, int], str]
    stored_params: Mapping[str, int]
    members: tuple[FamilyMember, ...] = ()
    ancestors: Mapping[tuple[str, int], str] = field(default_factory=dict)
    borrowed: Mapping[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """Of all training together."""
        return sum(unit.flops for unit in self.units.values())

    @property
    def images(self) -> int:
        """Training images in all, repetitions counted."""
        return sum(unit.images for unit in self.units.values())

    def making_flops(self, row: str, depths: Sequence[int], seed: int) -> int:
        """Return what training whatever a row's members of these depths start from cost, without the ancestry network.

        Each source is counted once, with what it took over from another.
        """
        units = {self.sources[row, depth, seed] for depth in depths if (row, depth, seed) in self.sources}
        return sum(self.units[unit].flops + self.borrowed.get(unit, 0) for unit in units)

    def ancestry_flops(self, row: str, seed: int) -> int:
        """Return what training a row's ancestry network cost; 0 where it has none."""
        unit = self.ancestors.get((row, seed))
        return 0 if unit is None else self.units[unit].flops


def depths_of_row(row: Row, depths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the depths at which a row exists."""
    return row.depths(depths)
