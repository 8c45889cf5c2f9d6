"""The pool as a network: paths through timm's anchors, what is trained along one, and the tensors of its file."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from tleg_core.designs.pool import Anchor, Pool, Stitch
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.path import Path
from tleg_core.recipe import Member
from tleg_core.training.network import Network
from tleg_core.training.pool_model import PoolModel
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args

DEPTH = 3
SMALL_TO_LARGE = Path.parse("0.0-0_1.1-2")
THERE_AND_BACK = Path.parse("0.0-0_1.1-1_0.2-2")


def config(width: int, *, class_token: bool = False) -> VitConfig:
    """Return an anchor's network."""
    return VitConfig(
        embed_dim=width,
        num_heads=width // 16,
        img_size=16,
        patch_size=4,
        num_classes=5,
        mlp_ratio=2.0,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
    )


def pool(*, class_token: bool = False) -> Pool:
    """Return two anchors of three blocks, stitched there and back."""
    return Pool(
        anchors=tuple(
            Anchor(name=name, config=config(width, class_token=class_token), depth=DEPTH)
            for name, width in (("a", 32), ("b", 48))
        ),
        stitches=(
            Stitch(source=0, target=1, joins=((0, 0), (0, 1))),
            Stitch(source=0, target=1, joins=((1, 1), (1, 2))),
            Stitch(source=1, target=0, joins=((1, 2),)),
        ),
        paths=(SMALL_TO_LARGE, THERE_AND_BACK),
    )


def images(count: int = 2) -> Tensor:
    """Return noise."""
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def member_weights(of: Pool, path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a member's weights out of the pool's, as the served file takes them."""
    member = Member.along(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return {
        spec.name: torch.from_numpy(of.source(spec, member, arrays, 0).read(0, spec.size).copy()).reshape(spec.shape)
        for spec in of.stack(member).inventory()
    }


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("text", ["0.0-2", "1.0-2", str(SMALL_TO_LARGE), str(THERE_AND_BACK)])
def test_a_path_is_the_descendant_that_is_served(class_token: bool, rank: int | None, text: str) -> None:
    """The logits along every path are those of the network that its file's tensors make: exactly, or to rounding if merged."""
    of, path = pool(class_token=class_token), Path.parse(text)
    model = PoolModel(of, stitch_rank=rank).eval()
    if rank is not None:
        with torch.no_grad():
            for parameter in model.stitches.parameters():
                parameter.add_(0.1)
    stack = of.stack(Member.along(path))
    network = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=5)
    weights = member_weights(of, path, model.pool_tensors())
    member = network.load(weights, drop_path=0.0, device=torch.device("cpu")).eval()
    with torch.no_grad():
        along, expected = model(images(), path), member(images())
    if rank is None or not path.joins:
        assert torch.equal(along, expected)
    else:
        torch.testing.assert_close(along, expected, atol=1e-5, rtol=1e-5)  # W_0 x + B A x against (W_0 + B A) x, float32


def test_a_whole_anchor_is_timms_model() -> None:
    """Logits bit for bit, by timm's own forward pass."""
    model = PoolModel(pool()).eval()
    plain = timm.create_model(timm_architecture(config(48)), num_classes=5, **timm_model_args(config(48), DEPTH)).eval()
    plain.load_state_dict(model.anchors[1].state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(model(images(), Path.parse("1.0-2")), plain(images()))


def test_gradients_reach_what_stands_on_the_path_alone() -> None:
    """The first anchor's embedding and blocks, the stitch, the last anchor's blocks, norm and head; nothing else."""
    model = PoolModel(pool())
    model(images(), SMALL_TO_LARGE).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    parts = (
        "anchors.0.pos",
        "anchors.0.patch",
        "anchors.0.blocks.0.",
        "stitches.0.",
        "anchors.1.blocks.1.",
        "anchors.1.blocks.2.",
    )
    own = (*parts, "anchors.1.norm.", "anchors.1.head.")
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(own)}


