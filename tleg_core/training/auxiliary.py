"""The auxiliary model: the trainable network whose layers are expanded from the learngene at every step.

Its parameters are the learngene: the basis (K stacked components for each tensor of a block) and the fixed tensors. The network
itself has no weights (`stateless`); `forward` expands them for a depth (`layer_weights`) and hands them over. Nothing is
remembered between calls, so activation checkpointing, compilation and another depth at each step are safe.

Source: TLEG, arXiv 2312.05614, section 3; initialisation as in the authors' code.

Shape legend: B images, K components, L depth, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tleg_core.errors import CheckpointError
from tleg_core.schedule import Schedule
from tleg_core.training.layer_weights import layer_weights
from tleg_core.training.stateless import StatelessVit
from tleg_core.vit import VitConfig, block_shapes, stem_shapes, tail_shapes

_INIT_STD = 0.02  # of linear weights and the position embedding, as DeiT


class AuxiliaryModel(nn.Module):
    """A ViT whose block tensors are combined from a basis.

    The basis' parameters are named `basis.<part>` (for instance `basis.attn.qkv.weight`, with a leading axis K), the others
    `fixed.<timm's name>`.

    Args:
        config: The network without its depth.
        schedule: The rule for the coefficients.
        depth: L at which `forward` runs when it is not told another.
        seed: Seed of the initial weights.
        drop_path_rate: timm's stochastic depth, 0..1.
        compiler: torch.compile's backend, as `stateless.INDUCTOR`; None does not compile.
        grad_checkpointing: Whether a block's activations are computed again in the backward pass instead of kept.
    """

    def __init__(
        self,
        config: VitConfig,
        schedule: Schedule,
        *,
        depth: int,
        seed: int = 0,
        drop_path_rate: float = 0.0,
        compiler: str | Callable[..., Any] | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.schedule = schedule
        self.depth = depth
        self.drop_path_rate = drop_path_rate
        self.basis = nn.Module()
        self.fixed = nn.Module()
        for name, shape in block_shapes(config).items():
            _register(self.basis, name, torch.empty(schedule.num_components, *shape))
        for name, shape in (stem_shapes(config) | tail_shapes(config)).items():
            _register(self.fixed, name, torch.empty(shape))
        self._network = StatelessVit(config, compiler=compiler, grad_checkpointing=grad_checkpointing)
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw fresh weights: METHODS of the authors' code, so that a fresh layer i has variance 0.02^2 * (1 + (i/L)^2).

        Linear weights of every component and the position embedding are normal with standard deviation 0.02, cut at +-2; biases
        are zero; the patch embedding is PyTorch's default for a convolution. Norms' weights start so that they are one in
        every layer (for TLEG: theta_B at one, theta_A at zero).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.basis.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif name.startswith("norm"):
                parameter.copy_(torch.tensor(self.schedule.unit).unsqueeze(1))
            else:
                nn.init.trunc_normal_(parameter, std=_INIT_STD, generator=generator)
        for name, parameter in self.fixed.named_parameters():
            if name.startswith("patch_embed."):
                bound = 1 / math.sqrt(self.config.in_chans * self.config.patch_size**2)
                parameter.uniform_(-bound, bound, generator=generator)
            elif name.endswith(".bias"):
                parameter.zero_()
            elif name == "norm.weight":
                parameter.fill_(1.0)
            else:
                nn.init.trunc_normal_(parameter, std=_INIT_STD, generator=generator)

    def learngene_tensors(self) -> dict[str, Tensor]:
        """Return the parameters, detached, under the names of a learngene's file: `basis.<part>` (K, ...), else timm's."""
        return {name.removeprefix("fixed."): parameter.detach() for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def load_learngene_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a learngene's tensors into the parameters.

        Raises:
            CheckpointError: Names are missing or unexpected (all of them are named), or a shape differs.
        """
        own = self.learngene_tensors()
        missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        wrong = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
        if missing or unexpected or wrong:
            raise CheckpointError(
                f"the tensors do not fit the auxiliary model: missing {missing}, unexpected {unexpected}, "
                f"of another shape {sorted(wrong)}"
            )
        for name, parameter in own.items():
            parameter.copy_(tensors[name])

    def layers(self, depth: int) -> list[dict[str, Tensor]]:
        """Return the weights of each of L layers by their names within a block, differentiable in the parameters."""
        return layer_weights(self.schedule.coefficients(depth), dict(self.basis.named_parameters()))

    def expand(self, depth: int) -> dict[str, Tensor]:
        """Return the depth-L network's weights in timm's names, differentiable in the parameters."""
        weights: dict[str, Tensor] = dict(self.fixed.named_parameters())
        for layer, parts in enumerate(self.layers(depth)):
            weights |= {f"blocks.{layer}.{part}": tensor for part, tensor in parts.items()}
        return weights

    def forward(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return the logits (B, C) of normalised `images` (B, in_chans, img_size, img_size) at `depth`."""
        layers = self.layers(self.depth if depth is None else depth)
        drop_path = self.drop_path_rate if self.training else 0.0
        return self._network(images, dict(self.fixed.named_parameters()), layers, drop_path=drop_path)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's optimiser factory must not decay beyond those it knows by itself.

        A norm's weight has two axes here, so timm's rule "no decay on vectors" does not see it; the rest is timm's ViT list.
        """
        norms = {f"basis.{name}" for name, _ in self.basis.named_parameters() if name.startswith("norm")}
        return norms | {"fixed.pos_embed", "fixed.cls_token"}


def _register(tree: nn.Module, name: str, value: Tensor) -> None:
    """Register `value` as the parameter `name` of `tree`, with a module for each dot (PyTorch allows none in a name)."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in dict(tree.named_children()):
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    tree.register_parameter(leaf, nn.Parameter(value))
