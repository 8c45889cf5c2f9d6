"""The numbers of a comparison, looked up by what they are of: accuracies by seed, curves, epochs to a target, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tleg_core.comparison.plan import Cell, FamilyMember, Plan
from tleg_core.comparison.results import Results
from tleg_core.comparison.statistics import Estimate, estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What an accuracy is of, but for the seed."""

    row: str
    depth: int
    data: str
    epochs: int


class Scores:
    """What the results say of a plan's cells; cells without a result are not there.

    Args:
        plan: The cells.
        results: What is done.
    """

    def __init__(self, plan: Plan, results: Results) -> None:
        self._plan, self._results = plan, results
        self._cells: dict[Key, dict[int, Cell]] = {}
        self.total = len(plan.units)
        self.done = len(results.done(plan.units))
        for cell in plan.cells:
            if cell.unit in results:
                key = Key(row=cell.row, depth=cell.depth, data=cell.data, epochs=cell.epochs)
                self._cells.setdefault(key, {})[cell.seed] = cell

    @property
    def keys(self) -> Sequence[Key]:
        """What there are accuracies of, in the plan's order."""
        return tuple(self._cells)

    def by_seed(self, key: Key) -> Mapping[int, float]:
        """Return the accuracies, in points (0..100), by seed; one result that seeds share is the first one's alone.

        Seeds that share a learngene share its accuracy before fine-tuning: counted for each, it would look like no spread.
        """
        first: dict[str, int] = {}
        for seed, cell in self._cells.get(key, {}).items():
            first.setdefault(cell.unit, seed)
        return {seed: 100 * self._top1(self._cells[key][seed]) for seed in first.values()}

    def estimate(self, key: Key) -> Estimate | None:
        """Return the mean accuracy in points, and its interval over seeds."""
        values = list(self.by_seed(key).values())
        return estimate(values) if values else None

    def _top1(self, cell: Cell) -> float:
        result = self._results[cell.unit]
        if cell.epochs:
            top1: float = result["curve"][cell.epochs - 1]
        else:
            top1 = result["top1"] if cell.path is None else result["paths"][cell.path]
        return top1

    def of_member(self, member: FamilyMember) -> Mapping[int, float]:
        """Return a family member's accuracies before any fine-tuning, in points, by seed; shared ones once, as `by_seed`."""
        first: dict[str, int] = {}
        for seed, unit in member.units.items():
            if unit in self._results:
                first.setdefault(unit, seed)
        path = member.member.path
        return {
            seed: 100 * (self._results[unit]["top1"] if path is None else self._results[unit]["paths"][str(path)])
            for unit, seed in first.items()
        }

    def lr(self, key: Key) -> float | None:
        """Return the learning rate that was taken."""
        cells = self._cells.get(key, {})
        return next((self._results[cell.unit].get("lr") for cell in cells.values()), None)

    def curve(self, key: Key) -> Sequence[Estimate]:
        """Return the accuracy in points after each epoch of the run that `key` is the end of."""
        curves = [self._results[cell.unit]["curve"][: cell.epochs] for cell in self._cells.get(key, {}).values()]
        return [estimate([100 * top1 for top1 in epoch]) for epoch in zip(*curves, strict=True)]

    def epochs_to(self, key: Key, target: float) -> tuple[list[int], int]:
        """Return the first epoch at which a seed's run reached `target` (a fraction), of those that did, and how many ran."""
        curves = [self._results[cell.unit]["curve"][: cell.epochs] for cell in self._cells.get(key, {}).values()]
        reached = [next((epoch for epoch, top1 in enumerate(curve, start=1) if top1 >= target), None) for curve in curves]
        return [epoch for epoch in reached if epoch is not None], len(curves)

    def fine_tuning_flops(self, key: Key) -> int:
        """Return the cost of one fine-tune."""
        return next((cell.flops for cell in self._cells.get(key, {}).values()), 0)

    def pretraining_flops(self, row: str, depths: Sequence[int], seed: int) -> int:
        """Return what training whatever a row's members of these depths start from cost, each source counted once."""
        return self._plan.making_flops(row, depths, seed)

    def pretraining_images(self, row: str, depths: Sequence[int], seed: int) -> int:
        """Return the images, repetitions counted, that this training saw."""
        units = {self._plan.sources[row, depth, seed] for depth in depths if (row, depth, seed) in self._plan.sources}
        return sum(self._plan.units[unit].images for unit in units)

    def diverged(self) -> list[str]:
        """Return the labels of the fine-tunes that diverged, which count as an accuracy of 0."""
        units = dict.fromkeys(cell.unit for cells in self._cells.values() for cell in cells.values())
        return [self._plan.units[unit].label for unit in units if "diverged" in self._results[unit]]
