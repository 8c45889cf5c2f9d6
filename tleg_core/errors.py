"""The errors of the core, as one tree.

    TlegError
    ├── ConfigError             a value outside its limits; names the field
    │   └── PictureError        a picture of a data set that cannot be read; names it
    ├── LearngeneFileError      a learngene file that cannot be trusted
    │   └── LearngeneDigestError
    ├── BudgetInfeasibleError   no member fits; names the binding limit and the nearest member
    ├── RangeError              a byte range outside a file
    ├── ImageFileError          a data set file that cannot be trusted
    └── CheckpointError         a training checkpoint or foreign weights that cannot be used

The default message is the class docstring; facts are attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tleg_core.budget import Candidate


class TlegError(Exception):
    """Something in tleg went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or type(self).__name__)


class ConfigError(TlegError):
    """A value is outside its limits."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = message

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.field, self.reason)  # it comes from other processes too


class PictureError(ConfigError):
    """A picture of the data set cannot be read."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__("data", f"{name} {problem}")
        self.name = name
        self.problem = problem

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.name, self.problem)


class LearngeneFileError(TlegError):
    """The learngene file cannot be used."""

    def __init__(self, source: str, message: str) -> None:
        super().__init__(f"{source}: {message}")
        self.source = source
        self.reason = message


class LearngeneDigestError(LearngeneFileError):
    """The learngene's content does not match its digest."""


class BudgetInfeasibleError(TlegError):
    """No member fits the budget.

    Attributes:
        exceeded: The limits that the nearest member breaks, by name, the worst first.
        nearest: The member that breaks the fewest limits, and of those the worst one least.
    """

    def __init__(self, *, exceeded: Mapping[str, int], nearest: Candidate) -> None:
        self.exceeded = exceeded
        self.nearest = nearest
        broken = " and ".join(
            f"{name} is {limit:,} and it has {nearest.constraint_value(name):,}" for name, limit in exceeded.items()
        )
        super().__init__(f"no member fits; the nearest is {nearest.learngene} {nearest.member.label}: {broken}")

    @property
    def binding_constraint(self) -> str:
        """The limit that the nearest member breaks worst."""
        return next(iter(self.exceeded))

    @property
    def limit(self) -> int:
        """What the budget set for the binding constraint."""
        return self.exceeded[self.binding_constraint]

    @property
    def required(self) -> int:
        """What the nearest member has there."""
        return self.nearest.constraint_value(self.binding_constraint)


class RangeError(TlegError):
    """A byte range lies outside the file."""


class ImageFileError(TlegError):
    """The data set file cannot be used."""

    def __init__(self, source: str, message: str) -> None:
        super().__init__(f"{source}: {message}")
        self.source = source
        self.reason = message


class CheckpointError(TlegError):
    """The checkpoint cannot be used."""
