"""Plain attention in place of the fused one: the same function, where it is the faster one."""

from __future__ import annotations

import pytest
import timm
import torch

from tleg_core.training.attention import fuses_attention, use_plain_attention


@pytest.mark.parametrize(
    ("device", "half", "fused"), [("cpu", True, False), ("cpu", False, True), ("cuda", True, True), ("cuda", False, True)]
)
def test_only_a_cpu_in_half_precision_goes_without_the_fused_one(device: str, half: bool, fused: bool) -> None:
    """Measured there; elsewhere PyTorch's own is taken."""
    assert fuses_attention(torch.device(device), half=half) is fused


def test_the_function_stays_the_same() -> None:
    """Logits and gradients agree to rounding, and every block was changed."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=5, img_size=32).train()
    images = torch.rand(2, 3, 32, 32)
    results = []
    for plain in (False, True):
        if plain:
            use_plain_attention(network)
        network.zero_grad()
        logits = network(images)
        logits.square().sum().backward()
        results.append((logits.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
    assert not any(block.attn.fused_attn for block in network.blocks)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-5)
    for fused, unfused in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(fused, unfused, rtol=1e-3, atol=1e-4)
