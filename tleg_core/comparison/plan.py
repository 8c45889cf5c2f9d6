"""The plan of a comparison: every unit of work, in an order that respects what needs what, and the cells of the report.

Units that two rows share (a truncated network at its own depth is the network alone) are there once. Everything is equal for
all rows of a depth, a seed and a data set: images, their order, their augmentation, updates, and the settings but for the
learning rate, where several are tried for each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tleg_core.comparison.config import ComparisonConfig, DataSource, Method, Row
from tleg_core.comparison.image_store import Part, Parts
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.cost import cost
from tleg_core.designs.basis import basis_shapes
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import DepthRule, LearngeneConfig
from tleg_core.training_config import TrainingConfig
from tleg_core.vit import VitConfig, num_elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number of the report: an accuracy, and the unit that gives it.

    Args:
        row: The initialisation's name.
        depth: The network's.
        seed: The run's.
        data: The data set's name.
        epochs: Of fine-tuning; 0 before any.
        unit: The unit whose result holds it.
        flops: What the fine-tuning cost, without what came before it.
    """

    row: str
    depth: int
    seed: int
    data: str
    epochs: int
    unit: str
    flops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Units by id, in an order in which they can be done one by one, and the report's cells.

    Args:
        units: The work.
        cells: The numbers of the report.
        sources: The unit that trained what a row starts from, by row, depth and seed; absent where nothing was trained.
        stored_params: Parameters kept for all depths, by row; 0 where nothing is.
    """

    units: Mapping[str, Unit]
    cells: tuple[Cell, ...]
    sources: Mapping[tuple[str, int, int], str]
    stored_params: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Of all training together."""
        return sum(unit.flops for unit in self.units.values())

    @property
    def images(self) -> int:
        """Training images in all, repetitions counted."""
        return sum(unit.images for unit in self.units.values())


def make_plan(config: ComparisonConfig, parts: Mapping[str, Parts], teacher: str | None) -> Plan:
    """Return the plan.

    Args:
        config: What is compared.
        parts: The data sets by name.
        teacher: Digest of the ancestry model's file, or None.

    Raises:
        ConfigError: A data set has fewer images than a batch, or a row cannot be made at any depth.
    """
    return _Planner(config, parts, teacher).plan()


