"""The auxiliary model against the formula, timm, and the published sizes."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tleg_core.designs.basis import basis_shapes
from tleg_core.errors import CheckpointError
from tleg_core.learngene_config import Distillation
from tleg_core.schedule import Polynomial, Schedule, Spline, Stagewise
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.distillation import distillation_loss
from tleg_core.vit import VIT_SIZES, VitConfig, block_shapes, timm_architecture, timm_model_args

TINY = VIT_SIZES["test"]
LINEAR = Polynomial(num_components=2)


@pytest.fixture
def model() -> AuxiliaryModel:
    """A depth-12 auxiliary model whose every parameter is random: zero biases would hide mistakes."""
    auxiliary = AuxiliaryModel(TINY, LINEAR, depth=12)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in auxiliary.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return auxiliary.eval()


def timm_descendant(config: VitConfig, weights: dict[str, Tensor], depth: int) -> torch.nn.Module:
    """Build the descendant in plain timm, loaded strictly."""
    network = timm.create_model(timm_architecture(config), num_classes=config.num_classes, **timm_model_args(config, depth))
    network.load_state_dict(weights, strict=True)
    return network.eval()


@pytest.mark.parametrize("depth", [1, 3, 7, 12])
def test_layers_follow_the_published_formula(model: AuxiliaryModel, depth: int) -> None:
    """Layer 0 is exactly theta_B, layer i is theta_B + i/L * theta_A, for all twelve tensors of a block."""
    weights = model.expand(depth)
    assert len(block_shapes(TINY)) == 12
    for part in block_shapes(TINY):
        theta_b, theta_a = model.basis.get_parameter(part)
        assert torch.equal(weights[f"blocks.0.{part}"], theta_b)
        for layer in range(depth):
            expected = theta_b.double() + layer / depth * theta_a.double()
            # float32 rounding of one coefficient, one product and one sum
            torch.testing.assert_close(weights[f"blocks.{layer}.{part}"].double(), expected, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("depth", [1, 2, 5, 12, 20])
def test_a_descendant_in_plain_timm_gives_the_auxiliary_models_logits(model: AuxiliaryModel, depth: int) -> None:
    """At the trained depth and at any other, what timm computes is what was trained."""
    images = torch.randn(4, 3, TINY.img_size, TINY.img_size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = timm_descendant(TINY, model.expand(depth), depth)(images)
        torch.testing.assert_close(
            model(images, depth), expected, rtol=1e-6, atol=1e-6
        )  # the same operators on the same weights


@pytest.mark.parametrize(("size", "num_params"), [("tiny", 1_268_392), ("small", 4_305_256), ("base", 15_687_400)])
def test_stored_sizes_are_the_published_ones(size: str, num_params: int) -> None:
    """Two blocks and the fixed tensors, at 1000 classes, 224 px and patch 16."""
    auxiliary = AuxiliaryModel(VIT_SIZES[size], LINEAR, depth=12)
    assert sum(parameter.numel() for parameter in auxiliary.parameters()) == num_params


def test_parameters_are_a_learngenes_tensors(model: AuxiliaryModel) -> None:
    """Names and shapes are those of a learngene's file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.learngene_tensors().items()}
    assert shapes == basis_shapes(TINY, 2)


@pytest.mark.parametrize("schedule", [LINEAR, Polynomial(num_components=3), Stagewise()], ids=["linear", "cubic", "stages"])
def test_every_component_gets_a_gradient(schedule: Schedule) -> None:
    """Expansion is differentiable for each schedule, and no parameter is left out."""
    auxiliary = AuxiliaryModel(TINY, schedule, depth=16)
    auxiliary(torch.randn(2, 3, TINY.img_size, TINY.img_size)).square().sum().backward()
    for name, parameter in auxiliary.named_parameters():
        assert parameter.grad is not None, name
        reached = parameter.grad.flatten(1).any(dim=1) if name.startswith("basis.") else parameter.grad.any()
        # a key's bias shifts all scores of a query alike, which softmax takes out; the query's and value's biases remain
        assert reached.all(), name


