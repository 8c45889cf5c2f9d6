"""Accuracy: of any function from images to logits, and of a learngene at each depth.

Shape legend: B images, C classes, L depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from tleg_core.description import Measurement
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet
from tleg_core.learngene import Learngene
from tleg_core.recipe import Member
from tleg_core.schedule import Inherited
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.decoded import InputShape
from tleg_core.training.errors import MeasurementStoppedError, TrainingMemoryError, is_out_of_memory
from tleg_core.training.network import DeviceLearngene, Network
from tleg_core.training.pixels import MemoryPixels, Pixels
from tleg_core.training.preprocessing import prepare, to_unit
from tleg_core.training.processes import Processes
from tleg_core.training.source_pixels import default_workers, whole_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Top1:
    """How many images were classified, and how many of them rightly."""

    correct: int
    images: int

    @property
    def fraction(self) -> float:
        """Accuracy, 0..1."""
        return self.correct / self.images

    def metrics(self) -> dict[str, float]:
        """Return it as a run's observer is told of it."""
        return {"top1": self.fraction, "images": self.images}


@torch.inference_mode()
def measure_top1(
    logits_of: Callable[[Tensor], Tensor],
    data: ImageSource,
    *,
    device: torch.device,
    pixels: Pixels | None = None,
    batch_size: int = 500,
    autocast: bool = False,
    progressed: Callable[[int], None] = lambda _count: None,
) -> Top1:
    """Classify every image of `data`.

    Args:
        logits_of: Maps images (B, 3, H, W) in 0..1 to logits (B, C); a model in evaluation mode.
        data: The images.
        device: Where `logits_of` computes.
        pixels: Where the pixels come from; None for a set in memory, which has them.
        batch_size: Images at once.
        autocast: Compute in bfloat16 where PyTorch thinks it safe.
        progressed: Is told after each batch how many images it had.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError("batch_size", f"must be at least 1, not {batch_size}")
    if pixels is None:
        if not isinstance(data, ImageSet):
            raise ConfigError("pixels", f"are needed of {data.name}, which is not in memory")
        pixels = MemoryPixels(data, device, keep_device=torch.device("cpu"))
    labels = torch.from_numpy(data.labels)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    rows = range(len(data))
    for start in range(0, len(data), batch_size):
        taken, coming = rows[start : start + batch_size], rows[start + batch_size : start + 2 * batch_size]
        pixels.expect(coming, 0)
        images = to_unit(pixels.take(taken, 0))  # (B, 3, H, W)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            predicted = logits_of(images).argmax(dim=1)  # (B,)
        correct += (predicted == labels[start : start + batch_size].to(device)).sum()
        progressed(len(images))
    return Top1(correct=int(correct), images=len(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a network makes of held-out images: mean cross-entropy, and accuracies as fractions."""

    loss: float
    top1: float
    top5: float

    def metrics(self) -> dict[str, float]:
        """Return them as a run's observer is told of them."""
        return {"loss": self.loss, "top1": self.top1, "top5": self.top5}


