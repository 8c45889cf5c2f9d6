"""Auto-LG: which layers of an ancestry model a small pseudo-descendant learns most from.

While the pseudo-descendant learns the data set, with its features drawn towards the ancestry's, the lambda nets learn what
drawing helps: each says, for an image and a pair of layers, how strongly the one is to be like the other. A layer of the
ancestry scores the mean of its lambdas; `layer_choice` takes the highest. The authors log these and write the choice by hand.

An update is the authors' in another rotation: first the lambda nets' step by the look-ahead, whose matching is computed on one
fixed batch, then the pseudo-descendant's on `CE + match_weight * matching`; theirs begins with the latter. It is trained with
AdamW, as everything here, where theirs uses SGD. Its width is the ancestry's, so that no map between features is needed.

Source: Auto-LG (arXiv 2305.02279), for ViTs.

Shape legend: B images, N tokens, D width, L layers of the ancestry, M layers of the pseudo-descendant, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adam import adam

from tleg_core.canonical import Json
from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.inheritance_config import Transfer
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.attention import use_plain_attention
from tleg_core.training.batches import Batch
from tleg_core.training.class_tasks import TaskBatches, whole_task
from tleg_core.training.draws import generator_of
from tleg_core.training.keeper import Keeper
from tleg_core.training.layer_stability import MAX_EVIDENCE
from tleg_core.training.look_ahead import LayeredVit, lambdas, look_ahead_loss, matching_loss, pooled
from tleg_core.training.loop import Outcome, Trainer, Wish
from tleg_core.training.network import Network
from tleg_core.training.observer import Observer
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import prepare, to_unit
from tleg_core.training_config import TrainingConfig
from tleg_core.vit import timm_architecture, timm_model_args

Source: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
"""Gives the ancestry's tokens after each of its L blocks, (B, N, D) each, of normalised images, without gradient."""

_FIRST_LAMBDA = 1.0  # the bias that lambda nets start with
_NO_STEP = -1


