"""The auxiliary model: the trainable network whose layers are expanded from the learngene at every step.

Its parameters are the learngene: the basis (K stacked components for each tensor of a block) and the fixed tensors. The network
itself is timm's `VisionTransformer` on the meta device, without weights of its own; `forward` expands the weights for a depth
and hands them over by `torch.func.functional_call`. Nothing is remembered between calls, so activation checkpointing,
compilation and another depth at each step are safe (the authors' code keeps the layer's number on the modules, and is not).

Source: TLEG, arXiv 2312.05614, section 3; initialisation as in the authors' code.

Shape legend: B images, K components, L depth, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tleg_core.errors import CheckpointError
from tleg_core.expansion import combine
from tleg_core.schedule import Schedule
from tleg_core.vit import VitConfig, block_shapes, stem_shapes, tail_shapes, timm_architecture, timm_model_args

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
    """

    def __init__(
        self, config: VitConfig, schedule: Schedule, *, depth: int, seed: int = 0, drop_path_rate: float = 0.0
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
        self._skeletons: dict[int, nn.Module] = {}
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

    def expand(self, depth: int) -> dict[str, Tensor]:
        """Return the depth-L network's weights in timm's names, differentiable in the parameters."""
        weights: dict[str, Tensor] = dict(self.fixed.named_parameters())
        rows = self.schedule.coefficients(depth)
        for part, stacked in self.basis.named_parameters():
            components = stacked.unbind(0)
            for layer, row in enumerate(rows):
                weights[f"blocks.{layer}.{part}"] = combine(row, components)
        return weights

    def forward(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return the logits (B, C) of normalised `images` (B, in_chans, img_size, img_size) at `depth`."""
        depth = self.depth if depth is None else depth
        skeleton = self._skeleton(depth)
        logits: Tensor = functional_call(skeleton, self.expand(depth), (images,), strict=True)
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm's optimiser factory must not decay beyond those it knows by itself.

        A norm's weight has two axes here, so timm's rule "no decay on vectors" does not see it; the rest is timm's ViT list.
        """
        norms = {f"basis.{name}" for name, _ in self.basis.named_parameters() if name.startswith("norm")}
        return norms | {"fixed.pos_embed", "fixed.cls_token"}

    def _skeleton(self, depth: int) -> nn.Module:
        if depth not in self._skeletons:
            with torch.device("meta"):
                self._skeletons[depth] = timm.create_model(
                    timm_architecture(self.config),
                    num_classes=self.config.num_classes,
                    drop_path_rate=self.drop_path_rate,
                    **timm_model_args(self.config, depth),
                )
        skeleton = self._skeletons[depth]
        return skeleton if skeleton.training == self.training else skeleton.train(self.training)


def _register(tree: nn.Module, name: str, value: Tensor) -> None:
    """Register `value` as the parameter `name` of `tree`, with a module for each dot (PyTorch allows none in a name)."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in dict(tree.named_children()):
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    tree.register_parameter(leaf, nn.Parameter(value))
