"""What the demo measures, and how: the file that a user downloads, in plain timm; ours is the reader of images alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tleg_core.images import ImageSet

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_BATCH = 250  # images in one forward pass


def measure_top1(config_url: str, weights: Path, images: ImageSet) -> float:
    """Return the accuracy of a downloaded network, built from the service's config.json by timm, safetensors and torch."""
    import timm
    import torch
    from safetensors.torch import load_file

    config: dict[str, Any] = httpx.get(config_url).raise_for_status().json()
    network = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    network.load_state_dict(load_file(weights), strict=True)
    network.eval()
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(images.labels), _BATCH):
            pixels = _pixels(images.images[start : start + _BATCH], config["pretrained_cfg"])
            correct += int((network(pixels).argmax(1).numpy() == images.labels[start : start + _BATCH]).sum())
    return correct / len(images.labels)


def _pixels(images: NDArray[np.uint8], preprocessing: dict[str, Any]) -> torch.Tensor:
    """Return images (B, H, W, C) as the network's input (B, C, H, W)."""
    import torch

    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(preprocessing[name])[None, :, None, None] for name in ("mean", "std"))
    return (scaled - mean) / std
