"""What is compared, as one TOML file says it: rows, data sets, depths, seeds, and how long everything trains.

Torch-free. Errors name the field by its place, such as `fine_tuning.lrs` or `learngenes.tleg.depths.train`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tleg_core.comparison.rows import NAME, Method, Row, check_inherited, check_table, read_rows
from tleg_core.config_section import read_section
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import LearngeneConfig, NetworkShape
from tleg_core.training_config import MAX_EPOCHS, Augmentation, Precision, TrainingConfig, within
from tleg_core.vit import MAX_DEPTH, check_depth


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """A data set with its two parts.

    Args:
        name: As the report prints it.
        train: A parquet file, a folder of class folders or a folder of IDX files, from the working directory, or
            `shipped:openclipart15-grey`.
        test: The same of the test part; it may be the same folder where that has both.
        limit: Training images that are used, drawn once for all; None for all.
        test_limit: Test images, likewise.
        depths: Depths that are fine-tuned on it; None for all.
        epochs: Lengths of the fine-tunes; None for those of `fine_tuning`.
        targets: Accuracies, as fractions, whose time is told.
    """

    name: str
    train: str
    test: str
    limit: int | None = None
    test_limit: int | None = None
    depths: tuple[int, ...] | None = None
    epochs: tuple[int, ...] | None = None
    targets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError("name", f"must be lower-case letters, digits and hyphens, not {self.name[:80]!r}")
        for name in ("limit", "test_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1, not {value}")
        _check_whole("depths", self.depths, 1, MAX_DEPTH)
        _check_whole("epochs", self.epochs, 1, 10_000)
        for target in self.targets:
            within("targets", target, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How every row is fine-tuned on every data set: all alike.

    Args:
        epochs: Lengths. Each is a run of its own, with its own cosine, unless `own_schedules` is off.
        own_schedules: Off: only the longest run is made, and the shorter lengths are read off its curve.
        lrs: Peak learning rates. Of several, each row gets on each data set the one that is best at `tuning_depth` on images
            held back from the training part.
        tuning_depth: Depth at which they are tried; the middle of the depths if None.
        tuning_seed: Seed of these runs.
        validation: Share of the training images that is held back then, and then only.
        batch_size: Images for one update.
        weight_decay: AdamW's.
        min_lr: Learning rate at the end of the cosine.
        warmup_epochs: Epochs of linear warm-up; the paper's has none. Runs that are not longer have none.
        precision: The arithmetic of the passes.
        augmentation: What is done to a batch.
    """

    epochs: tuple[int, ...]
    own_schedules: bool = True
    lrs: tuple[float, ...] = (5e-4,)
    tuning_depth: int | None = None
    tuning_seed: int = 0
    validation: float = 0.1
    batch_size: int = 64
    weight_decay: float = 0.05
    min_lr: float = 1e-5
    warmup_epochs: int = 0
    precision: Precision = Precision.FLOAT32
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        _check_whole("epochs", self.epochs, 1, 10_000)
        within("validation", self.validation, 0.01, 0.5)
        if not self.lrs or list(self.lrs) != sorted(set(self.lrs)):
            raise ConfigError("lrs", "must be one or more learning rates, ascending")
        for lr in self.lrs:
            self.training(max(self.epochs), lr, seed=0)

    def training(self, epochs: int, lr: float, *, seed: int) -> TrainingConfig:
        """Return the settings of one run."""
        return TrainingConfig(
            epochs=epochs,
            batch_size=self.batch_size,
            lr=lr,
            min_lr=self.min_lr,
            warmup_epochs=self.warmup_epochs if self.warmup_epochs < epochs else 0,
            weight_decay=self.weight_decay,
            precision=self.precision,
            seed=seed,
            augmentation=self.augmentation,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """What is learned from beside the labels.

    Args:
        model: An ancestry model's file, of the data's classes, or one of its stored logits.
        depth: Instead of a file: the depth of a network that is trained from labels in the comparison itself, one for each
            seed, of the width that is compared. What pools and inherited layers come from is such a network.
        epochs: How long that is trained; None for as long as the others.
        stored: Whether its logits are computed once for each image and view, and then read; needs `augmentation.views`.
        precision: The arithmetic that it computes in.
    """

    model: str | None = None
    depth: int | None = None
    epochs: int | None = None
    stored: bool = False
    precision: Precision = Precision.BFLOAT16

    def __post_init__(self) -> None:
        if self.stored and self.model is None:
            raise ConfigError("stored", "needs a model")
        if self.model is not None and self.depth is not None:
            raise ConfigError("depth", "is of a network trained here; there is a model's file already")
        if self.depth is not None:
            check_depth(self.depth)
        if self.epochs is not None:
            within("epochs", self.epochs, 1, MAX_EPOCHS)
            if self.depth is None:
                raise ConfigError("epochs", "are of a network trained here: there is no depth")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """What stands outside the sections."""

    name: str
    depths: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    pretraining_seeds: tuple[int, ...] | None = None
    rows: tuple[str, ...] | None = None
    comparable_points: float = 1.0
    elastic_points: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonConfig:
    """A whole comparison.

    Args:
        name: As the report is headed.
        depths: The members that are compared, ascending.
        seeds: Seeds of everything: initialisation, training of learngenes and networks, fine-tunes.
        pretraining_seeds: Fewer seeds for learngenes and networks, which the seeds take in turn; all of `seeds` if None.
        rows: What is compared, in the report's order.
        data: What learngenes and networks are trained on.
        transfer: What else is fine-tuned on.
        base: How learngenes, and networks alone, are trained: network, run, augmentation and loss are equal for all.
        wide: The wider network that weights are selected from; None where no row needs one.
        ancestry: What is learned from beside the labels.
        fine_tuning: How all are fine-tuned.
        comparable_points: Points of accuracy by which a comparable network may be behind.
        elastic_points: Points by which an elastic descendant may be behind a network trained alone.
    """

    name: str
    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    pretraining_seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    data: DataSource
    transfer: tuple[DataSource, ...]
    base: LearngeneConfig
    wide: NetworkShape | None
    ancestry: Ancestry
    fine_tuning: FineTuning
    comparable_points: float
    elastic_points: float

    def __post_init__(self) -> None:
        _check_whole("depths", self.depths, 1, MAX_DEPTH)
        for name in ("seeds", "pretraining_seeds"):
            seeds = getattr(self, name)
            if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
                raise ConfigError(name, "must be one or more different whole numbers from 0")
        for name in ("comparable_points", "elastic_points"):
            within(name, getattr(self, name), 0.0, 100.0)
        for source in (self.data, *self.transfer):
            if source.depths is not None and not set(source.depths) <= set(self.depths):
                raise ConfigError(f"{source.name}.depths", "must be among `depths`")
        names = [source.name for source in (self.data, *self.transfer)]
        if len(set(names)) != len(names):
            raise ConfigError("transfer", f"has two data sets of one name: {', '.join(names)}")
        tuned = self.fine_tuning.tuning_depth
        for row in self.rows:
            if row.learngene is not None and row.learngene.network != self.base.network:
                raise ConfigError(f"learngenes.{row.name}.network", "must be that of all rows")
        if tuned is not None and tuned not in self.depths:
            raise ConfigError("fine_tuning.tuning_depth", "must be among `depths`")
        if any(row.method is Method.WEIGHT_SELECTION for row in self.rows) and self.wide is None:
            raise ConfigError("wide_network", "is needed: the row weight-selection selects from it")
        ancestry, learned = self.ancestry, self.base.distillation.alpha != 0.0
        if (ancestry.model is None and ancestry.depth is None) if learned else ancestry.model is not None:
            raise ConfigError("distillation.alpha", "is 0 exactly where there is no ancestry model to learn from")
        for row in self.rows:
            if row.needs_ancestry and ancestry.depth is None:
                raise ConfigError(f"learngenes.{row.name}", "needs an ancestry network trained here: ancestry.depth")
            if row.inheritance is not None:
                check_inherited(row.name, row.inheritance, ancestry.depth or 0)
        if self.ancestry.stored and self.base.training.augmentation.views is None:
            raise ConfigError("augmentation.views", "is needed where logits are stored")

    @property
    def tuning_depth(self) -> int:
        """The depth at which learning rates are tried."""
        return self.fine_tuning.tuning_depth or self.depths[len(self.depths) // 2]

    def pretraining_seed(self, seed: int) -> int:
        """Return the seed of the learngene or network that the run of `seed` starts from."""
        return self.pretraining_seeds[self.seeds.index(seed) % len(self.pretraining_seeds)]

    def with_choice(self, *, seeds: tuple[int, ...] | None, rows: tuple[str, ...] | None) -> Self:
        """Return this comparison with other seeds (None keeps them) and only some of its rows.

        Raises:
            ConfigError: A row is not among its own, or a value is not valid.
        """
        chosen = self.rows
        if rows is not None:
            known = {row.name: row for row in self.rows}
            for name in rows:
                if name not in known:
                    raise ConfigError("only", f"{name!r} is no row; there are {', '.join(known)}")
            chosen = tuple(row for row in self.rows if row.name in rows)
        own = self.pretraining_seeds == self.seeds
        seeds = seeds or self.seeds
        return replace(self, seeds=seeds, pretraining_seeds=seeds if own else self.pretraining_seeds, rows=chosen)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a TOML file's text.

        Raises:
            ConfigError: It is no TOML, or a field is unknown, of another type, or outside its limits.
        """
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("config", f"is no TOML: {error}") from error
        tables = {
            "data": value.pop("data", {}),
            "transfer": value.pop("transfer", []),
            "learngenes": value.pop("learngenes", {}),
            "wide_network": value.pop("wide_network", None),
            "ancestry": value.pop("ancestry", {}),
            "fine_tuning": dict(check_table("fine_tuning", value.pop("fine_tuning", {}))),
        }
        shared: dict[str, Any] = {
            name: value.pop(name) for name in ("network", "training", "augmentation", "distillation") if name in value
        }
        whole = read_section(_Whole, "comparison", value)
        if not isinstance(tables["transfer"], list):
            raise ConfigError("transfer", "must be a list of tables: [[transfer]]")
        augmentation = read_section(Augmentation, "fine_tuning.augmentation", tables["fine_tuning"].pop("augmentation", {}))
        base = LearngeneConfig.from_json(shared)
        return cls(
            name=whole.name,
            depths=whole.depths,
            seeds=whole.seeds,
            pretraining_seeds=whole.pretraining_seeds or whole.seeds,
            rows=read_rows(whole.rows, check_table("learngenes", tables["learngenes"]), shared, base.network, whole.depths),
            data=read_section(DataSource, "data", tables["data"]),
            transfer=tuple(
                read_section(DataSource, f"transfer.{index}", table) for index, table in enumerate(tables["transfer"])
            ),
            base=base,
            wide=None
            if tables["wide_network"] is None
            else read_section(NetworkShape, "wide_network", dict(shared.get("network", {})) | tables["wide_network"]),
            ancestry=read_section(Ancestry, "ancestry", tables["ancestry"]),
            fine_tuning=read_section(FineTuning, "fine_tuning", tables["fine_tuning"], augmentation=augmentation),
            comparable_points=whole.comparable_points,
            elastic_points=whole.elastic_points,
        )


def _check_whole(name: str, values: tuple[int, ...] | None, low: int, high: int) -> None:
    """Raise unless `values` is None, or ascending whole numbers within the limits."""
    if values is not None and (not values or list(values) != sorted(set(values)) or not low <= values[0] <= values[-1] <= high):
        raise ConfigError(name, f"must be one or more whole numbers from {low} to {high}, ascending, not {list(values)}")
