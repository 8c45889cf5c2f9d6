"""A pool from its anchors to its paths: the anchors one after the other, the stitches, and the training of all together.

Each anchor is a phase, the stitches' start is one, and the joint training is the last (`phases`): a run that was killed goes on
in the phase where it stood, to the same weights. Sources: Learngene Pool (arXiv 2312.05743), SN-Net (arXiv 2302.06586),
SN-Netv2 (arXiv 2307.00154). Which images there are is the caller's business, and where checkpoints are kept.

Shape legend: B images of a batch, N images, H height, W width, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from tleg_core.anchor_config import AnchorRule
from tleg_core.canonical import sha256_hex
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import Distillation
from tleg_core.path import Path
from tleg_core.pool_config import PoolConfig, StitchInit
from tleg_core.training.batches import Batches
from tleg_core.training.draws import seed_of
from tleg_core.training.errors import TrainingInterruptedError
from tleg_core.training.interruption import stop_requests
from tleg_core.training.keeper import Keeper
from tleg_core.training.logits_objective import LogitsObjective
from tleg_core.training.loop import Objective, Trainer, Wish, check_share
from tleg_core.training.network import Network
from tleg_core.training.observer import Observer
from tleg_core.training.path_sampling import PathSampler, measured_paths
from tleg_core.training.phases import PhaseKeeper, PhaseObserver, Progress, Span
from tleg_core.training.pool_distillation import AncestryVit, AnchorModel, PoolDistillation, learned_stitches, mean_map
from tleg_core.training.pool_model import PoolModel
from tleg_core.training.preprocessing import prepare
from tleg_core.training.processes import Processes
from tleg_core.training.stitch_fit import fit_stitches
from tleg_core.training.teacher import Teacher
from tleg_core.training.updates import ModelT
from tleg_core.training_config import TrainingConfig
from tleg_core.vit import timm_architecture, timm_model_args

LogitsOf = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) in 0..1 to logits (B, C)."""


class PoolImages(Protocol):
    """The training images of a run, N of them."""

    @property
    def count(self) -> int:
        """N."""
        ...

    @property
    def digest(self) -> str:
        """What identifies them: a run goes on only with the same."""
        ...

    def batches(self, training: TrainingConfig) -> Batches:
        """Return their batches, images in 0..1, as one phase wants them; closed after it."""
        ...

    def sample(self, count: int, seed: int) -> Tensor:
        """Return `count` of them, or all, drawn by `seed`: (count, 3, H, W) in 0..1, on the device, not augmented."""
        ...


@dataclass(frozen=True, slots=True)
class _Phase:
    """One phase: its name, what does it, the training that it is, if it is one; whether that asks a teacher for logits.

    And whether it makes the whole pool.
    """

    name: str
    work: Callable[[], dict[str, Tensor]]
    training: TrainingConfig | None = None
    learns_logits: bool = False
    whole: bool = False


