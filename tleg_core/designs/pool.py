"""The pool: whole networks of several widths, the anchors, and the stitches between their blocks; a member is a path.

Sources: Learngene Pool (arXiv 2312.05743), SN-Net (arXiv 2302.06586). What distinguishes them is how the anchors and stitches
came about; a pool without stitches is a set of networks that were trained one by one.

Shape legend: D_a width of anchor a.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from tleg_core.errors import ConfigError
from tleg_core.path import MAX_ANCHORS, Path, Segment
from tleg_core.recipe import Member
from tleg_core.stack import Stack, Stage, stitch_shapes
from tleg_core.tensor_source import Array, Copied, TensorSource
from tleg_core.vit import Shape, TensorSpec, VitConfig, check_depth, inventory

MAX_STITCHES = 4096
"""Stitches, and paths, that a pool may have."""

MAX_BLOCKS = 2000
"""Blocks of all anchors together: with as many, and as many stitches as there may be, a file's header is below its limit."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One whole network of the pool: a short name, its configuration, and its number of blocks."""

    name: str
    config: VitConfig
    depth: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError("anchors.name", f"must be lower-case letters, digits and hyphens, not {str(self.name)[:80]!r}")
        if not isinstance(self.depth, int) or isinstance(self.depth, bool):
            raise ConfigError("anchors.depth", "must be a whole number")
        check_depth(self.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stitch:
    """A linear layer from one anchor's width to another's, and the places where it is put.

    Args:
        source: The anchor before it.
        target: The anchor after it.
        joins: Pairs (j, k): it maps the output of the source's block j to the input of the target's block k.
    """

    source: int
    target: int
    joins: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Anchors, stitches, and the stitched paths that are members beside the anchors.

    Args:
        anchors: The networks, in the order that paths count them in.
        stitches: The layers between them.
        paths: The stitched members.

    Raises:
        ConfigError: Something is not there that another names, stands twice, or two anchors differ in what they must share.
    """

    anchors: tuple[Anchor, ...]
    stitches: tuple[Stitch, ...] = ()
    paths: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.anchors) <= MAX_ANCHORS:
            raise ConfigError("anchors", f"must be 1 to {MAX_ANCHORS}, not {len(self.anchors)}")
        if len({anchor.name for anchor in self.anchors}) < len(self.anchors):
            raise ConfigError("anchors", "two have the same name")
        blocks = sum(anchor.depth for anchor in self.anchors)
        if blocks > MAX_BLOCKS:
            raise ConfigError("anchors", f"must have at most {MAX_BLOCKS:,} blocks together, not {blocks:,}")
        Stack(tuple(Stage(config=anchor.config, depth=1) for anchor in self.anchors[:16]))
        for anchor in self.anchors[16:]:
            Stack((Stage(config=self.anchors[0].config, depth=1), Stage(config=anchor.config, depth=1)))
        if max(len(self.stitches), len(self.paths)) > MAX_STITCHES:
            raise ConfigError("stitches", f"and paths must be at most {MAX_STITCHES} each")
        for stitch in self.stitches:
            self._check_stitch(stitch)
        if len(self._stitches) < sum(len(stitch.joins) for stitch in self.stitches):
            raise ConfigError("stitches", "join two blocks twice")
        if len(set(self.paths)) < len(self.paths):
            raise ConfigError("paths", "one stands twice")
        for path in self.paths:
            if len(path.segments) < 2:
                raise ConfigError("paths", f"{path} is not stitched; whole anchors are members without being named")
            self._check_path(path)

    def _check_stitch(self, stitch: Stitch) -> None:
        count = len(self.anchors)
        if not (0 <= stitch.source < count and 0 <= stitch.target < count) or stitch.source == stitch.target:
            raise ConfigError("stitches", f"must join two different anchors of 0 to {count - 1}")
        if not stitch.joins:
            raise ConfigError("stitches", "one joins nothing")
        for before, after in stitch.joins:
            if not (0 <= before < self.anchors[stitch.source].depth and 0 <= after < self.anchors[stitch.target].depth):
                raise ConfigError("stitches", f"join block {before} to block {after}, which the anchors do not have")

    def _check_path(self, path: Path) -> None:
        for segment in path.segments:
            if segment.anchor >= len(self.anchors) or segment.last >= self.anchors[segment.anchor].depth:
                raise ConfigError("path", f"{path} names blocks that the pool does not have")
        end = path.segments[-1]
        if path.segments[0].first != 0 or end.last != self.anchors[end.anchor].depth - 1:
            raise ConfigError("path", f"{path} must begin with an anchor's first block and end with an anchor's last")
        for before, after in path.joins:
            self.stitch_between(before, after)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `core_json`'s value.

        Raises:
            ConfigError: A field is missing, extra or wrong.
        """
        pool = _object(value, "pool", "anchors", "stitches", "paths")
        anchors = [_object(item, "anchors", "name", "config", "depth") for item in _list(pool, "anchors", MAX_ANCHORS)]
        stitches = [_object(item, "stitches", "source", "target", "joins") for item in _list(pool, "stitches", MAX_STITCHES)]
        paths = _list(pool, "paths", MAX_STITCHES)
        if not all(isinstance(text, str) for text in paths):
            raise ConfigError("paths", "must be texts such as 0.0-7_1.8-11")
        return cls(
            anchors=tuple(
                Anchor(name=item["name"], config=VitConfig.from_json(item["config"]), depth=item["depth"]) for item in anchors
            ),
            stitches=tuple(
                Stitch(source=_whole(item["source"]), target=_whole(item["target"]), joins=_joins(item["joins"]))
                for item in stitches
            ),
            paths=tuple(map(Path.parse, paths)),
        )

    def __str__(self) -> str:
        """Return the design in words."""
        anchors = ", ".join(f"{item.name} (width {item.config.embed_dim}, depth {item.depth})" for item in self.anchors)
        return f"anchors {anchors}; {len(self.stitches)} stitches, {len(self.paths)} stitched paths"

    @property
    def config(self) -> VitConfig:
        """The widest anchor's configuration; of equally wide ones the last one's."""
        return max(enumerate(self.anchors), key=lambda item: (item[1].config.embed_dim, item[0]))[1].config

    def whole(self, anchor: int) -> Path:
        """Return the path that is one whole anchor."""
        return Path((Segment(anchor, 0, self.anchors[anchor].depth - 1),))

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The whole anchors, then the stitched paths."""
        wholes = [self.whole(anchor) for anchor in range(len(self.anchors))]
        return tuple(Member.along(path) for path in (*wholes, *self.paths))

    @cached_property
    def _stitches(self) -> dict[tuple[int, int, int, int], int]:
        """Which stitch stands between a block of an anchor and one of another: (anchor, block, anchor, block) to its index."""
        return {
            (stitch.source, before, stitch.target, after): index
            for index, stitch in enumerate(self.stitches)
            for before, after in stitch.joins
        }

    @cached_property
    def _known(self) -> frozenset[Member]:
        return frozenset(self.members)

    def stitch_between(self, before: Segment, after: Segment) -> int:
        """Return which stitch joins two segments.

        Raises:
            ConfigError: None does.
        """
        place = (before.anchor, before.last, after.anchor, after.first)
        if place not in self._stitches:
            raise ConfigError("path", "no stitch joins block {1} of anchor {0} to block {3} of anchor {2}".format(*place))
        return self._stitches[place]

    def tensor_shapes(self) -> dict[str, Shape]:
        """Return every tensor of the file: `anchors.{a}.<timm's name>`, `stitches.{n}.weight` (D_target, D_source), `bias`."""
        shapes: dict[str, Shape] = {}
        for index, anchor in enumerate(self.anchors):
            shapes |= {f"anchors.{index}.{spec.name}": spec.shape for spec in inventory(anchor.config, anchor.depth)}
        for index, stitch in enumerate(self.stitches):
            parts = stitch_shapes(self.anchors[stitch.source].config, self.anchors[stitch.target].config)
            shapes |= {f"stitches.{index}.{part}": shape for part, shape in parts.items()}
        return shapes

    def check(self, member: Member) -> None:
        """Raise `ConfigError` unless there is that member."""
        self._path_of(member)

    def _path_of(self, member: Member) -> Path:
        if member.path is None:
            raise ConfigError("depth", f"does not name a member of a pool; a path does, such as {self.members[0].path}")
        if member not in self._known:
            raise ConfigError("path", f"{member.path} is none of this pool's {len(self.members)} members")
        return member.path

    def draws(self, _member: Member) -> bool:
        """Nothing is drawn."""
        return False

    def stack(self, member: Member) -> Stack:
        """Return the network that runs along the member's path."""
        segments = self._path_of(member).segments
        return Stack(tuple(Stage(config=self.anchors[item.anchor].config, depth=item.depth) for item in segments))

    def source(self, spec: TensorSpec, member: Member, tensors: Mapping[str, Array], _seed: int) -> TensorSource:
        """Return the stored tensor: the first anchor's stem, the last one's norm and head, their blocks, the stitches."""
        name = self._stored_name(spec, member)
        return Copied(name, tensors[name].reshape(-1))

    def _stored_name(self, spec: TensorSpec, member: Member) -> str:
        path = self._path_of(member)
        if spec.layer is not None:
            anchor, block = path.block(spec.layer)
            return f"anchors.{anchor}.blocks.{block}.{spec.part}"
        if spec.name.startswith("stitches."):
            _, index, part = spec.name.split(".")
            return f"stitches.{self.stitch_between(*path.joins[int(index)])}.{part}"
        end = path.segments[-1 if spec.name.startswith(("norm.", "head.")) else 0]
        return f"anchors.{end.anchor}.{spec.name}"

    def core_json(self) -> dict[str, Any]:
        """Return anchors, stitches and paths."""
        anchors = [{"name": item.name, "config": item.config.to_json(), "depth": item.depth} for item in self.anchors]
        stitches = [
            {"source": item.source, "target": item.target, "joins": [list(join) for join in item.joins]}
            for item in self.stitches
        ]
        return {"pool": {"anchors": anchors, "stitches": stitches, "paths": [str(path) for path in self.paths]}}

    def rest_json(self) -> dict[str, Any]:
        """Return nothing further."""
        return {}


def _object(value: object, name: str, *keys: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or value.keys() != set(keys):
        raise ConfigError(name, f"must be an object with exactly {', '.join(keys)}")
    return value


def _list(value: Mapping[str, Any], name: str, limit: int) -> list[Any]:
    """Return a list that is not too long, before anything is made of its items."""
    items = value[name]
    if not isinstance(items, list) or len(items) > limit:
        raise ConfigError(name, f"must be a list of at most {limit}")
    return items


def _joins(value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise ConfigError("stitches.joins", "must be a list of pairs of blocks")
    return tuple((_whole(before), _whole(after)) for before, after in value)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError("stitches", f"blocks and anchors must be whole numbers, not {str(value)[:80]!r}")
    return value
