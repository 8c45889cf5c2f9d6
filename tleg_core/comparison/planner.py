"""How a comparison's plan is made: from its configuration, and from what its data sets are.

Units that two rows share (a truncated network at its own depth is the network alone) are there once. Everything is equal for
all rows of a depth, a seed and a data set: images, their order, their augmentation, updates, and the settings but for the
learning rate, where several are tried for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tleg_core.amount import amount
from tleg_core.comparison.config import ComparisonConfig, DataSource
from tleg_core.comparison.image_store import Parts
from tleg_core.comparison.making import (
    decisive,
    images_seen,
)
from tleg_core.comparison.plan import Cell, FamilyMember, Plan, Stage
from tleg_core.comparison.rows import Method, Row
from tleg_core.comparison.sources import Sources
from tleg_core.comparison.start import stack_of, start_along
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.cost import cost, stack_cost
from tleg_core.errors import ConfigError
from tleg_core.pool_config import PoolConfig
from tleg_core.recipe import Member
from tleg_core.training_config import TrainingConfig


def make_plan(config: ComparisonConfig, parts: Mapping[str, Parts], teacher: str | None) -> Plan:
    """Return the plan.

    Args:
        config: What is compared.
        parts: The data sets by name.
        teacher: Digest of the ancestry model's file, or None.

    Raises:
        ConfigError: A data set has fewer images than a batch, or a row cannot be made at any depth.
    """
    return _Planner(config, parts, Sources(config, parts, teacher)).plan()


@dataclass(slots=True)
class _Planner:
    config: ComparisonConfig
    parts: Mapping[str, Parts]
    made: Sources
    cells: list[Cell] = field(default_factory=list)
    sources: dict[tuple[str, int, int], str] = field(default_factory=dict)
    ancestors: dict[tuple[str, int], str] = field(default_factory=dict)
    every_path: dict[tuple[str, Stage], dict[int, str]] = field(default_factory=dict)

    def plan(self) -> Plan:
        config = self.config
        for row in config.rows:
            if not row.depths(config.depths):
                lacks = "has members of like cost in" if row.pool else "is enough for"
                raise ConfigError("depths", f"none of {list(config.depths)} {lacks} {row.name}")
        for seed in config.seeds:
            for row in config.rows:
                self._measure(row, seed)
            for source in (config.data, *config.transfer):
                for row in config.rows:
                    self._fine_tune(row, seed, source)
        stored = {row.name: self.made.stored_params(row) for row in config.rows}
        return Plan(
            units=self.made.units,
            cells=tuple(self.cells),
            sources=self.sources,
            stored_params=stored,
            members=tuple(member for row in config.rows for member in self._members(row)),
            ancestors=self.ancestors,
            borrowed=self.made.borrowed,
        )

    def _note_ancestor(self, row: Row, seed: int, source: str) -> None:
        """Keep which ancestry network a row's source learned or inherited from, or one that it needs."""
        if self.config.ancestry.depth is None:
            return
        unit = self.made.ancestor(self.config.pretraining_seed(seed))
        needed = list(self.made.units[source].needs)
        while needed:
            name = needed.pop()
            if name == unit:
                self.ancestors[row.name, seed] = unit
                return
            needed += self.made.units[name].needs

    def _measure(self, row: Row, seed: int) -> None:
        """Plan the accuracies before any fine-tuning."""
        data = self.config.data
        if row.pool is not None:
            self._measure_paths(row, row.pool, seed)
            return
        for depth in row.depths(self.config.depths):
            start, needs = self._initialisation(row, depth, seed, self.config.pretraining_seed(seed))
            if needs:
                self.sources[row.name, depth, seed] = needs[0]
                self._note_ancestor(row, seed, needs[0])
            unit = self.made.add(
                Unit(
                    kind=UnitKind.MEASURE,
                    label=f"{row.name} d{depth} seed {seed}: before fine-tuning",
                    settings={"start": start, "test": self.parts[data.name].test.digest},
                    needs=needs,
                )
            )
            self.cells.append(Cell(row=row.name, depth=depth, seed=seed, data=data.name, epochs=0, unit=unit, flops=0))

    def _measure_paths(self, row: Row, config: PoolConfig, seed: int) -> None:
        """Plan the accuracies of all of a pool's members, and of its stitches as they start."""
        data = self.config.data
        pool = self.made.pool(row, self.config.pretraining_seed(seed))
        self._note_ancestor(row, seed, pool)
        for stage in (Stage.STITCHED, Stage.WHOLE) if config.joint.epochs else (Stage.WHOLE,):
            unit = self.made.add(
                Unit(
                    kind=UnitKind.PATHS,
                    label=f"{row.name} seed {seed}: every path, {stage}",
                    settings={"stage": stage.value, "test": self.parts[data.name].test.digest},
                    needs=(pool,),
                )
            )
            self.every_path.setdefault((row.name, stage), {})[seed] = unit
        for depth, path in row.paths.items():
            self.sources[row.name, depth, seed] = pool
            cell = Cell(row=row.name, depth=depth, seed=seed, data=data.name, epochs=0, unit=unit, flops=0, path=str(path))
            self.cells.append(cell)

    def _members(self, row: Row) -> Iterator[FamilyMember]:
        """Yield every member of a row's family that is measured before any fine-tuning."""
        if row.pool is not None:
            design = row.pool.design(self.made.vit.num_classes)
            for stage in Stage:
                units = self.every_path.get((row.name, stage), {})
                for member in design.members if units else ():
                    found = stack_cost(design.stack(member))
                    yield FamilyMember(
                        row=row.name, stage=stage, member=member, macs=found.macs, params=found.params, units=units
                    )
            return
        for depth in row.depths(self.config.depths):
            found = cost(self.made.vit, depth)
            units = {cell.seed: cell.unit for cell in self.cells if (cell.row, cell.depth, cell.epochs) == (row.name, depth, 0)}
            yield FamilyMember(
                row=row.name, stage=Stage.WHOLE, member=Member(depth=depth), macs=found.macs, params=found.params, units=units
            )

    def _fine_tune(self, row: Row, seed: int, source: DataSource) -> None:
        """Plan the fine-tunes of a row on one data set."""
        settings = self.config.fine_tuning
        lengths = source.epochs or settings.epochs
        depths = row.depths(source.depths or self.config.depths)
        tunings = self._tunings(row, source, lengths[-1]) if depths else ()
        for depth in depths:
            start, needs = self._initialisation(row, depth, seed, self.config.pretraining_seed(seed))
            runs = lengths if settings.own_schedules else lengths[-1:]
            made = {
                length: self._run(
                    kind=UnitKind.FINE_TUNE,
                    label=f"{row.name} d{depth} seed {seed}: {amount(length, 'epoch')} on {source.name}",
                    start=start,
                    needs=needs + tunings,
                    source=source,
                    training=settings.training(length, settings.lrs[0], seed=seed),
                )
                for length in runs
            }
            for length in lengths:
                unit = made.get(length) or made[lengths[-1]]
                flops = self.made.units[unit].flops if length in made else self.made.units[unit].flops * length // lengths[-1]
                path = str(row.paths[depth]) if depth in row.paths else None
                self.cells.append(
                    Cell(
                        row=row.name, depth=depth, seed=seed, data=source.name, epochs=length, unit=unit, flops=flops, path=path
                    )
                )

    def _tunings(self, row: Row, source: DataSource, length: int) -> tuple[str, ...]:
        """Plan the choice of a row's learning rate on one data set: a short list of runs at one depth and seed."""
        settings = self.config.fine_tuning
        if len(settings.lrs) == 1:
            return ()
        depth = min(row.depths(self.config.depths), key=lambda depth: abs(depth - self.config.tuning_depth))
        start, needs = self._initialisation(row, depth, settings.tuning_seed, self.config.pretraining_seeds[0])
        return tuple(
            self._run(
                kind=UnitKind.TUNING,
                label=f"{row.name} d{depth}: lr {lr:g} on held-back images of {source.name}",
                start=start,
                needs=needs,
                source=source,
                training=settings.training(length, lr, seed=settings.tuning_seed),
            )
            for lr in settings.lrs
        )

    def _run(
        self,
        *,
        kind: UnitKind,
        label: str,
        start: Mapping[str, Any],
        needs: tuple[str, ...],
        source: DataSource,
        training: TrainingConfig,
    ) -> str:
        """Plan one fine-tune."""
        parts = self.parts[source.name]
        share = self.config.fine_tuning.validation if kind is UnitKind.TUNING else 0.0
        images = parts.train.images - (min(max(round(share * parts.train.images), 1), parts.train.images - 1) if share else 0)
        seen = images_seen(training, images, source.name)
        run: dict[str, Any] = {
            "start": start,
            "train": parts.train.digest,
            "classes": parts.train.classes,
            "keeps_head": source is self.config.data,
            "training": decisive(training),
        }
        if kind is UnitKind.TUNING:
            run["validation"] = share
        else:
            run |= {"test": parts.test.digest, "lrs": list(self.config.fine_tuning.lrs)}
        macs = seen * stack_cost(stack_of(start).with_changes(num_classes=parts.train.classes)).macs
        return self.made.add(Unit(kind=kind, label=label, settings=run, needs=needs, images=seen, macs=macs))

    def _initialisation(self, row: Row, depth: int, seed: int, trained: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what decides a row's weights, and the unit that trained what they are made of (`trained` is its seed)."""
        start: dict[str, Any] = {"method": row.method.value, "depth": depth, "network": self.made.vit.to_json()}
        match row.method:
            case Method.SCRATCH | Method.MIMETIC:
                return start | {"seed": seed}, ()
            case Method.TRUNCATED if depth < self.made.deepest:
                return start, (self.made.network(self.made.vit, self.made.deepest, trained),)
            case Method.ALONE | Method.TRUNCATED:
                return start | {"method": Method.ALONE.value}, (self.made.network(self.made.vit, depth, trained),)
            case Method.WEIGHT_SELECTION:
                return start | {"source": self.made.wide.to_json()}, (
                    self.made.network(self.made.wide, self.made.deepest, trained),
                )
            case Method.LEARNGENE:
                return start, (self.made.learngene(row, trained),)
            case Method.INHERITANCE:
                return start | {"seed": seed}, (self.made.inheritance(row, trained),)
            case Method.POOL:
                assert row.pool is not None  # noqa: S101 (a pool's row has one)
                design = row.pool.design(self.made.vit.num_classes)
                return start_along(row.paths[depth], design), (self.made.pool(row, trained),)
