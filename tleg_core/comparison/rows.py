"""The rows of a comparison: the ways to initialise a network, and how what they start from is made.

A learngene's table says by its sections what it is, as recipes do: with `anchors` it is a pool (Learngene Pool, SN-Net), with
`selection` layers of the ancestry are inherited (Heur-LG, Auto-LG), else a schedule combines components (TLEG, stage-wise).
Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tleg_core.cost import cost, stack_cost
from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene_config import LearngeneConfig, NetworkShape
from tleg_core.path import Path
from tleg_core.pool_config import PoolConfig, StitchInit

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,61}")
"""What rows and data sets are called."""

COMPARABLE_MACS = 0.2
"""Share of a network's MACs by which a pool's member may differ that is compared with it."""

_SHARED_BY_POOLS = ("img_size", "patch_size")
_OVER_OTHER_ANCHORS = {"anchors_of", "stitching", "joint"}


class Method(StrEnum):
    """How a row is initialised."""

    SCRATCH = "scratch"
    MIMETIC = "mimetic"
    TRUNCATED = "truncated"
    WEIGHT_SELECTION = "weight-selection"
    ALONE = "alone"
    """A network trained for each depth on the learngene's data as long as the learngene: the expensive upper bound."""
    LEARNGENE = "learngene"
    POOL = "pool"
    """Along the path of a pool of anchors and stitches."""
    INHERITANCE = "inheritance"
    """With whole layers of the ancestry network, and fresh ones between them."""


CHEAP = (Method.SCRATCH, Method.MIMETIC, Method.TRUNCATED, Method.WEIGHT_SELECTION)
"""The initialisations that a learngene has to be ahead of."""

