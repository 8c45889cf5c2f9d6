"""Learngene Pool's distillation: its loss against a plain reference, its matrices, and what can be its ancestry model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.pools import CPU, ancestry_model, ancestry_teacher, pool_config
from tleg_core.anchor_config import AnchorRule, AnchorTraining, Positions, Terms
from tleg_core.description import Preprocessing
from tleg_core.designs.pool import Anchor, Pool
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.learngene_config import Distillation, KdNormalisation
from tleg_core.methods.stitching import nearest_stitching
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.distillation import divergence
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.loop import Trainer
from tleg_core.training.network import Network
from tleg_core.training.observer import Silent
from tleg_core.training.pool_distillation import (
    AncestryVit,
    AnchorModel,
    PoolDistillation,
    features_of,
    learned_stitches,
    mean_map,
    soft_cross_entropy,
)
from tleg_core.training.preprocessing import prepare
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

VIT = VitConfig(embed_dim=16, num_heads=2, img_size=16, patch_size=8, num_classes=3)
DEPTH = 3
PREPROCESSING = Preprocessing()


def anchor_model(terms: Terms = Terms.ALL, positions: int = 3) -> AnchorModel:
    """Return a small anchor with its matrices."""
    network = Network(architecture=timm_architecture(VIT), model_args=timm_model_args(VIT, DEPTH), num_classes=3)
    return AnchorModel(
        network.build(drop_path=0.0, seed=1), seed=2, ancestry_width=32, width=16, positions=positions, terms=terms
    )


def objective_of(model: AnchorModel, training: AnchorTraining, positions: Positions = Positions.FRONT_END) -> PoolDistillation:
    """Return the loss of that anchor."""
    return PoolDistillation(
        model,
        depth=DEPTH,
        positions=positions,
        config=training,
        ancestry=AncestryVit(ancestry_teacher()),
        img_size=16,
        preprocessing=PREPROCESSING,
    )


def batch_of(data: ImageSet) -> Batch:
    """Return eight images as a batch."""
    images = torch.from_numpy(data.images[:8]).permute(0, 3, 1, 2).float() / 255
    return Batch(images=images, targets=torch.from_numpy(data.labels[:8]), rows=torch.arange(8), view=0, step=0)


def by_hand(network: Any, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return logits, blocks' outputs and attentions' outputs, each block computed from its parts."""
    tokens = network.patch_embed(images) + network.pos_embed
    outputs, attentions = [], []
    for block in network.blocks:
        attended = block.attn(block.norm1(tokens))
        tokens = tokens + attended
        tokens = tokens + block.mlp(block.norm2(tokens))
        attentions.append(attended)
        outputs.append(tokens)
    return network.head(network.norm(tokens).mean(dim=1)), outputs, attentions


@pytest.mark.parametrize("terms", Terms)
@pytest.mark.parametrize("normalisation", KdNormalisation)
@pytest.mark.parametrize("alpha", [0.9, 1.0, 0.5])
def test_the_loss_is_the_papers(bars: ImageSet, terms: Terms, normalisation: KdNormalisation, alpha: float) -> None:
    """Loss and every gradient equal those of a plain step over the blocks, at the positions 0, 1, 2 against 1, 3, 5."""
    training = AnchorTraining(rule=AnchorRule.DISTILLED, alpha=alpha, normalisation=normalisation, terms=terms)
    model, batch = anchor_model(terms), batch_of(bars)
    outcome = objective_of(model, training)(batch)
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()

    images = prepare(batch.images, 16, PREPROCESSING)
    logits, outputs, attentions = by_hand(model.network, images)
    with torch.no_grad():
        their_logits, their_outputs, their_attentions = by_hand(ancestry_model().network, images)
    count = 8 if normalisation is KdNormalisation.BATCHMEAN else 8 * 3
    learned = -(their_logits.softmax(1) * logits.log_softmax(1)).sum() / count
    pairs = list(zip((0, 1, 2), (1, 3, 5), strict=True))
    for at, (own, their) in enumerate(pairs):
        if terms is not Terms.LOGITS:
            learned = learned + (outputs[own] - model.output_maps[at](their_outputs[their])).square().mean()
        if terms is Terms.ALL:
            learned = learned + (attentions[own] - model.attention_maps[at](their_attentions[their])).square().mean()
    expected = (1 - alpha) * functional.cross_entropy(logits, batch.targets) + alpha * learned
    torch.testing.assert_close(outcome.loss, expected)
    torch.testing.assert_close(outcome.logits, logits)
    expected.backward()
    assert found.keys() == dict(model.named_parameters()).keys()  # nothing is left without a gradient
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_matrices_change_during_distillation(bars: ImageSet, tmp_path: Any) -> None:
    """METHODS P1: the authors' optimiser does not have them; every one of ours moves in a single epoch."""
    config = pool_config().training
    model = anchor_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batches = Batches.of_image_set(bars, config, CPU)
    trainer = Trainer(
        model,
        objective_of(model, AnchorTraining(rule=AnchorRule.DISTILLED)),
        batches,
        config,
        identity={},
        keeper=FolderKeeper(tmp_path, 1000),
        observer=Silent(),
        device=CPU,
    )
    after = dict(trainer.run().named_parameters())
    for name, tensor in before.items():
        assert not torch.equal(tensor, after[name]), name
    maps = [name for name in before if "maps" in name]
    assert len(maps) == 3 * 2 * 2


