"""The port that every design is: all that the file, the family and the service need to know of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tleg_core.recipe import Member
from tleg_core.stack import Stack
from tleg_core.tensor_source import Array, TensorSource
from tleg_core.vit import Shape, TensorSpec, VitConfig


class Design(Protocol):
    """What a learngene's file holds, and which networks are made of it."""

    @property
    def config(self) -> VitConfig:
        """The network without its depth: its widest one, where widths change; image, patches and classes are all members'."""
        ...

    @property
    def members(self) -> tuple[Member, ...]:
        """Every member."""
        ...

    def tensor_shapes(self) -> dict[str, Shape]:
        """Return every tensor of the file with its shape, in the file's order."""
        ...

    def check(self, member: Member, /) -> None:
        """Raise `ConfigError` unless there is that member."""
        ...

    def draws(self, member: Member, /) -> bool:
        """Whether anything of the member but its head is drawn with the recipe's seed."""
        ...

    def stack(self, member: Member, /) -> Stack:
        """Return the member's network."""
        ...

    def source(self, spec: TensorSpec, member: Member, tensors: Mapping[str, Array], seed: int, /) -> TensorSource:
        """Return where a tensor of the member's network comes from: of `tensors`, the file's, or drawn with `seed`."""
        ...

    def core_json(self) -> dict[str, Any]:
        """Return what decides a descendant's weights, beside the tensors: the digest covers it."""
        ...

    def rest_json(self) -> dict[str, Any]:
        """Return what else the description says of the design."""
        ...
