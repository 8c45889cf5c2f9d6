"""The errors of the core, as one tree.

    TlegError
    ├── ConfigError             a value outside its limits; names the field
    ├── LearngeneFileError      a learngene file that cannot be trusted
    │   └── LearngeneDigestError
    ├── BudgetInfeasibleError   no member fits; names the binding limit and the nearest member
    ├── RangeError              a byte range outside a file
    └── CheckpointError         a training checkpoint or foreign weights that cannot be used

The default message is the class docstring; facts are attributes.
"""

from __future__ import annotations

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


class LearngeneFileError(TlegError):
    """The learngene file cannot be used."""

    def __init__(self, source: str, message: str) -> None:
        super().__init__(f"{source}: {message}")
        self.source = source
        self.reason = message


class LearngeneDigestError(LearngeneFileError):
    """The learngene's content does not match its digest."""


class BudgetInfeasibleError(TlegError):
    """No member fits the budget."""

    def __init__(self, *, binding_constraint: str, limit: float, nearest: Candidate) -> None:
        self.binding_constraint = binding_constraint
        self.limit = limit
        self.nearest = nearest
        self.required = nearest.constraint_value(binding_constraint)
        super().__init__(
            f"no member fits: {binding_constraint} is {limit:,} and the nearest member, "
            f"{nearest.learngene} {nearest.member.label}, has {self.required:,}"
        )


class RangeError(TlegError):
    """A byte range lies outside the file."""


class CheckpointError(TlegError):
    """The checkpoint cannot be used."""
