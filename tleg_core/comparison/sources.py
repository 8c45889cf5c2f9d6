"""The sources of a comparison's rows: the units that train what networks start from, each with what it costs.

Units that two rows share are there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from tleg_core.comparison.config import ComparisonConfig
from tleg_core.comparison.image_store import Part, Parts
from tleg_core.comparison.making import (
    Work,
    anchors_work,
    decisive,
    images_seen,
    inheritance_work,
    joint_work,
    learngene_macs,
)
from tleg_core.comparison.rows import Method, Row
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.cost import cost
from tleg_core.designs.basis import basis_shapes
from tleg_core.learngene_config import Distillation
from tleg_core.training_config import TrainingConfig
from tleg_core.vit import VitConfig, num_elements


class Sources:
    """Plans what rows start from.

    Args:
        config: What is compared.
        parts: The data sets by name.
        teacher: Digest of the ancestry model's file, or None.
    """

    def __init__(self, config: ComparisonConfig, parts: Mapping[str, Parts], teacher: str | None) -> None:
        self.config, self.parts, self.teacher = config, parts, teacher
        self.units: dict[str, Unit] = {}
        self.borrowed: dict[str, int] = {}

    @property
    def vit(self) -> VitConfig:
        """The network that is compared, but for its depth."""
        return self.config.base.network.vit(self.parts[self.config.data.name].train.classes)

    @property
    def wide(self) -> VitConfig:
        """The wider network that weights are selected from."""
        assert self.config.wide is not None  # noqa: S101 (the config is checked for it)
        return self.config.wide.vit(self.vit.num_classes)

    @property
    def deepest(self) -> int:
        """The largest depth that is compared."""
        return self.config.depths[-1]

    @property
    def _base_part(self) -> Part:
        return self.parts[self.config.data.name].train

    @property
    def _images(self) -> int:
        return self._base_part.images

    def network(self, vit: VitConfig, depth: int, seed: int) -> str:
        """Plan a network that is trained alone, as the learngenes are."""
        base = self.config.base.with_seed(seed)
        label = f"network of width {vit.embed_dim}, depth {depth}, seed {seed}"
        taught = self._taught(base.distillation.alpha, seed)
        return self._trained(vit, depth, training=base.training, distillation=base.distillation, taught=taught, label=label)

    def _trained(
        self,
        vit: VitConfig,
        depth: int,
        *,
        training: TrainingConfig,
        distillation: Distillation,
        taught: tuple[dict[str, Any] | None, tuple[str, ...]],
        label: str,
    ) -> str:
        """Plan the training of a network with weights of its own."""
        teacher, needs = taught
        seen = images_seen(training, self._images, self.config.data.name)
        settings = {
            "network": vit.to_json(),
            "depth": depth,
            "training": decisive(training),
            "distillation": asdict(distillation),
            "train": self._base_part.digest,
            "test": self.parts[self.config.data.name].test.digest,
            "teacher": teacher,
        }
        unit = Unit(kind=UnitKind.NETWORK, label=label, settings=settings, needs=needs)
        return self._worked(unit, Work(seen, seen * cost(vit, depth).macs, seen * self._asked_macs(teacher)))

    def learngene(self, row: Row, seed: int) -> str:
        """Plan the training of a learngene whose schedule combines components."""
        assert row.learngene is not None  # noqa: S101 (a learngene's row has one)
        config = row.learngene.with_seed(seed)
        seen = images_seen(config.training, self._images, self.config.data.name)
        described = config.to_json()
        del described["training"]["checkpoint_every_steps"]
        del described["preprocessing"]  # that of all rows
        teacher, needs = self._taught(config.distillation.alpha, seed)
        settings = {
            "config": described,
            "train": self._base_part.digest,
            "test": self.parts[self.config.data.name].test.digest,
            "teacher": teacher,
        }
        unit = Unit(kind=UnitKind.LEARNGENE, label=f"{row.name}: learngene, seed {seed}", settings=settings, needs=needs)
        if unit.id in self.units:
            return unit.id
        macs, extra = learngene_macs(config, config.network.vit(self.vit.num_classes), self._images)
        return self._worked(unit, Work(seen, macs, extra + seen * self._asked_macs(teacher)))

    def pool(self, row: Row, seed: int) -> str:
        """Plan a pool: its anchors, unless another row's pool has them, its stitches, its joint training."""
        assert row.pool is not None  # noqa: S101 (a pool's row has one)
        config, depth, name = row.pool.with_seed(seed), self.config.ancestry.depth, self.config.data.name
        described = config.to_json()
        del described["training"]["checkpoint_every_steps"]
        anchors = () if row.anchors_of is None else (self.pool(row.anchors_of, seed),)
        given = () if row.anchors_of is None else [anchor.name for anchor in config.anchors]
        learns = config.learns_from_ancestry(given)
        teacher, needs = self._taught(1.0, seed) if learns else (None, ())
        settings = {"config": described, "given": bool(anchors), "train": self._base_part.digest, "teacher": teacher}
        label = f"{row.name}: anchors and stitches, seed {seed}"
        unit = Unit(kind=UnitKind.POOL, label=label, settings=settings, needs=(*anchors, *needs))
        if unit.id not in self.units:
            alone = anchors_work(config, self.vit, depth or 1, self._images, name)
            together = joint_work(config, self.vit, depth or 1, self._images, name)
            self._worked(unit, together if anchors else alone + together)
            if anchors:
                self.borrowed[unit.id] = alone.flops
        return unit.id

    def inheritance(self, row: Row, seed: int) -> str:
        """Plan the choice of the ancestry network's layers."""
        assert row.inheritance is not None  # noqa: S101 (such a row has one)
        config, depth = row.inheritance.with_seed(seed), self.config.ancestry.depth
        described = config.to_json()
        del described["training"]["checkpoint_every_steps"]
        teacher, needs = self._taught(1.0, seed)
        settings = {"config": described, "train": self._base_part.digest, "teacher": teacher}
        unit = Unit(kind=UnitKind.INHERITANCE, label=f"{row.name}: layers, seed {seed}", settings=settings, needs=needs)
        return self._worked(unit, inheritance_work(config, self.vit, depth or 1, self._images, self.config.data.name))

    def _worked(self, unit: Unit, work: Work) -> str:
        """Add a unit with the work that it is."""
        return self.add(replace(unit, images=work.images, macs=work.macs, extra_macs=work.extra_macs))

    def _asked_macs(self, teacher: Mapping[str, Any] | None) -> int:
        """Return the MACs of asking a teacher about an image: those of the ancestry network, where it is trained here."""
        return 0 if teacher is None or "depth" not in teacher else cost(self.vit, teacher["depth"]).macs

    def _logits(self) -> tuple[str, ...]:
        """Plan the ancestry model's logits where they are stored: what a view shows does not follow from a seed."""
        if not self.config.ancestry.stored:
            return ()
        views = self.config.base.training.augmentation.views
        settings = {
            "teacher": {"file": self.teacher, "precision": self.config.ancestry.precision.value},
            "train": self._base_part.digest,
            "training": decisive(self.config.base.with_seed(0).training),
        }
        label = f"logits of the ancestry model, {views} views"
        return (self.add(Unit(kind=UnitKind.LOGITS, label=label, settings=settings)),)

    def _taught(self, alpha: float, seed: int) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        """Return what a training learns from beside the labels, and the units that it needs for that."""
        ancestry = self.config.ancestry
        if ancestry.depth is None:
            file = None if self.teacher is None else {"file": self.teacher, "precision": ancestry.precision.value}
            return file, self._logits()
        if alpha == 0.0:
            return None, ()
        unit = self.ancestor(seed)
        return {"network": self.vit.to_json(), "depth": ancestry.depth, "precision": ancestry.precision.value}, (unit,)

    def ancestor(self, seed: int) -> str:
        """Plan the training of the ancestry network of a seed, from labels."""
        ancestry = self.config.ancestry
        assert ancestry.depth is not None  # noqa: S101 (the config is checked for it)
        training = self.config.base.with_seed(seed).training
        if ancestry.epochs is not None:
            training = replace(training, epochs=ancestry.epochs)
        label = f"ancestry network of depth {ancestry.depth}, seed {seed}"
        return self._trained(
            self.vit, ancestry.depth, training=training, distillation=Distillation(alpha=0.0), taught=(None, ()), label=label
        )

    def add(self, unit: Unit) -> str:
        """Add a unit, unless it is there; return its id."""
        name = unit.id
        self.units.setdefault(name, unit)
        return name

    def stored_params(self, row: Row) -> int:
        """Return the parameters that are kept of a row for all depths together."""
        depths = row.depths(self.config.depths)
        match row.method:
            case Method.SCRATCH | Method.MIMETIC:
                return 0
            case Method.TRUNCATED:
                return cost(self.vit, self.deepest).params
            case Method.WEIGHT_SELECTION:
                return cost(self.wide, self.deepest).params
            case Method.ALONE:
                return sum(cost(self.vit, depth).params for depth in depths)
            case Method.LEARNGENE:
                assert row.learngene is not None  # noqa: S101 (a learngene's row has one)
                vit = row.learngene.network.vit(self.vit.num_classes)
                return num_elements(basis_shapes(vit, row.learngene.schedule.build().num_components))
            case Method.INHERITANCE:
                assert row.inheritance is not None  # noqa: S101 (such a row has one)
                return num_elements(basis_shapes(self.vit, row.inheritance.selection.count))
            case Method.POOL:
                assert row.pool is not None  # noqa: S101 (a pool's row has one)
                return num_elements(row.pool.design(self.vit.num_classes).tensor_shapes())
