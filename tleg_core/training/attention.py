"""Which form of attention is the faster one where a network computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def fuses_attention(device: torch.device, *, half: bool) -> bool:
    """Whether PyTorch's fused attention is the faster one in training, in half precision or not.

    Its backward pass is not on a CPU in half precision: 73 ms a layer for Ti at batch 128 and 16 tokens (PyTorch 2.15), more
    than the rest of the layer takes; with plain products a whole step is 1.7 to 1.8 times as fast.
    """
    return device.type != "cpu" or not half


def use_plain_attention(network: nn.Module) -> None:
    """Have every attention of a timm network computed by plain products; the function stays the same but for rounding."""
    for module in network.modules():
        attention: Any = module
        if hasattr(attention, "fused_attn"):
            attention.fused_attn = False
