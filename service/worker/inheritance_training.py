"""The choice of an ancestry model's layers in the engine, and the learngene that inherits them.

How a rule looks at the layers is `tleg_core.training.inheritance_run`'s business.

Shape legend: B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from service.domain.dataset import Dataset
from service.domain.model import Model
from service.domain.training import provenance_of
from service.worker.protocol import TrainingRun
from service.worker.run_reporter import Reporter
from service.worker.state_keeper import StateKeeper
from service.worker.training_images import TrainingImages
from service.worker.workbench import Workbench
from tleg_core.description import Measurement
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.family import Family, Variation
from tleg_core.image_source import ImagePart
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene import Learngene
from tleg_core.recipe import Member
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.errors import MeasurementStoppedError, TrainingInterruptedError
from tleg_core.training.inheritance_run import Inheritance, choose_layers, inherited_learngene
from tleg_core.training.layer_stability import stability_steps
from tleg_core.training.loop import Wish
from tleg_core.training.network import DeviceLearngene, Network
from tleg_core.training.preprocessing import prepare


class InheritanceTraining:
    """One choice of layers.

    Args:
        run: The order.
        config: Its configuration, the precision decided.
        bench: What the engine holds.
        keeper: Keeps the states.
        reporter: Is told how it goes.
        wish: Says whether to stop.

    Raises:
        ConfigError: The order names no model.
    """

    def __init__(
        self,
        run: TrainingRun,
        config: InheritanceConfig,
        bench: Workbench,
        *,
        keeper: StateKeeper,
        reporter: Reporter,
        wish: Callable[[], Wish],
    ) -> None:
        if run.teacher is None:
            raise ConfigError("teacher", "is needed: its layers are what is inherited")
        self._run, self._config, self._bench, self._reporter, self._wish = run, config, bench, reporter, wish
        model, dataset = Model.from_json(run.teacher), Dataset.from_json(run.dataset)
        preprocessing = bench.preprocessing(model)
        self.images = TrainingImages(
            dataset,
            bench,
            img_size=model.config.img_size,
            preprocessing=preprocessing,
            holdout=run.settings["holdout"],
            seed=config.training.seed,
            wish=wish,
        )
        self._data = ImagePart(self.images.file, self.images.rows.numpy(), self.images.name)
        self._ancestry = AncestryVit(
            config=model.config,
            depth=model.stack.depth,
            weights={name: tensor.cpu() for name, tensor in bench.weights(model).items()},
            preprocessing=preprocessing,
            identity=model.id,
            class_names=self.images.class_names,
        )
        self._provenance = provenance_of(
            dataset, config, name=run.name, images=self.images.count, teacher=model.id, licence=run.licence
        )
        self._keeper = _KeepsTheEnd(keeper, self.steps)
        self._resume = False

    def begin(self) -> None:
        """Begin at the first update."""
        self._resume = False

    def load(self) -> None:
        """Go on from the kept state; raises `CheckpointError`."""
        self._keeper.read()
        self._resume = True

    @property
    def steps(self) -> int:
        """Updates in all."""
        training = self._config.training
        if self._config.stability is not None:
            return stability_steps(self._data.labels, self._config.stability, training)
        return self.images.count // training.batch_size * self.epochs

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self._config.total_epochs

    def run(self) -> Learngene:
        """Choose the layers and return the learngene, every depth measured; raises what the training does."""
        try:
            inheritance = self._chosen()
        except CheckpointError:
            if not self._resume:
                raise
            self._reporter.note("the saved state cannot be used; training begins again, to the same result")
            self._resume = False
            inheritance = self._chosen()
        learngene = inherited_learngene(self._run.name, self._config, self._ancestry, inheritance, self._provenance)
        return learngene.with_description(accuracy=self._measured(learngene))

    def metrics_of(self, learngene: Learngene) -> dict[str, float]:
        """Return what was measured of every depth, by the names of metrics; `top1` is the largest depth's."""
        measured = {entry.depth: entry.top1 for entry in learngene.description.accuracy}
        return {f"top1_depth_{depth}": top1 for depth, top1 in measured.items()} | {"top1": measured[max(measured)]}

    def _chosen(self) -> Inheritance:
        return choose_layers(
            self._config,
            self._ancestry,
            self._data,
            keeper=self._keeper,
            observer=self._reporter,
            device=self._bench.device,
            wish=self._wish,
            resume=self._resume,
            workers=0,
        )

    def _measured(self, learngene: Learngene) -> tuple[Measurement, ...]:
        """Classify the held-out images at every depth that is offered, as a user gets it with seed 0."""
        family = Family(learngene)
        held = DeviceLearngene(family, self._bench.device)
        try:
            return tuple(self.images.measured(member, self._logits_of(family, held, member)) for member in family.members)
        except MeasurementStoppedError:
            raise TrainingInterruptedError("stopped while every depth was measured") from None

    def _logits_of(self, family: Family, held: DeviceLearngene, member: Member) -> Callable[[Tensor], Tensor]:
        recipe, stack = family.recipe(member, Variation()), family.stack(member)
        plain = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=recipe.num_classes)
        network = plain.load(held.expand(recipe), drop_path=0.0, device=self._bench.device).eval().requires_grad_(False)
        ancestry = self._ancestry
        return lambda images: network(prepare(images, ancestry.config.img_size, ancestry.preprocessing))


@dataclass(frozen=True, slots=True)
class _KeepsTheEnd:
    """A keeper that wants the last state too: whoever is stopped while members are measured goes on from there."""

    keeper: StateKeeper
    steps: int

    def __str__(self) -> str:
        """Return what the keeper is called."""
        return str(self.keeper)

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether it is the last, or it is time."""
        return step == self.steps or self.keeper.due(step, ends_epoch=ends_epoch)

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep it."""
        self.keeper.keep(checkpoint, step)

    def read(self) -> Checkpoint:
        """Return the state to go on from."""
        return self.keeper.read()
