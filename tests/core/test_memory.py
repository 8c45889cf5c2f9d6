"""Peak inference memory against the storages that are alive during a real eager forward pass of timm."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tleg_core.cost import cost
from tleg_core.dtype import DType
from tleg_core.vit import VIT_SIZES, VitConfig

from .conftest import build_timm
from .strategies import vit_configs


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all living untyped storages, from the given tensors on; views share their storage."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._living: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in tensors:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size_bytes = storage._cdata, storage.nbytes()
        if key in self._living:
            return

        def forget(_: object) -> None:
            del self._living[key]
            self._now -= size_bytes

        self._living[key] = weakref.ref(storage, forget)
        self._now += size_bytes
        self.peak = max(self.peak, self._now)


def live_peak(config: VitConfig, depth: int, batch_size: int, dtype: torch.dtype, device: str) -> int:
    """Return the most bytes alive in one forward pass, weights and input included."""
    model = build_timm(config, depth, device=device).to(dtype)
    images = torch.zeros(batch_size, config.in_chans, config.img_size, config.img_size, dtype=dtype, device=device)
    with torch.inference_mode(), LiveBytes(*model.parameters(), images) as live:
        model(images)
    return live.peak


def test_the_tracker_counts_a_known_program() -> None:
    """Two live 4 kB tensors and a temporary of the same size peak at 12 kB, views and freed ones not counted."""
    first = torch.zeros(1024)
    with torch.inference_mode(), LiveBytes(first) as live:
        second = first + 1
        (second * 2).view(32, 32).sum()
        del second
        first.view(2, 512)
    assert 12288 <= live.peak <= 12288 + 4  # the sum's one float may come before the product is freed


@settings(max_examples=25)
@given(config=vit_configs(), depth=st.integers(1, 3), batch_size=st.integers(1, 3))
def test_memory_of_random_configurations_is_exact(config: VitConfig, depth: int, batch_size: int) -> None:
    """The formula equals, to the byte, what is alive at the peak of a real forward pass on the CPU."""
    found = cost(config, depth, batch_size=batch_size).memory_bytes
    assert found == live_peak(config, depth, batch_size, torch.float32, "cpu")


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_memory_follows_the_element_type(dtype: DType) -> None:
    """In a half-width type weights and activations take half."""
    config = VIT_SIZES["test"]
    found = cost(config, 3, dtype=dtype, batch_size=2).memory_bytes
    assert found == live_peak(config, 3, 2, getattr(torch, dtype.value), "cpu")
    assert 2 * found == cost(config, 3, batch_size=2).memory_bytes


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize(("size", "depth"), [("tiny", 1), ("tiny", 12), ("small", 3), ("base", 7), ("large", 24)])
def test_memory_of_named_sizes_is_exact(size: str, depth: int, batch_size: int) -> None:
    """The named sizes equal the storages of timm's forward pass on the meta device, which has them without their content."""
    config = VIT_SIZES[size]
    found = cost(config, depth, batch_size=batch_size).memory_bytes
    assert found == live_peak(config, depth, batch_size, torch.float32, "meta")


def test_a_wide_head_on_few_tokens_is_the_peak() -> None:
    """Where the logits outweigh the blocks they are counted."""
    config = VitConfig(embed_dim=8, num_heads=2, img_size=8, patch_size=8, num_classes=10_000)
    assert cost(config, 2, batch_size=3).memory_bytes == live_peak(config, 2, 3, torch.float32, "cpu")
