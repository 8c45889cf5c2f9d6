"""The making of a pool in the engine: anchors, stitches, and the training of all together, phase by phase.

What a phase does is `tleg_core.training.pool_trainer`'s business.

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
from service.worker.training_images import LogitsOf, TrainingImages
from service.worker.workbench import Workbench
from tleg_core.anchor_config import AnchorRule
from tleg_core.description import Measurement
from tleg_core.learngene import Learngene
from tleg_core.pool_config import PoolConfig
from tleg_core.pool_description import describe_pool
from tleg_core.recipe import Member
from tleg_core.training.errors import MeasurementStoppedError, TrainingInterruptedError
from tleg_core.training.loop import Wish
from tleg_core.training.path_accuracy import pool_model_of
from tleg_core.training.pool_model import PoolModel
from tleg_core.training.pool_trainer import PoolTrainer
from tleg_core.training.preprocessing import prepare
from tleg_core.training.teacher import Teacher
from tleg_core.training_config import Precision


class PoolTraining:
    """One training: what it needs, made ready once, and a trainer, made anew where a state cannot be used.

    Args:
        run: The order.
        config: Its configuration, the precision decided.
        bench: What the engine holds.
        keeper: Keeps the states.
        reporter: Is told how it goes.
        wish: Says whether to stop.
    """

    _trainer: PoolTrainer

    def __init__(
        self,
        run: TrainingRun,
        config: PoolConfig,
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
        self._teacher = None if model is None else self._teacher_of(model, class_names)
        anchors = {anchor.name: Model.from_json(anchor.model) for anchor in run.anchors}
        self._given: dict[str, dict[str, Tensor]] = {}
        for anchor in run.anchors:
            bench.fetch_learngene(anchor.learngene_key)
            weights = bench.weights(anchors[anchor.name])
            self._given[anchor.name] = {name: tensor.cpu() for name, tensor in weights.items()}
        provenance = provenance_of(
            dataset,
            config,
            name=run.name,
            images=self.images.count,
            teacher=None if model is None else model.id,
            licence=run.licence,
            anchors={name: anchor.id for name, anchor in anchors.items()},
        )
        self._description = describe_pool(run.name, config, provenance, class_names)

    def begin(self) -> None:
        """Begin with the first phase."""
        self._trainer = PoolTrainer(
            self._config,
            self.images,
            self._teacher,
            num_classes=len(self.images.class_names),
            given=self._given,
            keeper=self._keeper,
            observer=self._reporter,
            device=self._bench.device,
            measure=self._measure,
            wish=self._wish,
            processes=self._bench.processes,
        )

    def load(self) -> None:
        """Go on from the kept state; raises `CheckpointError`."""
        self._trainer.load()

    @property
    def steps(self) -> int:
        """Updates in all phases."""
        return self._trainer.total_steps

    @property
    def epochs(self) -> int:
        """Epochs in all phases."""
        return self._config.total_epochs(self._given)

    def run(self) -> Learngene:
        """Do every phase and return the learngene, every path measured; raises what the training does."""
        tensors = {name: tensor.numpy() for name, tensor in self._trainer.run().items()}
        learngene = Learngene.create(self._description, tensors)
        return learngene.with_description(accuracy=self._measured(learngene))

    def metrics_of(self, learngene: Learngene) -> dict[str, float]:
        """Return what was measured of every path, by the names of metrics; `top1` is the last anchor's."""
        measured = {entry.path: entry.top1 for entry in learngene.description.accuracy}
        pool = learngene.description.pool
        metrics = {f"top1_path_{path}": top1 for path, top1 in measured.items()}
        return metrics | {"top1": measured[pool.whole(len(pool.anchors) - 1)]}

    def _measured(self, learngene: Learngene) -> tuple[Measurement, ...]:
        """Classify the held-out images along every path; what stops the training stops it, and the state is kept already."""
        model = pool_model_of(learngene).to(self._bench.device)
        try:
            return tuple(
                self.images.measured(member, self._logits_of(model, member)) for member in learngene.description.pool.members
            )
        except MeasurementStoppedError:
            raise TrainingInterruptedError("stopped while every path was measured") from None

    def _measure(self, logits_of: LogitsOf) -> Mapping[str, float]:
        """Return loss and top-1 of a network on the held-out images."""
        scores = self.images.scores(logits_of, autocast=self._config.training.precision is Precision.BFLOAT16)
        return {"loss": scores.loss, "top1": scores.top1}

    def _logits_of(self, model: PoolModel, member: Member) -> LogitsOf:
        side, preprocessing = self._config.network.img_size, self._config.preprocessing
        return lambda images: model(prepare(images, side, preprocessing), member.path)

    def _teacher_of(self, model: Model, class_names: tuple[str, ...]) -> Teacher:
        """Return the teacher: one whose features can be looked at, where anchors are distilled."""
        teacher = ModelTeacher(model, class_names, self._bench)
        return teacher.ancestry() if self._config.anchor_training.rule is AnchorRule.DISTILLED else teacher
