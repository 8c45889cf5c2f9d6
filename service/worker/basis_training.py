"""The training of a basis in the engine: an auxiliary model whose layers are made of few components (TLEG and its kin).

Shape legend: B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from service.domain.dataset import Dataset
from service.domain.model import Model
from service.domain.training import provenance_of
from service.worker.model_teacher import ModelTeacher
from service.worker.protocol import TrainingRun
from service.worker.run_reporter import Reporter
from service.worker.state_keeper import StateKeeper
from service.worker.training_images import TrainingImages
from service.worker.workbench import Workbench
from tleg_core.description import Measurement
from tleg_core.learngene import Learngene
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.recipe import Member
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.errors import MeasurementStoppedError, TrainingInterruptedError
from tleg_core.training.learngene_run import learngene_of, learngene_trainer, measured_depths
from tleg_core.training.loop import Trainer, Wish
from tleg_core.training.preprocessing import prepare
from tleg_core.training_config import Precision
from tleg_core.training_description import describe_learngene


class BasisTraining:
    """One training: what it needs, made ready once, and a trainer, made anew where a state cannot be used.

    Args:
        run: The order.
        config: Its configuration, the precision decided.
        bench: What the engine holds.
        keeper: Keeps the states.
        reporter: Is told how it goes.
        wish: Says whether to stop.
    """

    _trainer: Trainer[AuxiliaryModel]

    def __init__(
        self,
        run: TrainingRun,
        config: LearngeneConfig,
        bench: Workbench,
        *,
        keeper: StateKeeper,
        reporter: Reporter,
        wish: Callable[[], Wish],
    ) -> None:
        self._config, self._bench, self._keeper, self._reporter, self._wish = config, bench, keeper, reporter, wish
        dataset = Dataset.from_json(run.dataset)
        self.images = TrainingImages(
            dataset,
            bench,
            img_size=config.network.img_size,
            preprocessing=config.preprocessing,
            holdout=run.settings["holdout"],
            seed=config.training.seed,
            wish=wish,
        )
        class_names = self.images.class_names
        model = None if run.teacher is None else Model.from_json(run.teacher)
        self._teacher = None if model is None else ModelTeacher(model, class_names, bench)
        provenance = provenance_of(
            dataset,
            config,
            name=run.name,
            images=self.images.count,
            teacher=None if model is None else model.id,
            licence=run.licence,
        )
        self._description = describe_learngene(run.name, config, provenance, class_names, config.preprocessing)

    def begin(self) -> None:
        """Begin at the first update."""
        config, bench = self._config, self._bench
        self._trainer = learngene_trainer(
            config,
            self.images.batches(config.training),
            self._teacher,
            num_classes=len(self.images.class_names),
            preprocessing=config.preprocessing,
            keeper=self._keeper,
            observer=self._reporter,
            device=bench.device,
            measure=self._measure,
            wish=self._wish,
            processes=bench.processes,
        )

    def load(self) -> None:
        """Go on from the kept state; raises `CheckpointError`."""
        self._trainer.load()

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self._trainer.total_steps

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self._config.training.epochs

    def run(self) -> Learngene:
        """Train to the end and return the learngene, every depth measured; raises what the training does."""
        self._trainer.run()
        return learngene_of(self._trainer.result, self._description).with_description(accuracy=self._measured())

    def metrics_of(self, learngene: Learngene) -> dict[str, float]:
        """Return what was measured of every depth, by the names of metrics; `top1` is the largest trained depth's."""
        measured = {entry.depth: entry.top1 for entry in learngene.description.accuracy}
        metrics = {f"top1_depth_{depth}": top1 for depth, top1 in measured.items()}
        trained = self._config.depths.train
        return metrics | ({"top1": measured[trained]} if trained in measured else {})

    def _measured(self) -> tuple[Measurement, ...]:
        """Classify the held-out images at every depth that is offered; what stops the training stops it."""
        model = self._trainer.result.eval()
        try:
            return tuple(
                self.images.measured(member, self._logits_of(model, member)) for member in self._description.design.members
            )
        except MeasurementStoppedError:
            if self._wish() is Wish.SAVE:
                self._trainer.save()
            raise TrainingInterruptedError("stopped while every depth was measured") from None

    def _measure(self, model: AuxiliaryModel) -> Mapping[str, float]:
        """Return loss and top-1 of the largest depth, and top-1 of some others."""
        metrics: dict[str, float] = {}
        for depth in measured_depths(self._config.depths):
            autocast = self._config.training.precision is Precision.BFLOAT16
            scores = self.images.scores(self._logits_of(model, Member(depth=depth)), autocast=autocast)
            largest = depth == self._config.depths.train
            metrics |= {"loss": scores.loss, "top1": scores.top1} if largest else {f"top1_depth_{depth}": scores.top1}
        return metrics

    def _logits_of(self, model: AuxiliaryModel, member: Member) -> Callable[[Tensor], Tensor]:
        side, preprocessing = self._config.network.img_size, self._config.preprocessing
        return lambda images: model(prepare(images, side, preprocessing), member.depth)
