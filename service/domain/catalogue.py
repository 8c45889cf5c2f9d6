"""The catalogue: the families a server holds, and the choice among them that a request asks for.

It never changes. Where learngenes come and go, another one takes its place (`service.storage.learngene_registry`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from service.domain.errors import LearngeneNotFoundError, LearngeneNotLoadedError
from service.domain.model import Model, Selection, Usage
from tleg_core.budget import Budget, Candidate, Objective, solve
from tleg_core.canonical import sha256_hex
from tleg_core.description import Method
from tleg_core.designs.scratch import Scratch
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation
from tleg_core.recipe import Head, Member

_KEPT_ANSWERS = 4096  # of requests, and of members by name; a kilobyte or two each


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What a user asks for: limits, and what to change of the network."""

    budget: Budget = field(default_factory=Budget)
    variation: Variation = field(default_factory=Variation)
    learngene: str | None = None
    method: Method | None = None
    objective: Objective = Objective.ACCURACY
    accuracy_on: str | None = None
    head: Head | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "variation", self.variation.with_head(self.head))  # what is budgeted is what is made


class Source(StrEnum):
    """How a learngene came to this server."""

    SHIPPED = "shipped"
    """With the package."""
    CONFIGURED = "configured"
    """Named by the operator."""
    PUBLISHED = "published"
    """Over HTTP, or by a job, while the server ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a learngene's file comes from: its sha256, and when it was published if it was."""

    source: Source
    sha256: str
    published_at: datetime | None = None


