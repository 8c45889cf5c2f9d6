"""The pixels of an image source: where they are kept, or who makes them, by what fits and what is asked for.

A set that fits is decoded once and kept, on the GPU if that has room; one that does not is decoded again in each epoch, and one
whose images are cut out at random is drawn again, both by worker processes, or by threads where there is one processor.
"""

from __future__ import annotations

import os

import torch

from tleg_core.description import Preprocessing
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet
from tleg_core.memory import memory_bytes
from tleg_core.training.augmented import RandPixels
from tleg_core.training.decoded import DecodedPixels, InputShape, decoding_threads
from tleg_core.training.pixels import MemoryPixels, Pixels
from tleg_core.training.processes import Processes
from tleg_core.training.random_view import RandomView
from tleg_core.training.streamed import StreamedPixels, WholeView
from tleg_core.training_config import Crop, TrainingConfig

GPU_SHARE = 0.25
"""Of a GPU's memory, for pixels that are kept."""

MACHINE_SHARE = 0.5
"""Of the machine's memory, for those of all its processes."""

SEED_OF_VIEWS = 0
"""Views of an image are the same in runs of any seed, so that a teacher's logits of them serve all."""

_MAX_WORKERS = 32  # for one process that trains


def training_pixels(
    data: ImageSource,
    config: TrainingConfig,
    *,
    shape: InputShape,
    preprocessing: Preprocessing,
    device: torch.device,
    processes: Processes,
    workers: int | None = None,
) -> Pixels:
    """Return the pixels of training images.

    Args:
        data: The images.
        config: How they are cut out, and the batch size.
        shape: The size that they are brought to; a set in memory keeps its own, unless they are cut out at random.
        preprocessing: Gives the colour that RandAugment fills in.
        device: Where the pixels are wanted.
        processes: Those that share each batch.
        workers: Processes that decode and augment; 0 for threads; None to choose.
    """
    count = default_workers(device, processes) if workers is None else workers
    batch_size = config.batch_size // processes.count
    if config.augmentation.crop is Crop.RANDOM_RESIZED:
        view = RandomView.of(config.augmentation, shape, preprocessing)
        seed = config.seed if config.augmentation.views is None else SEED_OF_VIEWS
        if not count:
            return RandPixels(data, view, seed=seed, device=device, threads=decoding_threads())
        return StreamedPixels(data, view, shape, seed=seed, device=device, batch_size=batch_size, workers=count)
    return whole_pixels(data, shape, device=device, processes=processes, batch_size=batch_size, workers=count)


def whole_pixels(
    data: ImageSource,
    shape: InputShape,
    *,
    device: torch.device,
    batch_size: int,
    processes: Processes | None = None,
    workers: int = 0,
) -> Pixels:
    """Return the pixels of whole images, as networks are evaluated on them.

    Args:
        data: The images.
        shape: The size that they are brought to; a set in memory keeps its own.
        device: Where the pixels are wanted.
        batch_size: Images that are taken at once.
        processes: Those that keep pixels at the same time; None for this one alone.
        workers: Processes that decode what cannot be kept; 0 for threads.
    """
    if isinstance(data, ImageSet):
        place = keeping_device(data.images.nbytes, device, processes)
        return MemoryPixels(data, device, keep_device=place or torch.device("cpu"))
    size = len(data) * shape.image_bytes
    keep_device = keeping_device(size, device, processes)
    if keep_device is None and workers:
        return StreamedPixels(data, WholeView(shape), shape, seed=0, device=device, batch_size=batch_size, workers=workers)
    return DecodedPixels(
        data,
        shape,
        device=device,
        threads=decoding_threads(),
        keep_bytes=0 if keep_device is None else size,
        keep_device=keep_device or torch.device("cpu"),
    )


def keeping_device(size_bytes: int, device: torch.device, processes: Processes | None = None) -> torch.device | None:
    """Return where so many bytes of pixels are kept: on the GPU, in the machine's memory, or not at all."""
    if device.type == "cuda":
        _, total_bytes = torch.cuda.mem_get_info(device)
        if size_bytes <= total_bytes * GPU_SHARE:
            return device
    return torch.device("cpu") if size_bytes * _on_this_machine(device, processes) <= memory_bytes() * MACHINE_SHARE else None


def default_workers(device: torch.device, processes: Processes | None = None) -> int:
    """Return how many processes decode for each of those that train: the processors that it has, less its own; or 0."""
    own = len(os.sched_getaffinity(0)) // _on_this_machine(device, processes)
    return min(_MAX_WORKERS, max(1, own - 1)) if own > 1 else 0


def _on_this_machine(device: torch.device, processes: Processes | None) -> int:
    """Return how many of the processes are on this machine, at most: one for each GPU, or all of them."""
    if processes is None:
        return 1
    return min(processes.count, torch.cuda.device_count()) if device.type == "cuda" else processes.count