def depths_of_row(row: Row, depths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the depths at which a row exists: a schedule may need some layers."""
    low = 1 if row.learngene is None else row.learngene.schedule.build().min_depth
    return tuple(depth for depth in depths if depth >= low)


def learngene_macs(config: LearngeneConfig, vit: VitConfig, images: int) -> tuple[int, int]:
    """Return the forward MACs of a learngene's training, and those of its passes without a backward one.

    The depths are those that its updates draw: a function of the seed and the update's number. The expansion is left out.
    """
    depths, training = config.depths, config.training
    if depths.rule is DepthRule.FIXED:
        steps = training.epochs * (images // training.batch_size)
        return steps * training.batch_size * cost(vit, depths.train).macs, 0
    from tleg_core.training.learngene_run import depths_of  # noqa: PLC0415 (torch, whose generator draws the depths)

    macs = extra = 0
    for step in range(training.epochs * (images // training.batch_size)):
        trained = depths_of(depths, training.seed, step)
        macs += sum(cost(vit, depth).macs for depth in trained)
        if depths.self_distillation and depths.rule is DepthRule.UNIFORM and trained[0] != depths.train:
            extra += cost(vit, depths.train).macs
    return macs * training.batch_size, extra * training.batch_size


@dataclass(slots=True)
class _Planner:
    config: ComparisonConfig
    parts: Mapping[str, Parts]
    teacher: str | None
    units: dict[str, Unit] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    sources: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def plan(self) -> Plan:
        config = self.config
        for row in config.rows:
            if not depths_of_row(row, config.depths):
                raise ConfigError("depths", f"none of {list(config.depths)} is enough for {row.name}")
        for seed in config.seeds:
            for row in config.rows:
                self._measure(row, seed)
            for source in (config.data, *config.transfer):
                for row in config.rows:
                    self._fine_tune(row, seed, source)
        stored = {row.name: self._stored_params(row) for row in config.rows}
        return Plan(units=self.units, cells=tuple(self.cells), sources=self.sources, stored_params=stored)

    @property
    def _vit(self) -> VitConfig:
        return self.config.base.network.vit(self.parts[self.config.data.name].train.classes)

    @property
    def _wide(self) -> VitConfig:
        assert self.config.wide is not None  # noqa: S101 (the config is checked for it)
        return self.config.wide.vit(self._vit.num_classes)

    @property
    def _teacher(self) -> dict[str, str] | None:
        return None if self.teacher is None else {"file": self.teacher, "precision": self.config.ancestry.precision.value}

    @property
    def _deepest(self) -> int:
        return self.config.depths[-1]

    def _add(self, unit: Unit) -> str:
        name = unit.id
        self.units.setdefault(name, unit)
        return name

    def _measure(self, row: Row, seed: int) -> None:
        """Plan the accuracies before any fine-tuning."""
        data = self.config.data
        for depth in depths_of_row(row, self.config.depths):
            start, needs = self._initialisation(row, depth, seed, self.config.pretraining_seed(seed))
            if needs:
                self.sources[row.name, depth, seed] = needs[0]
            unit = self._add(
                Unit(
                    kind=UnitKind.MEASURE,
                    label=f"{row.name} d{depth} seed {seed}: before fine-tuning",
                    settings={"start": start, "test": self.parts[data.name].test.digest},
                    needs=needs,
                )
            )
            self.cells.append(Cell(row=row.name, depth=depth, seed=seed, data=data.name, epochs=0, unit=unit, flops=0))

    def _fine_tune(self, row: Row, seed: int, source: DataSource) -> None:
        """Plan the fine-tunes of a row on one data set."""
        settings = self.config.fine_tuning
        lengths = source.epochs or settings.epochs
        tunings = self._tunings(row, source, lengths[-1])
        for depth in depths_of_row(row, source.depths or self.config.depths):
            start, needs = self._initialisation(row, depth, seed, self.config.pretraining_seed(seed))
            runs = lengths if settings.own_schedules else lengths[-1:]
            made = {
                length: self._run(
                    kind=UnitKind.FINE_TUNE,
                    label=f"{row.name} d{depth} seed {seed}: {length} epochs on {source.name}",
                    start=start,
                    needs=needs + tunings,
                    source=source,
                    training=settings.training(length, settings.lrs[0], seed=seed),
                )
                for length in runs
            }
            for length in lengths:
                unit = made.get(length) or made[lengths[-1]]
                flops = self.units[unit].flops if length in made else self.units[unit].flops * length // lengths[-1]
                cell = Cell(row=row.name, depth=depth, seed=seed, data=source.name, epochs=length, unit=unit, flops=flops)
                self.cells.append(cell)

    def _tunings(self, row: Row, source: DataSource, length: int) -> tuple[str, ...]:
        """Plan the choice of a row's learning rate on one data set: a short list of runs at one depth and seed."""
        settings = self.config.fine_tuning
        if len(settings.lrs) == 1:
            return ()
        depth = min(depths_of_row(row, self.config.depths), key=lambda depth: abs(depth - self.config.tuning_depth))
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
        seen = _images_seen(training, images, source.name)
        run: dict[str, Any] = {
            "start": start,
            "train": parts.train.digest,
            "classes": parts.train.classes,
            "keeps_head": source is self.config.data,
            "training": _decisive(training),
        }
        if kind is UnitKind.TUNING:
            run["validation"] = share
        else:
            run |= {"test": parts.test.digest, "lrs": list(self.config.fine_tuning.lrs)}
        vit = VitConfig.from_json(start["network"]).with_changes(num_classes=parts.train.classes)
        macs = seen * cost(vit, start["depth"]).macs
        return self._add(Unit(kind=kind, label=label, settings=run, needs=needs, images=seen, macs=macs))

    def _initialisation(self, row: Row, depth: int, seed: int, trained: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what decides a row's weights, and the unit that trained what they are made of (`trained` is its seed)."""
        start: dict[str, Any] = {"method": row.method.value, "depth": depth, "network": self._vit.to_json()}
        match row.method:
            case Method.SCRATCH | Method.MIMETIC:
                return start | {"seed": seed}, ()
            case Method.TRUNCATED if depth < self._deepest:
                return start, (self._network(self._vit, self._deepest, trained),)
            case Method.ALONE | Method.TRUNCATED:
                return start | {"method": Method.ALONE.value}, (self._network(self._vit, depth, trained),)
            case Method.WEIGHT_SELECTION:
                return start | {"source": self._wide.to_json()}, (self._network(self._wide, self._deepest, trained),)
            case Method.LEARNGENE:
                return start, (self._learngene(row, trained),)

    def _network(self, vit: VitConfig, depth: int, seed: int) -> str:
        base = self.config.base.with_seed(seed)
        seen = _images_seen(base.training, self._base_part.images, self.config.data.name)
        settings = {
            "network": vit.to_json(),
            "depth": depth,
            "training": _decisive(base.training),
            "distillation": asdict(base.distillation),
            "train": self._base_part.digest,
            "test": self.parts[self.config.data.name].test.digest,
            "teacher": self._teacher,
        }
        label = f"network of width {vit.embed_dim}, depth {depth}, seed {seed}"
        macs = seen * cost(vit, depth).macs
        needs = self._logits()
        return self._add(Unit(kind=UnitKind.NETWORK, label=label, settings=settings, needs=needs, images=seen, macs=macs))

    def _learngene(self, row: Row, seed: int) -> str:
        assert row.learngene is not None  # noqa: S101 (a learngene's row has one)
        config = row.learngene.with_seed(seed)
        seen = _images_seen(config.training, self._base_part.images, self.config.data.name)
        described = config.to_json()
        del described["training"]["checkpoint_every_steps"]
        settings = {
            "config": described,
            "train": self._base_part.digest,
            "test": self.parts[self.config.data.name].test.digest,
            "teacher": self._teacher,
        }
        needs = self._logits()
        unit = Unit(kind=UnitKind.LEARNGENE, label=f"{row.name}: learngene, seed {seed}", settings=settings, needs=needs)
        if unit.id not in self.units:
            macs, extra = learngene_macs(config, config.network.vit(self._vit.num_classes), self._base_part.images)
            self.units[unit.id] = replace(unit, images=seen, macs=macs, extra_macs=extra)
        return unit.id

    def _logits(self) -> tuple[str, ...]:
        """Plan the ancestry model's logits where they are stored: what a view shows does not follow from a seed."""
        if not self.config.ancestry.stored:
            return ()
        views = self.config.base.training.augmentation.views
        settings = {
            "teacher": self._teacher,
            "train": self._base_part.digest,
            "training": _decisive(self.config.base.with_seed(0).training),
        }
        label = f"logits of the ancestry model, {views} views"
        return (self._add(Unit(kind=UnitKind.LOGITS, label=label, settings=settings)),)

    @property
    def _base_part(self) -> Part:
        return self.parts[self.config.data.name].train

    def _stored_params(self, row: Row) -> int:
        depths = depths_of_row(row, self.config.depths)
        match row.method:
            case Method.SCRATCH | Method.MIMETIC:
                return 0
            case Method.TRUNCATED:
                return cost(self._vit, self._deepest).params
            case Method.WEIGHT_SELECTION:
                return cost(self._wide, self._deepest).params
            case Method.ALONE:
                return sum(cost(self._vit, depth).params for depth in depths)
            case Method.LEARNGENE:
                assert row.learngene is not None  # noqa: S101 (a learngene's row has one)
                vit = row.learngene.network.vit(self._vit.num_classes)
                return num_elements(basis_shapes(vit, row.learngene.schedule.build().num_components))


def _images_seen(training: TrainingConfig, images: int, name: str) -> int:
    steps = images // training.batch_size
    if not steps:
        raise ConfigError("batch_size", f"{training.batch_size} is more than the {images} training images of {name}")
    return training.epochs * steps * training.batch_size


def _decisive(training: TrainingConfig) -> dict[str, Any]:
    """Return a run's settings that decide its result."""
    return training.decisive()