_TRAINED = (Method.LEARNGENE, Method.POOL, Method.INHERITANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to initialise.

    Args:
        name: As the report prints it.
        method: How.
        learngene: How its learngene is trained; of that method.
        pool: How its pool is made; of that method.
        anchors_of: The row whose pool's anchors it takes, where it trains none of its own.
        inheritance: How layers are chosen; of that method.
        paths: Of a pool, by depth of the network that it is nearest to in MACs: the path that is fine-tuned beside it.
    """

    name: str
    method: Method
    learngene: LearngeneConfig | None = None
    pool: PoolConfig | None = None
    anchors_of: Row | None = None
    inheritance: InheritanceConfig | None = None
    paths: Mapping[int, Path] = field(default_factory=dict)

    def depths(self, depths: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of `depths` at which the row exists: a schedule may need some layers, a pool have no such member."""
        if self.pool is not None:
            return tuple(depth for depth in depths if depth in self.paths)
        if self.inheritance is not None:
            high = self.inheritance.depths.offer_max
            return tuple(depth for depth in depths if self.inheritance.min_depth <= depth <= high)
        low = 1 if self.learngene is None else self.learngene.schedule.build().min_depth
        return tuple(depth for depth in depths if depth >= low)

    @property
    def needs_ancestry(self) -> bool:
        """Whether it cannot be made without an ancestry network, whatever the other rows learn from."""
        if self.pool is not None:
            return self.pool.learns_from_ancestry()
        return self.inheritance is not None


def read_rows(
    names: tuple[str, ...] | None,
    learngenes: Mapping[str, Any],
    shared: Mapping[str, Any],
    network: NetworkShape,
    depths: tuple[int, ...],
) -> tuple[Row, ...]:
    """Return the rows by their names.

    Args:
        names: Which ones, in which order; None for all.
        learngenes: The tables of those that are trained, each put over the shared sections.
        shared: Sections that all have.
        network: The network that is compared.
        depths: The depths at which it is.

    Raises:
        ConfigError: A name or a table is not valid.
    """
    plain = {method.value: method for method in Method if method not in _TRAINED}
    for name in learngenes:
        if name in plain or not NAME.fullmatch(name):
            raise ConfigError(
                f"learngenes.{name[:80]}", "must be named by lower-case letters, digits and hyphens, as no other row"
            )
    rows = []
    for name in (*plain, *learngenes) if names is None else names:
        if name in plain:
            rows.append(Row(name=name, method=plain[name]))
        elif name in learngenes:
            try:
                rows.append(_trained_row(name, learngenes, shared, network, depths))
            except ConfigError as error:
                place = error.field if error.field.startswith("learngenes.") else f"learngenes.{name}.{error.field}"
                raise ConfigError(place, error.reason) from error
        else:
            raise ConfigError("rows", f"{name[:80]!r} is none of {', '.join((*plain, *learngenes))}")
    if len({row.name for row in rows}) != len(rows) or not rows:
        raise ConfigError("rows", "must be one or more different names")
    return tuple(rows)


def check_table(place: str, value: object) -> Mapping[str, Any]:
    """Return `value`; raises `ConfigError` where it is no table."""
    if not isinstance(value, Mapping):
        raise ConfigError(place, "must be a table of fields")
    return value


def check_inherited(name: str, inheritance: InheritanceConfig, depth: int) -> None:
    """Raise `ConfigError` unless an ancestry of so many layers has those that are to be inherited."""
    layers = inheritance.selection.layers
    if inheritance.selection.count > depth or (layers is not None and layers[-1] >= depth):
        raise ConfigError(f"learngenes.{name}.selection", f"wants layers that an ancestry of {depth} does not have")


def comparable_paths(pool: PoolConfig, network: NetworkShape, depths: tuple[int, ...]) -> dict[int, Path]:
    """Return, by depth, the path whose MACs are nearest to the network's of that depth; of equal ones the first.

    Depths are left out whose MACs no path has but for `COMPARABLE_MACS`. The classifier is left out of the count, so that the
    choice follows from the configuration alone.
    """
    design, vit = pool.design(num_classes=0), network.vit(num_classes=0)
    macs = {member.path: stack_cost(design.stack(member)).macs for member in design.members if member.path is not None}
    found: dict[int, Path] = {}
    for depth in depths:
        wanted = cost(vit, depth).macs
        nearest = min(macs, key=lambda path: abs(macs[path] - wanted))
        if abs(macs[nearest] - wanted) <= COMPARABLE_MACS * wanted:
            found[depth] = nearest
    return found


def _trained_row(
    name: str, learngenes: Mapping[str, Any], shared: Mapping[str, Any], network: NetworkShape, depths: tuple[int, ...]
) -> Row:
    table = check_table(f"learngenes.{name}", learngenes[name])
    if "anchors_of" in table:
        return _pool_of_anchors(name, learngenes, shared, network, depths)
    if "anchors" in table:
        pool = _read_pool(name, table, shared, network)
        return Row(name=name, method=Method.POOL, pool=pool, paths=comparable_paths(pool, network, depths))
    if "selection" in table:
        sections = {section: shared[section] for section in ("training", "augmentation") if section in shared}
        inheritance = InheritanceConfig.from_json(_over(sections, table))
        return Row(name=name, method=Method.INHERITANCE, inheritance=inheritance)
    learngene = LearngeneConfig.from_json(_over(shared, table))
    _check_preprocessing(name, learngene.preprocessing)
    return Row(name=name, method=Method.LEARNGENE, learngene=learngene)


def _check_preprocessing(name: str, own: Preprocessing) -> None:
    if own != Preprocessing():
        raise ConfigError("preprocessing", f"must be left out: that of all rows is used for {name} as well")


def _read_pool(name: str, table: Mapping[str, Any], shared: Mapping[str, Any], network: NetworkShape) -> PoolConfig:
    """Return a pool's configuration; its images and patches are the network's, its widths its own."""
    sections = {section: shared[section] for section in ("training", "augmentation") if section in shared}
    sections["network"] = {field_name: getattr(network, field_name) for field_name in _SHARED_BY_POOLS}
    anchors = table["anchors"]
    rest = {section: values for section, values in table.items() if section != "anchors"}
    pool = PoolConfig.from_json({**_over(sections, rest), "anchors": anchors})
    if pool.network.class_token or any(getattr(pool.network, item) != getattr(network, item) for item in _SHARED_BY_POOLS):
        raise ConfigError("network", "must be that of all rows")
    _check_preprocessing(name, pool.preprocessing)
    return pool


def _pool_of_anchors(
    name: str, learngenes: Mapping[str, Any], shared: Mapping[str, Any], network: NetworkShape, depths: tuple[int, ...]
) -> Row:
    """Return the row of a pool that takes the anchors of another row's, with stitches and joint training of its own."""
    table = dict(learngenes[name])
    other = table.pop("anchors_of")
    unknown = sorted(table.keys() - _OVER_OTHER_ANCHORS)
    if unknown:
        raise ConfigError(unknown[0][:80], "is said by the row whose anchors it takes; stitching and joint may be its own")
    theirs = learngenes.get(other) if isinstance(other, str) else None
    if not isinstance(theirs, Mapping) or "anchors" not in theirs or "anchors_of" in theirs:
        raise ConfigError("anchors_of", f"must name a row that has anchors, not {str(other)[:80]!r}")
    pool = _read_pool(name, _over(theirs, table), shared, network)
    if not pool.stitched:
        raise ConfigError("anchors_of", "is of no use for networks that nothing joins")
    if pool.stitching.init is StitchInit.LEARNED:
        raise ConfigError("stitching.init", f"learned needs the matrices of a distillation: it is for {other} itself")
    return Row(
        name=name,
        method=Method.POOL,
        pool=pool,
        anchors_of=_trained_row(other, learngenes, shared, network, depths),
        paths=comparable_paths(pool, network, depths),
    )


def _over(sections: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections with others put over them, field by field; lists are replaced."""
    merged = dict(sections)
    for section, values in own.items():
        if isinstance(values, list):
            merged[section] = values
        else:
            merged[section] = dict(check_table(section, merged.get(section, {}))) | dict(check_table(section, values))
    return merged
