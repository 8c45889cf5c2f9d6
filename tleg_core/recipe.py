"""The recipe: the complete, canonical description of a descendant's file. Its digest is the model's id.

Two requests that lead to the same bytes have the same recipe, on any machine; so whatever has no influence on the bytes (a seed
where nothing is drawn) does not stand in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from tleg_core.canonical import Json, canonical_json, sha256_hex
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.path import Path

RECIPE_FORMAT = 1
MAX_SEED = 2**63 - 1


class Head(StrEnum):
    """Where the classifier's weights come from."""

    INHERIT = "inherit"
    ZERO = "zero"
    RANDOM = "random"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a family: of a depth, or, in a pool, along a path.

    Args:
        depth: Number of blocks.
        path: Which blocks, where several members may have one depth.
    """

    depth: int
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.path.depth != self.depth:
            raise ConfigError("path", f"{self.path} has {self.path.depth} blocks, not {self.depth}")

    @classmethod
    def along(cls, path: Path) -> Self:
        """Return the member of that path."""
        return cls(depth=path.depth, path=path)

    @property
    def label(self) -> str:
        """A short readable name, such as `d7` or `p0.0-7_1.8-11`."""
        return f"d{self.depth}" if self.path is None else f"p{self.path}"

    @property
    def order(self) -> tuple[int, str]:
        """The place in a total order, so that ties end alike everywhere."""
        return self.depth, "" if self.path is None else str(self.path)

    def to_json(self) -> dict[str, int | str]:
        """Return the member as a JSON object: its depth, or its path."""
        return {"depth": self.depth} if self.path is None else {"path": str(self.path)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; raises `ConfigError` where it is another."""
        match dict(value):
            case {"depth": int(depth), **rest} if not rest and not isinstance(depth, bool):
                return cls(depth=depth)
            case {"path": str(text), **rest} if not rest:
                return cls.along(Path.parse(text))
            case _:
                raise ConfigError("member", "must have either a whole depth or a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What determines a descendant's file.

    Args:
        learngene: The learngene's digest, 64 hex digits.
        member: Which member of the family.
        num_classes: Outputs of the head; 0 for none.
        head: Where the head's weights come from; `none` if and only if `num_classes` is 0.
        seed: Of the random draws: a random head's, and fresh layers'; None where nothing is drawn.
        img_size: Side of the input image, in pixels.
        dtype: Element type of the file.
    """

    learngene: str
    member: Member
    num_classes: int
    head: Head
    seed: int | None
    img_size: int
    dtype: DType

    def __post_init__(self) -> None:
        if (self.head is Head.NONE) != (self.num_classes == 0):
            raise ConfigError("head", "'none' goes with num_classes 0, and any other head with classes")
        if self.head is Head.RANDOM and self.seed is None:
            raise ConfigError("seed", "is needed by a random head")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ConfigError("seed", f"must be from 0 to {MAX_SEED}, not {self.seed}")

    def to_json(self) -> dict[str, Json]:
        """Return the recipe as a JSON object."""
        return {
            "format": RECIPE_FORMAT,
            "learngene": self.learngene,
            "member": self.member.to_json(),
            "num_classes": self.num_classes,
            "head": self.head.value,
            "seed": self.seed,
            "img_size": self.img_size,
            "dtype": self.dtype.value,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read `to_json`'s object, as our own store returns it."""
        if value["format"] != RECIPE_FORMAT:
            raise ConfigError("format", f"is version {value['format']!r}; this version of tleg reads {RECIPE_FORMAT}")
        return cls(
            learngene=value["learngene"],
            member=Member.from_json(value["member"]),
            num_classes=value["num_classes"],
            head=Head(value["head"]),
            seed=value["seed"],
            img_size=value["img_size"],
            dtype=DType(value["dtype"]),
        )

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON, 64 hex digits."""
        return sha256_hex(canonical_json(self.to_json()))

    @property
    def model_id(self) -> str:
        """The model's id: `m-` and the digest's first 32 hex digits."""
        return f"m-{self.digest[:32]}"
