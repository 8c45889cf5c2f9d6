"""The network without weights: recomputation, compilation and drop path against plain timm and against arithmetic."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tleg_core.schedule import Polynomial, Spline
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.stateless import StatelessVit
from tleg_core.vit import VIT_SIZES, timm_architecture, timm_model_args

# Dynamo looks whether tensors that are no leaves have a gradient, and ignores PyTorch's warning of it unless that is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

TINY = VIT_SIZES["test"]
IMAGES = torch.randn(6, 3, TINY.img_size, TINY.img_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Forget what other tests compiled: the same code of another shape counts as compiled again, and up to a limit only."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model(**options: Any) -> AuxiliaryModel:
    """Return an auxiliary model whose every parameter is random."""
    auxiliary = AuxiliaryModel(TINY, Spline(num_components=3), depth=6, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in auxiliary.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return auxiliary


def gradients(auxiliary: AuxiliaryModel, depths: tuple[int, ...], *, autocast: bool = False) -> list[Tensor]:
    """Return every parameter's gradient of one step over `depths`, with drop path's draws from one seed."""
    torch.manual_seed(3)
    auxiliary.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = [auxiliary(IMAGES, depth).float().square().sum() for depth in depths]
    torch.stack(losses).sum().backward()
    torch.manual_seed(99)  # nothing may be drawn again after this
    return [parameter.grad.clone() for parameter in auxiliary.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("drop_path", [0.0, 0.4])
@pytest.mark.parametrize("depths", [(6,), (9, 4, 2)], ids=["one depth", "three depths"])
def test_activation_checkpointing_gives_the_same_gradients(depths: tuple[int, ...], drop_path: float, autocast: bool) -> None:
    """To the bit: the same operators on the same weights and the same drawn branches, a second time."""
    kept = gradients(model(drop_path_rate=drop_path), depths, autocast=autocast)
    computed_again = gradients(model(drop_path_rate=drop_path, grad_checkpointing=True), depths, autocast=autocast)
    assert len(kept) == len(computed_again) == len(list(model().parameters()))
    assert all(torch.equal(a, b) for a, b in zip(kept, computed_again, strict=True))
    if drop_path:
        assert not all(torch.equal(a, b) for a, b in zip(kept, gradients(model(), depths, autocast=autocast), strict=True))


def test_activation_checkpointing_keeps_less() -> None:
    """Of each block its input only: the activations kept for the backward pass grow by one (B, N, D) with each layer."""

    def kept_bytes(depth: int, recompute: bool) -> int:
        auxiliary = model(grad_checkpointing=recompute)
        weights = {tensor.data_ptr() for tensor in auxiliary.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if tensor.dim() >= 3 and tensor.data_ptr() not in weights:  # activations; weights have two axes at most
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = auxiliary(IMAGES, depth).square().sum()
        loss.backward()
        return sum(kept.values())

    tokens = 4 * len(IMAGES) * TINY.num_tokens * TINY.embed_dim
    assert kept_bytes(6, recompute=True) - kept_bytes(3, recompute=True) <= 3 * tokens
    assert kept_bytes(6, recompute=False) - kept_bytes(3, recompute=False) > 10 * 3 * tokens


@pytest.mark.slow
def test_the_block_is_compiled_once_for_all_layers_depths_and_draws() -> None:
    """One graph with drop path, whatever depths follow each other; gradients are the eager ones, but for rounding."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = model(drop_path_rate=0.4, compiler=counter)
    for depths in ((6,), (9, 4, 2), (1,), (12,)):
        for got, expected in zip(gradients(compiled, depths), gradients(model(drop_path_rate=0.4), depths), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def test_the_compiled_block_can_be_computed_again() -> None:
    """Compilation and activation checkpointing together."""
    both = model(drop_path_rate=0.4, compiler="aot_eager", grad_checkpointing=True)
    for got, expected in zip(gradients(both, (9, 4)), gradients(model(drop_path_rate=0.4), (9, 4)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_the_same_fused_and_plain() -> None:
    """On a CPU in bfloat16 the plain products are taken, for they are faster; logits differ by rounding alone."""
    auxiliary = AuxiliaryModel(TINY, Polynomial(), depth=3).eval()
    with torch.no_grad():
        expected = auxiliary(IMAGES)
        with torch.autocast("cpu", torch.bfloat16):
            got = auxiliary(IMAGES).float()
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02 * float(expected.abs().max()))  # bfloat16 has 8 bits
    operators: list[str] = []
    for autocast in (False, True):
        with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            auxiliary(IMAGES)
        operators.append(" ".join(event.key for event in profile.key_averages()))
    assert "flash_attention" in operators[0]
    assert "flash_attention" not in operators[1]


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_inductor_gives_the_eager_gradients(autocast: bool) -> None:
    """With torch's own compiler, which needs a C++ compiler on a CPU."""
    got = gradients(model(drop_path_rate=0.4, compiler="inductor"), (9, 4), autocast=autocast)
    expected = gradients(model(drop_path_rate=0.4), (9, 4), autocast=autocast)
    for a, b in zip(got, expected, strict=True):
        scale = b.abs().max().item()
        # fused kernels round less often than bfloat16's operators one by one
        torch.testing.assert_close(a, b, rtol=0, atol=(0.05 if autocast else 1e-4) * scale)


def test_nothing_is_compiled_where_no_gradient_is_computed() -> None:
    """Measuring held-out images, at any batch size, takes no compiler's time."""
    counter = CompileCounterWithBackend("eager")
    compiled = model(compiler=counter).eval()
    with torch.inference_mode():
        compiled(IMAGES, 3)
    assert counter.frame_count == 0


BROKEN_COMPILER = """
import torch
from tleg_core.errors import ConfigError
from tleg_core.schedule import Polynomial
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.vit import VIT_SIZES

def broken(graph, inputs):
    raise OSError("no C++ compiler")

tiny = VIT_SIZES["test"]
try:
    AuxiliaryModel(tiny, Polynomial(), depth=2, compiler=broken)(torch.zeros(1, 3, tiny.img_size, tiny.img_size))
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_compiler_that_fails_is_a_setting_that_does_not_fit() -> None:
    """It is asked for by name, so nothing else is done in its place.

    In a process of its own: after a failure PyTorch keeps its hook in the interpreter, and references live a little longer.
    """
    command = [sys.executable, "-c", BROKEN_COMPILER]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    assert said.startswith("training.compile: ")
    assert "no C++ compiler" in said


def test_drop_path_multiplies_each_branch_of_each_image() -> None:
    """Against plain timm whose drop path modules are replaced by the drawn factors."""
    auxiliary = AuxiliaryModel(TINY, Polynomial(), depth=4, drop_path_rate=0.5, seed=2)
    torch.manual_seed(8)
    got = auxiliary(IMAGES)
    torch.manual_seed(8)
    shares = 1 - torch.tensor([0.0, 0.5 / 3, 1.0 / 3, 0.5])  # the share of each layer's branches that is kept
    factors = (torch.rand(4, 2, 6, 1, 1) < shares.view(4, 1, 1, 1, 1)) / shares.view(4, 1, 1, 1, 1)

    class Times(torch.nn.Module):
        def __init__(self, factor: Tensor) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, branch: Tensor) -> Tensor:
            return branch * self.factor

    network = timm.create_model(timm_architecture(TINY), num_classes=10, **timm_model_args(TINY, 4))
    network.load_state_dict(auxiliary.expand(4), strict=True)
    for block, (first, second) in zip(network.blocks, factors, strict=True):
        block.drop_path1, block.drop_path2 = Times(first), Times(second)
    assert 0 < (factors == 0).float().mean() < 0.6
    torch.testing.assert_close(got, network(IMAGES), rtol=1e-5, atol=1e-6)  # one more rounding of the factor


def test_drop_path_is_off_in_evaluation_and_keeps_the_mean_in_training() -> None:
    """Of many copies of an image some skip the last layer's branches; the others' are scaled so that the mean is the same."""
    images = IMAGES[:1].expand(4096, -1, -1, -1)
    auxiliary = AuxiliaryModel(TINY, Polynomial(), depth=2, drop_path_rate=0.3)
    layers = auxiliary.layers(2)
    layers[1] = layers[1] | {name: torch.zeros_like(layers[1][name]) for name in ("mlp.fc2.weight", "mlp.fc2.bias")}
    network, ends = StatelessVit(TINY), dict(auxiliary.fixed.named_parameters())
    ends |= {"norm.weight": torch.ones(TINY.embed_dim), "head.weight": torch.randn(10, TINY.embed_dim)}
    torch.manual_seed(0)
    with torch.no_grad():
        whole = network(images[:1], ends, layers)
        skipped = network(images[:1], ends, layers[:1])
        drawn = network(images, ends, layers, drop_path=0.3)
        assert torch.equal(
            auxiliary.eval()(IMAGES, 2), network(IMAGES, dict(auxiliary.fixed.named_parameters()), auxiliary.layers(2))
        )
    dropped = torch.isclose(drawn, skipped, rtol=0, atol=1e-5).all(dim=1)
    assert 0.27 < dropped.float().mean() < 0.33  # 4,096 draws: four standard deviations
    assert not torch.isclose(drawn[~dropped], whole, rtol=0, atol=1e-5).all(dim=1).any()