def test_the_fresh_model_is_initialised_as_published() -> None:
    """Weights of both components have standard deviation 0.02, biases are zero, and layer norms start at one."""
    auxiliary = AuxiliaryModel(VIT_SIZES["tiny"], LINEAR, depth=12, seed=3)
    for part, stacked in auxiliary.basis.named_parameters():
        if part.endswith(".bias"):
            assert not stacked.any()
        elif part.startswith("norm"):
            assert (stacked[0] == 1).all()
            assert not stacked[1].any()
        else:
            torch.testing.assert_close(stacked.flatten(1).std(dim=1), torch.full((2,), 0.02), rtol=0.02, atol=0)  # 36,864 draws
    stages = AuxiliaryModel(TINY, Stagewise(), depth=16)
    assert (stages.basis.get_parameter("norm1.weight") == 1).all()
    again = AuxiliaryModel(VIT_SIZES["tiny"], LINEAR, depth=12, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(auxiliary.parameters(), again.parameters(), strict=True))


def test_the_whole_model_can_be_computed_again(model: AuxiliaryModel) -> None:
    """Nothing is remembered between calls, even of two depths in one step (the authors' code fails here)."""
    images = torch.randn(3, 3, TINY.img_size, TINY.img_size)

    def gradients(recompute: bool) -> list[Tensor]:
        model.zero_grad()
        total = torch.zeros(())
        for depth in (4, 12):
            logits = checkpoint(model, images, depth, use_reentrant=False) if recompute else model(images, depth)
            total = total + logits.square().sum()
        total.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-6)  # sums in another order


@pytest.mark.parametrize(
    "schedule",
    [LINEAR, Polynomial(num_components=3), Polynomial(num_components=3, endpoint=True), Spline(), Stagewise(stages=(2, 1, 2))],
    ids=str,
)
def test_a_steps_gradient_is_the_chain_rule_over_plain_timms(schedule: Schedule) -> None:
    """dL/dbasis[k] = sum_i C[i, k] dL/dW_i, where dL/dW_i is autograd's through an ordinary timm model; likewise all else."""
    auxiliary = AuxiliaryModel(TINY, schedule, depth=5, seed=4)
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(6, 3, TINY.img_size, TINY.img_size, generator=generator)
    teacher_logits, labels = torch.randn(6, 10, generator=generator), torch.arange(6)

    def loss_of(logits: Tensor) -> Tensor:
        return distillation_loss(logits, teacher_logits, labels, Distillation(alpha=0.6, temperature=2.0))

    plain = timm_descendant(TINY, {name: tensor.detach() for name, tensor in auxiliary.expand(5).items()}, 5)
    loss_of(plain(images)).backward()
    loss_of(auxiliary(images)).backward()
    by_name = {name: parameter.grad.double() for name, parameter in plain.named_parameters() if parameter.grad is not None}
    rows = torch.tensor(schedule.coefficients(5), dtype=torch.float64)
    for name, parameter in auxiliary.named_parameters():
        kind, part = name.split(".", 1)
        if kind == "fixed":
            expected = by_name[part]
        else:
            expected = torch.einsum("lk,l...->k...", rows, torch.stack([by_name[f"blocks.{i}.{part}"] for i in range(5)]))
        assert parameter.grad is not None
        scale = expected.abs().max().item()
        # float32 sums in another order; a gradient that is a cancelled sum (a key's bias: exactly zero) is all rounding
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-4, atol=1e-5 * scale + 1e-9)


def test_norms_and_biases_are_not_decayed(model: AuxiliaryModel) -> None:
    """The rule of timm for vectors is kept although a stacked norm weight is a matrix."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    decayed = {names[id(p)] for group in groups for p in group["params"] if group["weight_decay"] > 0}
    matrices = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert decayed == {f"basis.{name}.weight" for name in matrices} | {"fixed.patch_embed.proj.weight", "fixed.head.weight"}


def test_loading_reports_every_name_that_does_not_fit(model: AuxiliaryModel) -> None:
    """Missing, unexpected and misshapen tensors are named in one error, and nothing is loaded."""
    tensors = {name: torch.zeros_like(tensor) for name, tensor in model.learngene_tensors().items()}
    del tensors["basis.norm1.bias"]
    tensors |= {"fc_norm.weight": torch.zeros(1), "head.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"basis.norm1.bias.*fc_norm.weight.*head.bias"):
        model.load_learngene_tensors(tensors)
    assert model.fixed.get_parameter("pos_embed").any()