def test_a_low_rank_stitch_starts_as_its_frozen_weight_and_leaves_it() -> None:
    """The update is nothing at first; training changes A, B and the bias, and the file's weight by a matrix of that rank."""
    model = PoolModel(pool(), stitch_rank=3)
    before = {name: tensor.clone() for name, tensor in model.pool_tensors().items()}
    frozen = model.get_buffer("stitches.0.weight").clone()
    assert torch.equal(before["stitches.0.weight"], frozen)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.01, weight_decay=0.05)
    for _ in range(2):
        model(images(), SMALL_TO_LARGE).square().sum().backward()
        optimizer.step()
    after = model.pool_tensors()
    assert torch.equal(model.get_buffer("stitches.0.weight"), frozen)
    assert torch.linalg.matrix_rank(after["stitches.0.weight"] - frozen, rtol=1e-3) == 3
    assert not torch.equal(after["stitches.0.bias"], before["stitches.0.bias"])
    assert {name for name, _ in model.stitches[0].named_parameters()} == {"down", "up", "bias"}


@pytest.mark.parametrize("rank", [None, 2])
def test_its_tensors_are_the_files(rank: int | None) -> None:
    """Names, shapes and order; loaded ones come out as they went in, whatever update was learned before."""
    of = pool(class_token=True)
    model = PoolModel(of, stitch_rank=rank)
    expected = of.tensor_shapes()
    assert [(name, tuple(tensor.shape)) for name, tensor in model.pool_tensors().items()] == list(expected.items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    drawn = {name: torch.randn(shape) for name, shape in expected.items()}
    model.load_pool_tensors(drawn)
    assert all(torch.equal(drawn[name], tensor) for name, tensor in model.pool_tensors().items())


def test_the_seed_decides_and_the_global_generator_stays() -> None:
    """Two models of one seed are equal."""
    state = torch.get_rng_state()
    one, two, other = (PoolModel(pool(), seed=seed).pool_tensors() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["stitches.0.weight"], other["stitches.0.weight"])


def test_drop_path_is_timms_rule_in_each_anchor() -> None:
    """And acts in training only."""
    model = PoolModel(pool(), drop_path_rate=0.4)
    for index in range(2):
        blocks: Any = model.get_submodule(f"anchors.{index}.blocks")
        assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks] == pytest.approx([0.0, 0.2, 0.4])
    many = images(64)
    torch.manual_seed(0)
    assert not torch.equal(model(many, SMALL_TO_LARGE), model(many, SMALL_TO_LARGE))
    model.eval()
    assert torch.equal(model(many, SMALL_TO_LARGE), model(many, SMALL_TO_LARGE))


def test_grad_checkpointing_changes_no_gradient() -> None:
    """The activations are computed again."""

    def gradients(enable: bool) -> list[Tensor]:
        model = PoolModel(pool())
        model.set_grad_checkpointing(enable)
        model(images(), THERE_AND_BACK).square().sum().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    assert all(torch.equal(plain, again) for plain, again in zip(gradients(False), gradients(True), strict=True))


def test_what_timm_must_not_decay() -> None:
    """Position embeddings and class tokens, beside vectors."""
    model = PoolModel(pool(class_token=True))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.01, weight_decay=0.05)
    decayed = {id(parameter) for group in optimizer.param_groups if group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert names == {name for name, parameter in model.named_parameters() if parameter.ndim > 1} - model.no_weight_decay()


def test_tensors_of_another_pool_are_refused() -> None:
    """Each difference is named."""
    model = PoolModel(pool())
    tensors = model.pool_tensors() | {"anchors.2.norm.weight": torch.zeros(3), "stitches.0.bias": torch.zeros(3)}
    del tensors["stitches.1.weight"]
    with pytest.raises(CheckpointError, match=r"missing .*stitches\.1.*unexpected .*anchors\.2.*another shape .*stitches\.0"):
        model.load_pool_tensors(tensors)


@pytest.mark.parametrize("rank", [0, 33])
def test_a_rank_outside_its_limits_is_refused(rank: int) -> None:
    """Above the smaller width a product of two is no saving."""
    with pytest.raises(ConfigError, match="stitch_rank"):
        PoolModel(pool(), stitch_rank=rank)


def test_a_path_without_a_stitch_is_refused() -> None:
    """Before anything is computed."""
    with pytest.raises(ConfigError, match="no stitch"):
        PoolModel(pool())(images(), Path.parse("0.0-1_1.0-2"))


def test_a_copy_is_independent() -> None:
    """As an EMA takes one."""
    model = PoolModel(pool())
    twin = copy.deepcopy(model)
    nn.init.zeros_(model.get_parameter("stitches.0.weight"))
    assert twin.get_parameter("stitches.0.weight").any()