def test_the_ancestry_model_sees_as_much_of_an_image_as_the_anchor() -> None:
    """Tokens are compared one by one, so its features are of the whole image even where its logits are of the centre."""
    teacher = ancestry_teacher(crop_pct=0.75)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = AncestryVit(teacher).features(images, (1, 5))
    _, outputs, attentions = by_hand(teacher.model.network, prepare(images, 16, PREPROCESSING))
    for block in (1, 5):
        torch.testing.assert_close(found.outputs[block], outputs[block])
        torch.testing.assert_close(found.attentions[block], attentions[block])
    assert not torch.allclose(found.logits, teacher.logits_of(images))


def test_hooks_are_gone_afterwards() -> None:
    """Also where the forward pass fails."""
    network: Any = ancestry_model().network

    def fail() -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        features_of(network, (1, 2), fail)
    features_of(network, (1,), lambda: network(torch.zeros(1, 3, 16, 16)))
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("normalisation", KdNormalisation)
def test_soft_cross_entropy_is_the_divergence_and_the_teachers_entropy(normalisation: KdNormalisation) -> None:
    """At any temperature: it has the divergence's gradient."""
    loss = Distillation(temperature=2.0, normalisation=normalisation)
    logits, theirs = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    target = (theirs / 2).softmax(1)
    entropy = -(target * target.log()).sum() * (4 / (4 if normalisation is KdNormalisation.BATCHMEAN else 20))
    torch.testing.assert_close(soft_cross_entropy(logits, theirs, loss), divergence(logits, theirs, loss) + entropy)


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        (None, {}, "is needed"),
        ("resnet18", {}, "must be a ViT for distilled anchors"),
        ("vit_tiny_patch16_224", {"patch_size": 4}, "has 16 patches, the anchors 4"),
        ("vit_tiny_patch16_224", {"class_token": True}, "has 1 tokens beside its patches, the anchors 0"),
    ],
)
def test_an_ancestry_model_that_cannot_be_compared_is_refused(
    architecture: str | None, changes: dict[str, Any], reason: str
) -> None:
    """What differs is named."""
    teacher = None if architecture is None else ancestry_teacher(architecture, **changes)
    with pytest.raises(ConfigError, match="ancestry") as caught:
        AncestryVit(teacher).check(VIT)
    assert reason in str(caught.value)


def pool_of(*widths: int) -> Pool:
    """Return a pool of these widths."""
    anchors = tuple(
        Anchor(name=f"a{width}", config=VitConfig(embed_dim=width, num_heads=2, img_size=16, patch_size=8), depth=DEPTH)
        for width in widths
    )
    stitching = nearest_stitching([DEPTH] * len(widths))
    return Pool(anchors=anchors, stitches=stitching.stitches, paths=stitching.paths)


def test_the_learned_start_is_the_transposed_mean_matrix() -> None:
    """METHODS 2.3: ancestry to Ti, (192, 768), becomes Ti to B, (768, 192), the same in every stitch; no bias."""
    linears = [nn.Linear(768, 192) for _ in range(3)]
    model = AnchorModel(nn.Identity())
    model.output_maps.extend(linears)
    maps = mean_map(model)
    assert maps.shape == (192, 768)
    stitches = learned_stitches(pool_of(192, 768), {0: maps, 1: torch.randn(768, 768)}, 768)
    assert len(stitches) == DEPTH - 1
    for weight, bias in stitches:
        assert weight.shape == (768, 192)
        torch.testing.assert_close(weight, ((linears[0].weight + linears[1].weight + linears[2].weight) / 3).T)
        assert not bias.any()


def test_between_other_widths_the_learned_start_leads_through_the_ancestry_models() -> None:
    """Up by one anchor's transposed matrix, down by the other's matrix."""
    small, large = torch.randn(8, 32), torch.randn(16, 32)
    for weight, _ in learned_stitches(pool_of(8, 16), {0: small, 1: large}, 32):
        torch.testing.assert_close(weight, large @ small.T)
    with pytest.raises(ConfigError, match=r"stitching\.init: learned needs the matrices of anchor a16"):
        learned_stitches(pool_of(8, 16), {0: small}, 32)