@torch.inference_mode()
def measure_scores(
    logits_of: Callable[[Tensor], Tensor],
    pixels: Pixels,
    rows: Sequence[int],
    labels: Tensor,
    *,
    device: torch.device,
    batch_size: int,
    autocast: bool = False,
    processes: Processes | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Scores:
    """Classify images, each process its share, in smaller batches where memory does not suffice.

    Args:
        logits_of: Maps pixels (B, H, W, C), uint8, to logits (B, C); a model in evaluation mode.
        pixels: Where the images come from.
        rows: Which ones, N of them.
        labels: The class of each, int64 (N,).
        device: Where `logits_of` computes.
        batch_size: Images at once.
        autocast: Compute in bfloat16 where PyTorch thinks it safe.
        processes: Those that share the work; all must ask.
        stopped: Whether to give up, asked before each batch.

    Raises:
        MeasurementStoppedError: It was given up.
        TrainingMemoryError: One image at a time does not fit the memory.
    """
    processes = processes or Processes()
    own_rows, own_labels = rows[processes.rank :: processes.count], labels[processes.rank :: processes.count]
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, top-1, top-5
    start = 0
    while start < len(own_rows):
        if stopped():
            raise MeasurementStoppedError
        batch = own_rows[start : start + batch_size]
        pixels.expect(own_rows[start + batch_size : start + 2 * batch_size], 0)
        truth = own_labels[start : start + batch_size].to(device)
        try:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                logits = logits_of(pixels.take(batch, 0))
            logits = logits.float()  # (B, C)
            sums[0] += nn.functional.cross_entropy(logits, truth, reduction="sum")
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise TrainingMemoryError from error
            batch_size //= 2
            continue
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth[:, None]  # (B, 5)
        sums[1] += best[:, 0].sum()
        sums[2] += best.sum()
        start += batch_size
    loss, top1, top5 = (processes.sum(sums) / len(rows)).tolist()
    return Scores(loss=loss, top1=top1, top5=top5)


def auxiliary_of(learngene: Learngene) -> AuxiliaryModel:
    """Return the auxiliary model that `learngene` is the parameters of, in evaluation mode."""
    description = learngene.description
    basis = description.basis
    model = AuxiliaryModel(basis.config, basis.schedule, depth=basis.trained_depth or basis.max_depth)
    model.load_learngene_tensors({name: torch.from_numpy(array.copy()) for name, array in learngene.tensors.items()})
    return model.eval()


def _by_depth(learngene: Learngene, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    """Return the function from normalised images (B, C, H, W) and a depth to the logits of that descendant."""
    if not isinstance(learngene.description.basis.schedule, Inherited):
        return auxiliary_of(learngene).to(device)
    family = Family(learngene)
    kept = DeviceLearngene(family, device)

    @lru_cache(maxsize=1)
    def network(depth: int) -> nn.Module:
        recipe = family.recipe(Member(depth=depth), Variation(), seed=0)
        stack = family.stack(recipe.member)
        plain = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=recipe.num_classes)
        return plain.load(kept.expand(recipe), drop_path=0.0, device=device).eval()

    return lambda images, depth: network(depth)(images)


def check_classes(learngene: Learngene, data: ImageSource) -> None:
    """Raise `ConfigError` where `data` has other classes than the learngene: its accuracy on them would mean nothing."""
    description = learngene.description
    count = len(data.class_names)
    if count != description.config.num_classes:
        raise ConfigError("data", f"{data.name} has {count} classes, the learngene {description.config.num_classes}")
    if description.class_names and data.class_names != description.class_names:
        raise ConfigError("data", f"the classes of {data.name} are not those of the learngene, or stand in another order")


def measure_members(
    learngene: Learngene,
    data: ImageSource,
    members: Iterable[Member],
    logits_of: Callable[[Tensor, Member], Tensor],
    *,
    device: torch.device,
    batch_size: int,
    autocast: bool,
    progressed: Callable[[int], None],
) -> Iterator[Measurement]:
    """Yield the accuracy of each member on `data`, whose pixels are made once.

    `logits_of` maps images (B, C, H, W), of the network's size and normalised as it expects, and a member to logits; all else
    is as `measure_depths` has it.
    """
    config, preprocessing = learngene.description.config, learngene.description.preprocessing
    shape = InputShape.of(config.img_size, config.in_chans, preprocessing)
    made = whole_pixels(data, shape, device=device, batch_size=batch_size, workers=default_workers(device))
    with closing(made) as pixels:
        for member in members:

            def of_member(images: Tensor, member: Member = member) -> Tensor:
                return logits_of(prepare(images, config.img_size, preprocessing), member)

            top1 = measure_top1(
                of_member,
                data,
                device=device,
                pixels=pixels,
                batch_size=batch_size,
                autocast=autocast,
                progressed=progressed,
            )
            yield Measurement.of(member, data_set=data.name, top1=top1.fraction, images=top1.images)


def measure_depths(
    learngene: Learngene,
    data: ImageSource,
    *,
    depths: Iterable[int],
    device: torch.device,
    batch_size: int = 500,
    autocast: bool = False,
    progressed: Callable[[int], None] = lambda _count: None,
) -> Iterator[Measurement]:
    """Yield the accuracy on `data` of each descendant, as expanded and without any fine-tuning.

    Layers that are not inherited, where only some are, are drawn with seed 0.

    Args:
        learngene: What they are expanded from.
        data: Held-out images; those that are not in memory are brought to the network's size as timm's evaluation does.
        depths: The descendants.
        device: Where it computes.
        batch_size: Images at once.
        autocast: Compute in bfloat16 where PyTorch thinks it safe; without it everything is float32.
        progressed: Is told after each batch how many images it had.

    Raises:
        ConfigError: `data` has other classes than the learngene.
    """
    check_classes(learngene, data)
    by_depth = _by_depth(learngene, device)
    yield from measure_members(
        learngene,
        data,
        (Member(depth=depth) for depth in depths),
        lambda images, member: by_depth(images, member.depth),
        device=device,
        batch_size=batch_size,
        autocast=autocast,
        progressed=progressed,
    )
