"""Auto-LG: the look-ahead's gradient is exact, and the lambda nets find the layer that helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tleg_core.description import Preprocessing
from tleg_core.errors import CheckpointError
from tleg_core.images import ImageSet
from tleg_core.inheritance_config import MatchCriterion, Transfer
from tleg_core.training.ancestry_vit import AncestryVit
from tleg_core.training.attention import use_plain_attention
from tleg_core.training.batches import Batch
from tleg_core.training.errors import TrainingInterruptedError
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.layer_transfer import (
    TransferEvidence,
    TransferModel,
    TransferObjective,
    frozen_source,
    measure_transfer,
    transfer_model,
)
from tleg_core.training.look_ahead import LayeredVit, lambdas, look_ahead_loss, matching_loss, pooled
from tleg_core.training.loop import Wish
from tleg_core.training.network import Network
from tleg_core.training.observer import Silent
from tleg_core.training.pixels import Draws, MemoryPixels
from tleg_core.training_config import Augmentation, Precision, TrainingConfig
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

CPU = torch.device("cpu")
VIT = VitConfig(embed_dim=16, num_heads=2, img_size=16, patch_size=8, num_classes=3, mlp_ratio=2.0)
TRAINING = TrainingConfig(epochs=2, batch_size=16, lr=1e-3, precision=Precision.FLOAT32, augmentation=Augmentation(shift=0))
TRANSFER = Transfer(depth=2, meta_images=8, score_images=20, meta_lr=1e-2)


def layered(depth: int, seed: int, config: VitConfig = VIT) -> LayeredVit:
    """Return a random ViT whose attention has a gradient of its gradient."""
    network = Network(
        architecture=timm_architecture(config), model_args=timm_model_args(config, depth), num_classes=config.num_classes
    ).build(drop_path=0.0, seed=seed)
    use_plain_attention(network)
    return LayeredVit(network).eval()


def ancestry_vit(depth: int = 3) -> AncestryVit:
    """Return a random ancestry."""
    weights = {name.removeprefix("network."): tensor.detach() for name, tensor in layered(depth, 0).state_dict().items()}
    return AncestryVit(config=VIT, depth=depth, weights=weights, preprocessing=Preprocessing(), identity="random")


def test_tokens_and_logits_are_timms() -> None:
    """The layered network computes what timm's forward does; its last tokens, normalised, are timm's features."""
    for class_token, pool in ((False, "avg"), (True, "token")):
        torch.manual_seed(0)
        network = timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=3,
            **timm_model_args(VIT, 3) | {"class_token": class_token, "global_pool": pool},
        ).eval()
        images = torch.randn(2, 3, 16, 16)
        layers, logits = LayeredVit(network)(images)
        assert [tuple(tokens.shape) for tokens in layers] == [(2, 4 + class_token, 16)] * 3
        torch.testing.assert_close(network.norm(layers[-1]), network.forward_features(images))
        torch.testing.assert_close(logits, network(images))


def test_lambda_is_relu6_of_a_linear_layer_on_the_mean_token() -> None:
    """Written out for one pair of layers; without weights it is the bias."""
    layers = [torch.randn(5, 4, 8) for _ in range(3)]
    weight, bias = torch.randn(3, 2, 8) * 3, torch.randn(3, 2)
    found = lambdas(pooled(layers), weight, bias)
    assert found.shape == (5, 3, 2)
    expected = (layers[2].mean(dim=1) @ weight[2, 1] + bias[2, 1]).clamp(0.0, 6.0)
    torch.testing.assert_close(found[:, 2, 1], expected)
    assert torch.equal(lambdas(pooled(layers), torch.zeros(3, 2, 8), torch.ones(3, 2)), torch.ones(5, 3, 2))


@pytest.mark.parametrize("criterion", MatchCriterion)
def test_the_matching_loss_weighs_each_image_and_pair(criterion: MatchCriterion) -> None:
    """Against two loops over images and pairs."""
    source, target = [torch.randn(3, 4, 8) for _ in range(2)], [torch.randn(3, 4, 8) for _ in range(2)]
    weights = torch.rand(3, 2, 2)
    expected = 0.0
    for image in range(3):
        for m in range(2):
            for n in range(2):
                difference = source[m][image] - target[n][image]
                power = 1 if criterion is MatchCriterion.ABSOLUTE else 2
                expected += float(weights[image, m, n]) * float(difference.abs().pow(power).mean()) / 3
    assert matching_loss(source, target, weights, criterion).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("criterion", MatchCriterion)
def test_the_outer_gradient_is_that_of_finite_differences(criterion: MatchCriterion) -> None:
    """Through two inner steps, the step on the cross-entropy and ReLU6, in float64, for every weight and bias."""
    config = VitConfig(embed_dim=4, num_heads=1, img_size=8, patch_size=4, num_classes=2, mlp_ratio=1.0)
    torch.manual_seed(0)
    network = layered(1, seed=1, config=config).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # no zeros, and steps that matter
    parameters = {name: parameter.detach().requires_grad_() for name, parameter in network.named_parameters()}
    source = [torch.randn(3, 4, 4, dtype=torch.float64) for _ in range(2)]
    meta_images, images = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    targets = torch.tensor([0, 1, 1, 0])

    def loss_of(weight: Tensor, bias: Tensor) -> Tensor:
        return look_ahead_loss(
            network,
            parameters,
            lambdas(pooled(source), weight, bias),
            source=source,
            meta_images=meta_images,
            images=images,
            targets=targets,
            steps=2,
            lr=0.3,
            criterion=criterion,
        )

    weight = (0.1 * torch.randn(2, 1, 4, dtype=torch.float64)).requires_grad_()
    bias = torch.ones(2, 1, dtype=torch.float64).requires_grad_()
    gradients = torch.autograd.grad(loss_of(weight, bias), [weight, bias])
    assert min(gradient.abs().max().item() for gradient in gradients) > 1e-4  # there is something to compare
    assert torch.autograd.gradcheck(loss_of, (weight, bias), eps=1e-6, atol=1e-8, rtol=1e-4)


def test_the_look_ahead_leaves_the_network_as_it_is() -> None:
    """Only the lambda nets move; the pseudo-descendant's weights, gradients and mode do not."""
    transfer = TRANSFER
    model = transfer_model(ancestry_vit(), transfer, TRAINING, 3, CPU)
    before = {name: tensor.clone() for name, tensor in model.descendant.state_dict().items()}
    objective = TransferObjective(model, frozen_source(ancestry_vit(), CPU), transfer, torch.randn(4, 3, 16, 16), lambda x: x)
    objective._look_ahead(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.descendant.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.descendant.training
    assert float((model.bias - 1.0).abs().max()) == pytest.approx(transfer.meta_lr, rel=1e-3)  # Adam's first step
    assert {name for name, _ in model.named_parameters()} == {f"descendant.{name}" for name in before}


def test_a_batch_in_parts_has_one_look_ahead() -> None:
    """The step of Adam is counted once an update, and again in the next."""
    model = transfer_model(ancestry_vit(), TRANSFER, TRAINING, 3, CPU)
    objective = TransferObjective(model, frozen_source(ancestry_vit(), CPU), TRANSFER, torch.randn(4, 3, 16, 16), lambda x: x)
    for step in (0, 1):
        rows = torch.arange(4)
        batch = Batch(images=torch.randn(4, 3, 16, 16), targets=torch.tensor([0, 1, 2, 0]), rows=rows, view=0, step=step)
        for part in batch.chunk(2):
            objective(part)
        assert float(model.bias_steps) == step + 1


def test_the_lambda_nets_find_the_layer_whose_features_the_task_needs(bars: ImageSet) -> None:
    """Planted: layer 1 of three has the features of a network that knows the classes; the others have noise of their size."""
    torch.manual_seed(0)
    images = torch.from_numpy(bars.images).permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
    labels = torch.from_numpy(bars.labels)
    knowing = layered(2, seed=1)
    optimizer = torch.optim.Adam(knowing.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(knowing(images)[1], labels).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(functional.cross_entropy(knowing(images)[1], labels)) < 0.1
        useful = knowing(images)[0][-1]  # (48, N, D)
    noise = [useful[torch.randperm(48)], useful[torch.randperm(48)]]  # of other images

    def source(batch: Tensor) -> list[Tensor]:
        places = [int((images - image).abs().flatten(1).sum(dim=1).argmin()) for image in batch]
        return [noise[0][places], useful[places], noise[1][places]]

    transfer = Transfer(depth=2, inner_steps=3, inner_lr=0.3, match_weight=0.3, meta_lr=5e-2, criterion=MatchCriterion.SQUARED)
    descendant = layered(2, seed=2)
    with torch.no_grad():  # one head for both: what it makes of the useful features is the classes
        for name, parameter in descendant.named_parameters():
            if name.startswith(("network.norm.", "network.head.")):
                parameter.copy_(knowing.get_parameter(name))
    model = TransferModel(descendant, depth=2, ancestry_depth=3, width=16, device=CPU)
    objective = TransferObjective(model, source, transfer, images[:24], lambda x: x)
    for step in range(15):
        rows = torch.arange(step % 2, 48, 2)
        objective(Batch(images=images[rows], targets=labels[rows], rows=rows, view=0, step=step))
    scores = model.lambdas(pooled(source(images))).mean(dim=(0, 2))
    assert int(scores.argmax()) == 1
    assert float(scores[1]) > float(scores[[0, 2]].max()) + 0.3


def measured(data: ImageSet, folder: Path, **options: Any) -> TransferEvidence:
    """Return the evidence of a tiny run."""
    return measure_transfer(
        ancestry_vit(),
        data,
        MemoryPixels(data, CPU),
        options.pop("transfer", TRANSFER),
        TRAINING,
        plain=options.pop("plain", MemoryPixels(data, CPU)),
        keeper=FolderKeeper(folder, 1000),
        observer=Silent(),
        device=CPU,
        **options,
    )


def test_a_stopped_run_goes_on_to_the_same_lambdas(bars: ImageSet, tmp_path: Path) -> None:
    """The lambda nets and their optimiser are in the checkpoint; the table is the same, bit for bit."""
    whole = measured(bars, tmp_path / "whole")
    asked = 0

    def wish() -> Wish:
        nonlocal asked
        asked += 1
        return Wish.SAVE if asked == 4 else Wish.GO_ON

    with pytest.raises(TrainingInterruptedError, match="--resume"):
        measured(bars, tmp_path / "stopped", wish=wish)
    resumed = measured(bars, tmp_path / "stopped", resume=True)
    assert np.array_equal(whole.table, resumed.table)
    assert (whole.table.shape, whole.images) == ((3, 2), 20)
    assert whole.scores == pytest.approx(whole.table.mean(axis=1).tolist())
    assert len(set(whole.table.round(4).flatten().tolist())) > 1  # something was learned
    with pytest.raises(CheckpointError, match="transfer was"):
        measured(bars, tmp_path / "stopped", resume=True, transfer=Transfer(depth=2, meta_images=8, meta_lr=1e-3))


def test_the_fixed_batch_and_the_scores_are_of_images_as_they_are(bars: ImageSet, tmp_path: Path) -> None:
    """8 for the look-ahead, then 20 in eights; what the pseudo-descendant is trained on are other pixels."""
    taken: list[int] = []

    class Noted(MemoryPixels):
        def take(self, rows: Sequence[int], draws: Draws) -> Tensor:
            taken.append(len(rows))
            return super().take(rows, draws)

    measured(bars, tmp_path, plain=Noted(bars, CPU))
    assert taken == [8, 8, 8, 4]


def test_the_ancestry_is_frozen() -> None:
    """Its features have no gradient, and are the plain network's."""
    ancestry = ancestry_vit()
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    layers = frozen_source(ancestry, CPU)(images)
    assert not any(tokens.requires_grad for tokens in layers)
    network: nn.Module = layered(3, 0)
    torch.testing.assert_close(layers[-1], network(images)[0][-1])