class TransferModel(nn.Module):
    """A pseudo-descendant, and beside it the lambda nets with their optimiser's state: all that a checkpoint must have.

    The lambda nets are buffers: the look-ahead's Adam changes them, not the optimiser of the pseudo-descendant.

    Args:
        descendant: Gives tokens after each layer, and logits.
        depth: M.
        ancestry_depth: L.
        width: D.
        device: Where it computes.
    """

    weight: Tensor  # (L, M, D)
    bias: Tensor  # (L, M)
    meta_step: Tensor  # the last update that had a look-ahead

    def __init__(self, descendant: nn.Module, *, depth: int, ancestry_depth: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.descendant = descendant
        self.register_buffer("weight", torch.zeros((ancestry_depth, depth, width), device=device))
        self.register_buffer("bias", torch.full((ancestry_depth, depth), _FIRST_LAMBDA, device=device))
        for name in ("weight", "bias"):
            for moment in ("first", "second"):
                self.register_buffer(f"{name}_{moment}", torch.zeros_like(getattr(self, name)))
            self.register_buffer(f"{name}_steps", torch.zeros(()))
        self.register_buffer("meta_step", torch.tensor(_NO_STEP))

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the pseudo-descendant's tokens (B, N, D) after each of its layers, and its logits (B, C)."""
        result: tuple[list[Tensor], Tensor] = self.descendant(images)
        return result

    def no_weight_decay(self) -> set[str]:
        """Return what the optimiser must not decay beyond what timm's factory knows by itself."""
        return {"descendant.network.pos_embed", "descendant.network.cls_token"}

    def lambdas(self, features: Tensor) -> Tensor:
        """Return lambda (B, L, M), without gradient, of the ancestry's pooled features (B, L, D)."""
        return lambdas(features, self.weight, self.bias)

    def step(self, loss_of: Callable[[Tensor, Tensor], Tensor], lr: float) -> None:
        """Take one step of Adam on the lambda nets.

        Args:
            loss_of: Gives a scalar of their weight (L, M, D) and bias (L, M).
            lr: The learning rate.
        """
        with torch.enable_grad():
            leaves = [getattr(self, name).detach().requires_grad_() for name in ("weight", "bias")]
            gradients = torch.autograd.grad(loss_of(*leaves), leaves)
        state: dict[str, list[Tensor]] = {
            kind: [getattr(self, f"{name}_{kind}") for name in ("weight", "bias")] for kind in ("first", "second", "steps")
        }
        with torch.no_grad():
            adam(
                [self.weight, self.bias],
                list(gradients),
                state["first"],
                state["second"],
                [],
                state["steps"],
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )


class TransferObjective:
    """The loss of an update of the pseudo-descendant; before it, the lambda nets take their step.

    Args:
        model: Both.
        source: The ancestry's features.
        transfer: The settings.
        meta_images: The fixed batch that the look-ahead matches, normalised, (B, 3, H, W).
        ready: Makes the networks' input of images in 0..1.
    """

    def __init__(
        self, model: TransferModel, source: Source, transfer: Transfer, meta_images: Tensor, ready: Callable[[Tensor], Tensor]
    ) -> None:
        self._model, self._source, self._transfer, self._ready = model, source, transfer, ready
        self._meta_images, self._meta_source = meta_images, source(meta_images)
        self._meta_features = pooled(self._meta_source)

    def __call__(self, batch: Batch) -> Outcome:
        """Return the loss and the logits (B, C)."""
        model, transfer = self._model, self._transfer
        images = self._ready(batch.images)
        if int(model.meta_step) != batch.step:  # once an update, whatever parts it is computed in
            self._look_ahead(images, batch.targets)
            model.meta_step.fill_(batch.step)
        source = self._source(images)
        layers, logits = model(images)
        loss = functional.cross_entropy(logits.float(), batch.targets)
        if transfer.match_weight:
            weights = model.lambdas(pooled(source))
            loss = loss + transfer.match_weight * matching_loss(source, layers, weights, transfer.criterion)
        return Outcome(loss=loss, logits=logits)

    def _look_ahead(self, images: Tensor, targets: Tensor) -> None:
        model, transfer = self._model, self._transfer
        was_training = model.descendant.training
        model.descendant.eval()  # no stochastic depth: the steps are to differ in lambda alone
        parameters = {name: parameter.detach().requires_grad_() for name, parameter in model.descendant.named_parameters()}

        def loss_of(weight: Tensor, bias: Tensor) -> Tensor:
            return look_ahead_loss(
                model.descendant,
                parameters,
                lambdas(self._meta_features, weight, bias),
                source=self._meta_source,
                meta_images=self._meta_images,
                images=images,
                targets=targets,
                steps=transfer.inner_steps,
                lr=transfer.inner_lr,
                criterion=transfer.criterion,
            )

        model.step(loss_of, transfer.meta_lr)
        model.descendant.train(was_training)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEvidence:
    """What the lambda nets learned.

    Args:
        table: The mean of lambda over images, (L, M): row m is the ancestry's layer, column n the pseudo-descendant's.
        images: How many.
    """

    table: npt.NDArray[np.float64]
    images: int

    @property
    def scores(self) -> tuple[float, ...]:
        """The mean of each layer's lambdas, L numbers."""
        return tuple(float(score) for score in self.table.mean(axis=1))

    def details(self) -> dict[str, Json]:
        """Return the evidence as a JSON object, lambdas rounded to six places."""
        return {"mean_lambda": self.table.round(6).tolist(), "images": self.images}


def measure_transfer(
    ancestry: AncestryVit,
    data: ImageSource,
    pixels: Pixels,
    transfer: Transfer,
    training: TrainingConfig,
    *,
    plain: Pixels,
    keeper: Keeper,
    observer: Observer,
    device: torch.device,
    wish: Callable[[], Wish] | None = None,
    resume: bool = False,
) -> TransferEvidence:
    """Train a pseudo-descendant and the lambda nets, and return what these say of the ancestry's layers.

    Args:
        ancestry: What is looked at; frozen.
        data: The images, of any classes.
        pixels: Those of `data`, as the pseudo-descendant is trained on them.
        transfer: The settings.
        training: How the pseudo-descendant is trained, and the seed of all draws.
        plain: The pixels of `data` whose images no draw changes: the fixed batch is of them, and the scores.
        keeper: Keeps the checkpoint.
        observer: Is told how it goes.
        device: Where it computes.
        wish: As the training loop's.
        resume: Go on from the kept checkpoint.

    Raises:
        ConfigError: The evidence would not fit the learngene, or there are fewer images than a batch has.
        TrainingInterruptedError: It was asked to stop; the checkpoint is kept.
        TrainingDivergedError: The loss, or a lambda, is not finite.
    """
    if ancestry.depth * transfer.depth > MAX_EVIDENCE:
        raise ConfigError("transfer.depth", f"gives more than {MAX_EVIDENCE:,} pairs of layers")
    source = frozen_source(ancestry, device)
    model = transfer_model(ancestry, transfer, training, len(data.class_names), device)

    def ready(images: Tensor) -> Tensor:
        return prepare(images, ancestry.config.img_size, ancestry.preprocessing)

    def some_images(purpose: str, count: int) -> list[int]:
        order = torch.randperm(len(data), generator=generator_of(training.seed, purpose))
        return order[:count].tolist()

    meta_images = ready(to_unit(plain.take(some_images("meta-batch", transfer.meta_images), 0)))
    identity: dict[str, Any] = {"ancestry": ancestry.identity, "transfer": asdict(transfer), "classes": len(data.class_names)}
    with TaskBatches(data, pixels, training, ancestry.preprocessing, device).of(whole_task(data)) as batches:
        trainer = Trainer(
            model,
            TransferObjective(model, source, transfer, meta_images, ready),
            batches,
            training,
            identity=identity,
            keeper=keeper,
            observer=observer,
            device=device,
            wish=wish,
        )
        if resume:
            trainer.load()
        trainer.run()
    rows = some_images("scores", transfer.score_images)
    total = torch.zeros((ancestry.depth, transfer.depth), dtype=torch.float64, device=device)
    for start in range(0, len(rows), transfer.meta_images):
        images = ready(to_unit(plain.take(rows[start : start + transfer.meta_images], 0)))
        total += model.lambdas(pooled(source(images))).double().sum(dim=0)
    return TransferEvidence(table=(total / len(rows)).cpu().numpy(), images=len(rows))


def frozen_source(ancestry: AncestryVit, device: torch.device) -> Source:
    """Return the function that gives an ancestry's tokens."""
    plain = Network(
        architecture=timm_architecture(ancestry.config),
        model_args=timm_model_args(ancestry.config, ancestry.depth),
        num_classes=ancestry.config.num_classes,
    )
    network = LayeredVit(plain.load(ancestry.weights, drop_path=0.0, device=device)).eval().requires_grad_(False)

    @torch.no_grad()
    def source(images: Tensor) -> Sequence[Tensor]:
        layers: list[Tensor] = network(images)[0]
        return layers

    return source


def transfer_model(
    ancestry: AncestryVit, transfer: Transfer, training: TrainingConfig, num_classes: int, device: torch.device
) -> TransferModel:
    """Return a fresh pseudo-descendant of the ancestry's width with fresh lambda nets."""
    config = ancestry.config.with_changes(num_classes=num_classes)
    plain = Network(
        architecture=timm_architecture(config),
        model_args=timm_model_args(config, transfer.depth),
        num_classes=num_classes,
    )
    network = plain.build(drop_path=training.drop_path, seed=training.seed).to(device)
    use_plain_attention(network)  # the fused one's gradient has no gradient
    return TransferModel(
        LayeredVit(network), depth=transfer.depth, ancestry_depth=ancestry.depth, width=config.embed_dim, device=device
    )
