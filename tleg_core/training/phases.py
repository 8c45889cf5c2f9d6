"""A run in several phases, each with a trainer of its own, that keeps one checkpoint and tells of one progress.

A checkpoint holds what earlier phases made beside the state of the one that runs; between two phases it holds the former alone.
So a run goes on from a single file, wherever that is kept, and no phase is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from tleg_core.errors import CheckpointError
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.keeper import Keeper
from tleg_core.training.observer import EpochReport, Observer, StepReport

_DONE, _RUN = "done", "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Args:
        phase: Phases that are finished.
        done: What they made, by name.
        run: The state of the next phase's trainer; None at its beginning.
    """

    phase: int = 0
    done: Mapping[str, Tensor] = field(default_factory=dict)
    run: Checkpoint | None = None

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the finished tensors below `prefix.`, without it."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.done.items() if name.startswith(f"{prefix}.")}

    def finished(self, made: Mapping[str, Tensor], *, instead: bool = False) -> Progress:
        """Return the beginning of the next phase, this one having made more, or something `instead` of all before."""
        return Progress(phase=self.phase + 1, done=dict(made) if instead else {**self.done, **made})

    def checkpoint(self, identity: Mapping[str, Any]) -> Checkpoint:
        """Return it as a checkpoint of the run that `identity` names."""
        tensors = {f"{_DONE}.{name}": tensor for name, tensor in self.done.items()}
        facts: dict[str, Any] = {"phase": self.phase, "identity": identity, "run": None}
        if self.run is not None:
            tensors |= {f"{_RUN}.{name}": tensor for name, tensor in self.run.tensors.items()}
            facts["run"] = self.run.facts
        return Checkpoint(tensors=tensors, facts=facts)

    @classmethod
    def read(cls, keeper: Keeper, identity: Mapping[str, Any]) -> Progress:
        """Return what a keeper has.

        Raises:
            CheckpointError: There is nothing, it is broken, or it is of another run (the difference is named).
        """
        kept = keeper.read()
        try:
            phase, before, facts = int(kept.facts["phase"]), kept.facts["identity"], kept.facts["run"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{keeper} is no checkpoint of a run in phases") from error
        changed = sorted(name for name in before.keys() | identity.keys() if before.get(name) != identity.get(name))
        if changed:
            details = "; ".join(f"{name} was {before.get(name)}, is {identity.get(name)}" for name in changed)
            raise CheckpointError(f"{keeper} is of another run: {details}")
        run = None if facts is None else Checkpoint(tensors=kept.part(_RUN), facts=facts)
        return cls(phase=phase, done=kept.part(_DONE), run=run)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a phase stands within the run: updates and epochs before it, and of all phases together."""

    steps_before: int
    epochs_before: int
    steps: int
    epochs: int


class PhaseKeeper:
    """The keeper of one phase's trainer: keeps what earlier phases made with every checkpoint."""

    def __init__(self, keeper: Keeper, progress: Progress, identity: Mapping[str, Any], span: Span) -> None:
        self._keeper, self._progress, self._identity, self._span = keeper, progress, identity, span

    def __str__(self) -> str:
        """Return what the run's keeper is called."""
        return str(self._keeper)

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether the run's keeper wants one."""
        return self._keeper.due(self._span.steps_before + step, ends_epoch=ends_epoch)

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep the phase's state with the rest."""
        whole = replace(self._progress, run=checkpoint).checkpoint(self._identity)
        self._keeper.keep(whole, self._span.steps_before + step)

    def read(self) -> Checkpoint:
        """Return the state that the phase goes on from."""
        if self._progress.run is None:
            raise CheckpointError(f"{self} has no state of this phase")
        return self._progress.run


class PhaseObserver:
    """Tells of a phase's progress as part of the run's."""

    def __init__(self, observer: Observer, span: Span) -> None:
        self._observer, self._span = observer, span

    def stepped(self, report: StepReport) -> None:
        """Pass it on, counted from the run's beginning."""
        span = self._span
        self._observer.stepped(
            replace(report, epoch=span.epochs_before + report.epoch, step=span.steps_before + report.step, steps=span.steps)
        )

    def epoch_done(self, report: EpochReport) -> None:
        """Pass it on, counted from the run's beginning."""
        span = self._span
        self._observer.epoch_done(
            replace(report, epoch=span.epochs_before + report.epoch, epochs=span.epochs, step=span.steps_before + report.step)
        )

    def note(self, message: str) -> None:
        """Pass it on."""
        self._observer.note(message)