class Catalogue:
    """Families by name and by digest.

    Args:
        families: The learngenes that are served.
        origins: Where they come from, by name; those that are not in it are the operator's.
        spare: Families by digest that are not served, but from which recorded models are made; it may change meanwhile.

    Raises:
        ConfigError: Two learngenes share a name or a digest.
    """

    def __init__(
        self,
        families: Iterable[Family],
        origins: Mapping[str, Origin] | None = None,
        spare: Mapping[str, Family] | None = None,
    ) -> None:
        self.families = tuple(families)
        self._origins = dict(origins or {})
        self._spare = {} if spare is None else spare
        for kind, keys in (
            ("name", [item.name for item in self.families]),
            ("digest", [item.digest for item in self.families]),
        ):
            twice = [key for key, count in Counter(keys).items() if count > 1]
            if twice:
                those = sorted({item.name for item in self.families if twice[0] in (item.name, item.digest)})
                raise ConfigError("learngene", f"two have the {kind} {twice[0][:64]} ({', '.join(those)}); leave one out")
        self._by_name = {family.name: family for family in self.families}
        self._by_digest = {family.digest: family for family in self.families}
        self._sizes = {item.name: len(item.members) + len(item.learngene.description.accuracy) for item in self.families}
        self._answers: dict[ModelRequest, Selection] = {}
        self._answering = threading.Lock()
        self.default_model = lru_cache(maxsize=_KEPT_ANSWERS)(self._default_model)

    def family(self, name: str) -> Family:
        """Return the family of that name; raises `LearngeneNotFoundError`."""
        if name not in self._by_name:
            raise LearngeneNotFoundError(name, sorted(self._by_name))
        return self._by_name[name]

    def family_by_digest(self, digest: str) -> Family | None:
        """Return the family of the learngene with that digest, if it is loaded, served or not."""
        return self._by_digest.get(digest) or self._spare.get(digest)

    def __contains__(self, name: str) -> bool:
        """Whether a learngene of that name is served."""
        return name in self._by_name

    def origin(self, name: str) -> Origin:
        """Return where a learngene's file comes from; raises `LearngeneNotFoundError`."""
        family = self.family(name)
        if name not in self._origins:
            self._origins[name] = Origin(source=Source.CONFIGURED, sha256=sha256_hex(family.learngene.content))
        return self._origins[name]

    def size(self, learngene: str | None = None) -> int:
        """Return how many members and measured accuracies a learngene has, or all together; 0 where there is none so named."""
        return sum(self._sizes.values()) if learngene is None else self._sizes.get(learngene, 0)

    def current(self, model: Model) -> Model:
        """Return a recorded model with what its learngene says now, where the learngene is here.

        The learngene may have another name, and of an expanded model another measured accuracy.
        """
        family = self.family_by_digest(model.recipe.learngene)
        if family is None:
            return model
        accuracy = family.accuracy_of(model.recipe) if model.fine_tuning is None else model.accuracy
        return replace(model, learngene=family.name, accuracy=accuracy)

    def usage(self, model: Model) -> Usage:
        """Return what the users of a model must know: a fine-tuned one says it, an expanded one's learngene does.

        Raises:
            LearngeneNotLoadedError: The learngene is needed and is not here.
        """
        tuned = model.fine_tuning
        if tuned is not None:
            return Usage(preprocessing=tuned.preprocessing, class_names=tuned.class_names, licence=tuned.licence)
        family = self.family_by_digest(model.recipe.learngene)
        if family is None:
            raise LearngeneNotLoadedError(model.learngene, model.recipe.learngene)
        description = family.learngene.description
        return Usage(
            preprocessing=description.preprocessing,
            class_names=description.class_names if model.recipe.head is Head.INHERIT else (),
            licence=description.provenance.licence,
        )

    def candidates(self, request: ModelRequest | None = None) -> tuple[Candidate, ...]:
        """Return every member among which the request chooses (all without one), with its costs under the request.

        Networks from scratch are an answer only to who asks for them, by method or name.

        Raises:
            ConfigError: No such learngene or method, or none that can be varied so.
        """
        if request is None:
            return tuple(candidate for family in self.families for candidate in family.candidates(Variation()))
        families = [
            family
            for family in self.families
            if request.learngene in (None, family.name) and request.method in (None, family.learngene.description.method)
        ]
        if not families:
            known = ", ".join(f"{family.name} ({family.learngene.description.method})" for family in self.families)
            field_name = "learngene" if request.learngene is not None else "method"
            raise ConfigError(field_name, f"nothing served matches; there is {known or 'no learngene'}")
        if request.learngene is None and request.method is None:
            families = [
                family for family in families if not isinstance(family.learngene.description.design, Scratch)
            ] or families
        variable = self._variable(families, request.variation, head=request.head)
        return tuple(candidate for family in variable for candidate in family.candidates(request.variation))

    def _default_model(self, name: str, member: Member) -> Model:
        """Return one member of one family as it is, nothing changed.

        Raises:
            LearngeneNotFoundError: No such learngene.
            ConfigError: No such member.
        """
        family = self.family(name)
        return Model.of(family, family.recipe(member, Variation()))

    def known(self, request: ModelRequest) -> Selection | None:
        """Return `resolve`'s answer where it is at hand."""
        return self._answers.get(request)

    def resolve(self, request: ModelRequest) -> Selection:
        """Return the best model within the request's budget; the answer is kept. Threads may ask at the same time.

        Raises:
            ConfigError: No such learngene or method, or none that can be varied so.
            BudgetInfeasibleError: Nothing fits.
        """
        answer = self.known(request)
        if answer is None:
            choice = solve(request.budget, self.candidates(request), request.objective, request.accuracy_on)
            family = self._by_name[choice.candidate.learngene]
            recipe = family.recipe(choice.candidate.member, request.variation, head=request.head, seed=request.seed)
            answer = Selection(model=Model.of(family, recipe), choice=choice)
            with self._answering:
                if len(self._answers) >= _KEPT_ANSWERS:
                    del self._answers[next(iter(self._answers))]
                self._answers[request] = answer
        return answer

    @staticmethod
    def _variable(families: Iterable[Family], variation: Variation, head: Head | None = None) -> list[Family]:
        """Return the families that can be varied so; where none can, the first one's reason is raised."""
        variable: list[Family] = []
        refusal: ConfigError | None = None
        for family in families:
            try:
                family.recipe(family.members[0], variation, head=head)
                variable.append(family)
            except ConfigError as error:
                refusal = refusal or error
        if not variable and refusal is not None:
            raise refusal
        return variable
