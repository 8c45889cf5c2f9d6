"""Top-1 accuracy: of any function from images to logits, and of a learngene at each depth.

Shape legend: B images, C classes, L depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tleg_core.description import Measurement
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.learngene import Learngene
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.preprocessing import prepare, to_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Top1:
    """How many images were classified, and how many of them rightly."""

    correct: int
    images: int

    @property
    def fraction(self) -> float:
        """Accuracy, 0..1."""
        return self.correct / self.images


@torch.inference_mode()
def measure_top1(
    logits_of: Callable[[Tensor], Tensor],
    data: ImageSet,
    *,
    device: torch.device,
    batch_size: int = 500,
    autocast: bool = False,
) -> Top1:
    """Classify every image of `data`.

    Args:
        logits_of: Maps images (B, 3, H, W) in 0..1 to logits (B, C); a model in evaluation mode.
        data: The images.
        device: Where `logits_of` computes.
        batch_size: Images at once.
        autocast: Compute in bfloat16 where PyTorch thinks it safe.
    """
    pixels, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(data), batch_size):
        images = to_unit(pixels[start : start + batch_size].to(device))  # (B, 3, H, W)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            predicted = logits_of(images).argmax(dim=1)  # (B,)
        correct += (predicted == labels[start : start + batch_size].to(device)).sum()
    return Top1(correct=int(correct), images=len(data))


def auxiliary_of(learngene: Learngene) -> AuxiliaryModel:
    """Return the auxiliary model that `learngene` is the parameters of, in evaluation mode."""
    description = learngene.description
    depth = description.trained_depth or description.max_depth
    model = AuxiliaryModel(description.config, description.schedule, depth=depth)
    model.load_learngene_tensors({name: torch.from_numpy(array.copy()) for name, array in learngene.tensors.items()})
    return model.eval()


def measure_depths(
    learngene: Learngene, data: ImageSet, *, depths: Iterable[int], device: torch.device, batch_size: int = 500
) -> Iterator[Measurement]:
    """Yield the accuracy on `data` of each descendant, as expanded and without any fine-tuning, in float32.

    Raises:
        ConfigError: `data` has other classes than the learngene.
    """
    description = learngene.description
    config = description.config
    if data.num_classes != config.num_classes:
        raise ConfigError("data", f"{data.name} has {data.num_classes} classes, the learngene {config.num_classes}")
    if description.class_names and data.class_names != description.class_names:
        raise ConfigError("data", f"the classes of {data.name} are not those of the learngene, or stand in another order")
    model = auxiliary_of(learngene).to(device)
    for depth in depths:

        def logits_of(images: Tensor, depth: int = depth) -> Tensor:
            return model(prepare(images, config.img_size, description.preprocessing), depth)  # type: ignore[no-any-return]

        top1 = measure_top1(logits_of, data, device=device, batch_size=batch_size)
        yield Measurement(depth=depth, data_set=data.name, top1=top1.fraction, images=top1.images)
