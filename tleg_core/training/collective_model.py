"""Heur-LG's collective model: an ancestry ViT on its way through a sequence of tasks, noting its gradients.

All that a checkpoint must have to go on is in its parameters and buffers.

Shape legend: B images, N images of a task, S tasks, W windows of a task, L layers, C classes of a task.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import GradientSign, Stability, TaskStart
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.consolidation import Consolidation, fisher_information
from tleg_core.training.draws import generator_of
from tleg_core.training.network import Network
from tleg_core.vit import timm_architecture, timm_model_args

_HEAD_STD = 0.02  # as DeiT's
_QUANTILE_ENTRIES = 1_000_000  # of gradients that the quantile is taken of


class CollectiveModel(nn.Module):
    """The ancestry's network on its way through the tasks, with all that a checkpoint must have to go on.

    Args:
        ancestry: What it starts as; copied, never shared.
        stability: The sequence.
        drop_path: Stochastic depth in training.
        device: Where it computes.
    """

    rates: Tensor  # (S, W, L): sums of shares
    counts: Tensor  # (S, W): updates summed
    threshold: Tensor  # ()

    def __init__(self, ancestry: AncestryVit, stability: Stability, *, drop_path: float, device: torch.device) -> None:
        super().__init__()
        self._ancestry, self._stability = ancestry, stability
        config = ancestry.config.with_changes(num_classes=stability.classes_per_task)
        plain = Network(
            architecture=timm_architecture(config),
            model_args=timm_model_args(config, ancestry.depth),
            num_classes=config.num_classes,
        )
        head = {
            "head.weight": torch.zeros((config.num_classes, config.embed_dim)),
            "head.bias": torch.zeros(config.num_classes),
        }
        self.network = plain.load({**ancestry.body(), **head}, drop_path=drop_path, device=device)
        shape = (stability.num_tasks, stability.windows, ancestry.depth)
        self.register_buffer("rates", torch.zeros(shape, dtype=torch.float64, device=device))
        self.register_buffer("counts", torch.zeros(shape[:2], dtype=torch.int64, device=device))
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float64, device=device))
        held = self._held()
        self.consolidation = Consolidation(list(held.values()), stability.ewc_lambda)
        self._matrices: list[list[tuple[int, nn.Parameter]]] = [[] for _ in range(ancestry.depth)]  # by place among the held
        for place, (name, parameter) in enumerate(held.items()):
            if name.startswith("blocks.") and parameter.ndim == 2:
                self._matrices[int(name.split(".")[1])].append((place, parameter))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of normalised images: no softmax, which is the loss's business."""
        logits: Tensor = self.network(images)
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return what the optimiser must not decay beyond what timm's factory knows by itself."""
        return {"network.pos_embed", "network.cls_token"}

    @torch.no_grad()
    def begin(self, task: int, seed: int) -> None:
        """Give it a fresh head, and where each task starts from the ancestry, a copy of the ancestry's weights."""
        if self._stability.start is TaskStart.ANCESTRY:
            body = self._ancestry.body()
            for name, parameter in self.network.named_parameters():
                if name in body:
                    parameter.copy_(body[name])
        for name, parameter in self.network.named_parameters():
            if name == "head.weight":
                drawn = nn.init.trunc_normal_(
                    torch.empty(parameter.shape), std=_HEAD_STD, generator=generator_of(seed, "task-head", task)
                )
                parameter.copy_(drawn)
            elif name == "head.bias":
                parameter.zero_()

    @torch.no_grad()
    def note_gradients(self, task: int, window: int) -> None:
        """Add the shares of this update's gradients to a window of a task."""
        pulls = self.consolidation.gradients()
        for layer, matrices in enumerate(self._matrices):
            above, total = torch.zeros_like(self.threshold), 0
            for place, parameter in matrices:
                if parameter.grad is None:
                    raise ConfigError("ancestry", f"layer {layer} gets no gradient")
                own = parameter.grad - pulls[place] if pulls else parameter.grad
                if self._stability.sign is GradientSign.ABSOLUTE:
                    own = own.abs()
                above += (own > self.threshold.to(own.dtype)).sum()
                total += own.numel()
            self.rates[task, window, layer] += above / total
        self.counts[task, window] += 1

    def set_threshold(self, losses: Iterable[Tensor]) -> None:
        """Set the threshold: the one that is configured, or a quantile of the gradients of the sum of `losses`, scalars.

        They are asked for one by one, each when the graph of the one before is gone.
        """
        given = self._stability.threshold
        if given is None:
            matrices = [parameter for layer in self._matrices for _, parameter in layer]
            gradients = [torch.zeros_like(parameter) for parameter in matrices]
            for loss in losses:
                for gradient, added in zip(gradients, torch.autograd.grad(loss, matrices), strict=True):
                    gradient.add_(added)
            entries = torch.cat([gradient.abs().flatten() for gradient in gradients]).float()
            step = max(1, len(entries) // _QUANTILE_ENTRIES)
            given = float(entries[::step].quantile(self._stability.threshold_quantile))
        self.threshold.fill_(given)

    def hold_task(self, images: Tensor, generator: torch.Generator) -> None:
        """Have the weights held where they are, as much as the task's normalised images (N, 3, H, W) say."""
        if not self.consolidation.strength:
            return
        self.eval()
        self.consolidation.hold(list(fisher_information(self, self._held(), images, generator).values()))

    def body(self) -> dict[str, Tensor]:
        """Return a copy of its weights without the head's, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self._held().items()}

    def _held(self) -> dict[str, nn.Parameter]:
        """Return the parameters of all but the head, which each task has its own of."""
        return {name: parameter for name, parameter in self.network.named_parameters() if not name.startswith("head.")}