class PoolTrainer:
    """One run.

    Args:
        config: What is made, and how.
        images: What it is trained on.
        teacher: Of the same classes in the same order; None where nothing learns from one.
        num_classes: C.
        given: Weights of anchors that are there already, by the anchor's name.
        keeper: Keeps the checkpoints.
        observer: Is told how it goes.
        device: Where it computes.
        measure: Gives named numbers of held-out images for a network, `top1` among them; None for no such images.
        wish: Says whether to stop; without it, SIGINT and SIGTERM do.
        processes: Those that share the run.

    Raises:
        ConfigError: A teacher is missing, or has no use, or does not fit; an anchor that is given is none of the pool's; or a
            phase could not begin.
    """

    def __init__(
        self,
        config: PoolConfig,
        images: PoolImages,
        teacher: Teacher | None,
        *,
        num_classes: int,
        given: Mapping[str, Mapping[str, Tensor]],
        keeper: Keeper,
        observer: Observer,
        device: torch.device,
        measure: Callable[[LogitsOf], Mapping[str, float]] | None = None,
        wish: Callable[[], Wish] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._config, self._images, self._teacher, self._device = config, images, teacher, device
        self._keeper, self._observer, self._measure, self._wish = keeper, observer, measure, wish
        self._processes = processes or Processes()
        self._asked: Callable[[], int] = lambda: Wish.GO_ON
        self.design = config.design(num_classes)
        names = [anchor.name for anchor in config.anchors]
        for name in given.keys() - set(names):
            raise ConfigError("anchor", f"{name[:80]!r} is none of the recipe's anchors, {', '.join(names)}")
        if (teacher is None) == config.learns_from_ancestry(given):
            raise ConfigError("ancestry", "is needed exactly where anchors or the joint training learn from one")
        self._ancestry: AncestryVit | None = None
        if config.anchor_training.rule is AnchorRule.DISTILLED and len(given) < len(names):
            self._ancestry = AncestryVit(teacher)
            self._ancestry.check(self.design.config)
        self._check_learned_init(given)
        self._phases = self._planned(given)
        self._check_phases(given)
        self._identity: dict[str, Any] = json.loads(
            json.dumps(
                _decisive(config)
                | {"classes": num_classes, "data": images.digest, "teacher": None if teacher is None else teacher.identity()}
                | {"given": {name: _digest(weights) for name, weights in sorted(given.items())}}
            )
        )
        place = {name: index for index, name in enumerate(names)}
        self._progress = Progress(
            done={  # copies: layers of one component, or networks of one learngene, share memory, and no file holds that
                f"anchors.{place[name]}.{part}": tensor.clone() for name, own in given.items() for part, tensor in own.items()
            }
        )

    @property
    def total_steps(self) -> int:
        """Updates in all phases."""
        return self._span(len(self._phases)).steps

    def load(self) -> None:
        """Go on from the kept checkpoint.

        Raises:
            CheckpointError: There is none, it is broken, or it is of another run (the difference is named).
        """
        self._progress = Progress.read(self._keeper, self._identity)

    def run(self) -> dict[str, Tensor]:
        """Do the phases that are not done yet; return the pool's tensors by the names of its file, on the CPU.

        Raises:
            TrainingInterruptedError: It was asked to stop; the checkpoint is saved, if that was asked for.
            TrainingDivergedError: A loss, or what was measured, is not finite; the last checkpoint stands.
            TrainingMemoryError: One image at a time does not fit the memory.
        """
        with self._wishes() as self._asked:
            while self._progress.phase < len(self._phases):
                phase = self._phases[self._progress.phase]
                self._observer.note(f"phase {self._progress.phase + 1} of {len(self._phases)}: {phase.name}")
                self._progress = self._progress.finished(self._worked(phase), instead=phase.whole)
                if self._processes.first:
                    self._keeper.keep(self._progress.checkpoint(self._identity), self._span(self._progress.phase).steps_before)
        done = self._progress.part("pool") or self._progress.done
        return {name: done[name] for name in self.design.tensor_shapes()}

    def _worked(self, phase: _Phase) -> dict[str, Tensor]:
        """Return what a phase makes; where it is stopped, the message names it."""
        try:
            return phase.work()
        except TrainingInterruptedError as error:
            raise TrainingInterruptedError(f"{phase.name}: {error}") from error

    def _wishes(self) -> AbstractContextManager[Callable[[], int]]:
        """Give the function that says what is wanted, for all phases."""
        return stop_requests() if self._wish is None else nullcontext(self._wish)

    def _planned(self, given: Mapping[str, object]) -> list[_Phase]:
        config = self._config
        phases = [
            _Phase(
                f"anchor {anchor.name}",
                partial(self._train_anchor, at),
                config.anchor_config(anchor),
                learns_logits=self._ancestry is None and config.anchor_training.distillation.alpha > 0,
            )
            for at, anchor in enumerate(config.anchors)
            if anchor.name not in given
        ]
        if config.stitched:
            phases.append(_Phase(f"stitches by {config.stitching.init}", self._initialise_stitches, whole=True))
            if config.joint.epochs:
                learns_logits = config.joint.distillation.alpha > 0
                phases.append(
                    _Phase("all together", self._train_together, config.joint_config, learns_logits=learns_logits, whole=True)
                )
        return phases

    def _span(self, phase: int) -> Span:
        """Return where a phase stands, by its number; of the one after the last, the end."""
        steps = [
            0 if item.training is None else item.training.epochs * (self._images.count // item.training.batch_size)
            for item in self._phases
        ]
        epochs = [0 if item.training is None else item.training.epochs for item in self._phases]
        return Span(sum(steps[:phase]), sum(epochs[:phase]), sum(steps), sum(epochs))

    def _trained(
        self,
        model: ModelT,
        training: TrainingConfig,
        objective: Callable[[Batches], Objective],
        measure: Callable[[ModelT], Mapping[str, float]],
    ) -> ModelT:
        """Train a module in the phase that is next, from wherever it stands; return the result."""
        progress, span = self._progress, self._span(self._progress.phase)
        with self._images.batches(training) as batches:
            trainer = Trainer(
                model,
                objective(batches),
                batches,
                training,
                identity={"phase": self._phases[progress.phase].name},
                keeper=PhaseKeeper(self._keeper, progress, self._identity, span),
                observer=PhaseObserver(self._observer, span),
                device=self._device,
                measure=None if self._measure is None else measure,
                wish=lambda: Wish(self._asked()),
                processes=self._processes,
            )
            if progress.run is not None:
                trainer.load()
            return trainer.run().eval()

    def _train_anchor(self, at: int) -> dict[str, Tensor]:
        """Train one anchor; return its weights, and the mean of its matrices where it has some."""
        config, anchor = self._config, self._config.anchors[at]
        vit = self.design.anchors[at].config
        training = config.anchor_config(anchor)
        network = Network(
            architecture=timm_architecture(vit), model_args=timm_model_args(vit, anchor.depth), num_classes=vit.num_classes
        ).build(drop_path=training.drop_path, seed=seed_of(training.seed, "anchor", at))
        model = AnchorModel(
            network,
            seed=seed_of(training.seed, "matrices", at),
            ancestry_width=None if self._ancestry is None else self._ancestry.width,
            width=vit.embed_dim,
            positions=len(anchor.positions.blocks(anchor.depth)),
            terms=config.anchor_training.terms,
        ).to(self._device)

        def measure(result: AnchorModel) -> Mapping[str, float]:
            return self._measured(result, self.design.whole(at))

        result = self._trained(model, training, lambda batches: self._anchor_objective(model, at, batches), measure)
        made = {f"anchors.{at}.{name}": tensor for name, tensor in result.network.state_dict().items()}
        if len(result.output_maps):
            made[f"maps.{at}"] = mean_map(result)
        return _kept(made)

    def _anchor_objective(self, model: AnchorModel, at: int, batches: Batches) -> Objective:
        config, anchor = self._config, self._config.anchors[at]
        side, preprocessing, loss = config.network.img_size, config.preprocessing, config.anchor_training.distillation
        if self._ancestry is not None:
            return PoolDistillation(
                model,
                depth=anchor.depth,
                positions=anchor.positions,
                config=config.anchor_training,
                ancestry=self._ancestry,
                img_size=side,
                preprocessing=preprocessing,
            )
        return self._logits_objective(lambda images, _step: model(images), loss, batches, config.anchor_config(anchor))

    def _logits_objective(
        self, network: Callable[[Tensor, int], Tensor], loss: Distillation, batches: Batches, training: TrainingConfig
    ) -> Objective:
        """Return the loss of a network that learns from labels and logits, once the teacher has those of the batches."""
        teacher = self._teacher if loss.alpha else None
        if teacher is not None:
            teacher.check(batches, training)
        return LogitsObjective(
            network, loss, teacher, img_size=self._config.network.img_size, preprocessing=self._config.preprocessing
        )

    def _initialise_stitches(self) -> dict[str, Tensor]:
        """Return the pool's tensors with its stitches as they start."""
        config, seed = self._config, self._config.training.seed
        model = PoolModel(self.design, seed=seed_of(seed, "pool"))
        model.load_pool_tensors(
            {name: self._progress.done.get(name, tensor) for name, tensor in model.pool_tensors().items()}  # no stitches yet
        )
        if config.stitching.init is StitchInit.LEARNED and self._ancestry is not None:
            maps = {int(at): tensor for at, tensor in self._progress.part("maps").items()}
            for index, (weight, bias) in enumerate(learned_stitches(self.design, maps, self._ancestry.width)):
                model.assign_stitch(index, weight, bias)
        else:
            model.to(self._device)
            if self._processes.first:
                images = self._images.sample(config.stitching.images, seed_of(seed, "fit"))
                fit_stitches(model, prepare(images, config.network.img_size, config.preprocessing))
            self._share(model)
        return _kept({f"pool.{name}": tensor for name, tensor in model.pool_tensors().items()})

    def _share(self, model: PoolModel) -> None:
        """Give every process the first one's stitches."""
        self._processes.told("the stitches are there")  # they may be long in coming; a sum is not waited for as long
        tensors = model.pool_tensors()
        for index in range(len(self.design.stitches)):
            names = (f"stitches.{index}.weight", f"stitches.{index}.bias")
            own = (tensors[name] if self._processes.first else torch.zeros_like(tensors[name]) for name in names)
            model.assign_stitch(index, *(self._processes.sum(tensor) for tensor in own))

    def _train_together(self) -> dict[str, Tensor]:
        """Train anchors and stitches; return the pool's tensors."""
        config, training = self._config, self._config.joint_config
        model = PoolModel(
            self.design,
            drop_path_rate=training.drop_path,
            stitch_rank=config.stitching.rank,
            seed=seed_of(training.seed, "pool"),
        )
        model.load_pool_tensors(self._progress.part("pool"))
        model.to(self._device)
        sampler = PathSampler.of(self.design, config.joint, training.seed)
        last, *others = measured_paths(self.design)

        def objective(batches: Batches) -> Objective:
            def logits_of(images: Tensor, step: int) -> Tensor:
                return model(images, sampler.path(step))  # type: ignore[no-any-return]

            return self._logits_objective(logits_of, config.joint.distillation, batches, training)

        def measure(result: PoolModel) -> Mapping[str, float]:
            metrics = self._measured(partial(result, path=last), last)
            for path in others:
                name = f"top1_path_{path}"
                metrics[name] = self._measured(partial(result, path=path), path)[name]
            return metrics

        result = self._trained(model, training, objective, measure)
        return _kept({f"pool.{name}": tensor for name, tensor in result.pool_tensors().items()})

    def _measured(self, network: LogitsOf, path: Path) -> dict[str, float]:
        """Measure a network that takes normalised images, and give its accuracy the path's name too."""
        assert self._measure is not None  # noqa: S101 - it is asked with held-out images only
        side, preprocessing = self._config.network.img_size, self._config.preprocessing
        metrics = self._measure(lambda images: network(prepare(images, side, preprocessing)))
        return {**metrics, f"top1_path_{path}": metrics["top1"]}

    def _check_phases(self, given: Mapping[str, object]) -> None:
        """Raise `ConfigError` for whatever a phase would raise when it begins, before the phases ahead of it cost anything."""
        config = self._config
        for anchor in config.anchors:
            if self._ancestry is not None and anchor.name not in given:
                anchor.positions.blocks(self._ancestry.depth)
        for phase in self._phases:
            if phase.training is not None:
                check_share(phase.training, self._processes)
                with self._images.batches(phase.training) as batches:
                    if self._teacher is not None and phase.learns_logits:
                        self._teacher.check(batches, phase.training)

    def _check_learned_init(self, given: Mapping[str, object]) -> None:
        """Raise `ConfigError` where the learned start lacks a matrix, before anything is trained."""
        if not self._config.stitched or self._config.stitching.init is not StitchInit.LEARNED:
            return
        if self._ancestry is None:
            raise ConfigError("stitching.init", "learned needs anchors that are distilled here, not given")
        maps = {
            at: torch.zeros(anchor.config.embed_dim, self._ancestry.width)
            for at, anchor in enumerate(self.design.anchors)
            if anchor.name not in given
        }
        learned_stitches(self.design, maps, self._ancestry.width)


def _kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def _digest(weights: Mapping[str, Tensor]) -> str:
    return sha256_hex(*(tensor.contiguous().numpy().tobytes() for tensor in weights.values()))


def _decisive(config: PoolConfig) -> dict[str, Any]:
    """Return, as JSON, what decides the result; how often a checkpoint is made does not."""
    value = config.to_json()
    del value["training"]["checkpoint_every_steps"]
    return value
