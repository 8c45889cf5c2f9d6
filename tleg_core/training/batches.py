"""The batches of a run: which images each update sees, in what order, and augmented how.

A function of the seed and the update's number alone: the order of the images follows from the seed and the epoch, every other
draw from the seed and the update, so a run goes on from any update without stored generator states.

Shape legend: B images of a batch (of this process), N training images, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.training.augmentation import Augmentation, erase, flip_and_shift, mix
from tleg_core.training.config import TrainingConfig
from tleg_core.training.draws import generator_of, seed_of
from tleg_core.training.pixels import MemoryPixels, Pixels
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.processes import Processes

_AHEAD = 3  # batches that are expected while one is trained on


class Batches:
    """The batches of one run.

    Args:
        pixels: Where the images come from.
        rows: The training images' rows in `pixels`, int64 (N,).
        labels: The class of each of them, int64 (N,).
        num_classes: C.
        batch_size: Images for one update, over all processes; an incomplete last batch is left out of each epoch.
        seed: Of order and augmentation.
        augmentation: What is done to a batch.
        device: Where the batches are wanted.
        digest: What identifies the data: a run goes on only with the same.
        prepare: Makes the network's input (B, 3, H, W), float32, of pixels (B, H, W, 3), uint8.
        processes: Those that share each batch.

    Raises:
        ConfigError: There are fewer images than a batch has.
    """

    def __init__(
        self,
        pixels: Pixels,
        rows: Tensor,
        labels: Tensor,
        *,
        num_classes: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        device: torch.device,
        digest: str,
        prepare: Callable[[Tensor], Tensor] = to_unit,
        processes: Processes | None = None,
    ) -> None:
        self._pixels, self._rows, self._labels = pixels, rows, labels
        self._num_classes, self.batch_size, self._seed = num_classes, batch_size, seed
        self._augmentation, self._device, self._prepare = augmentation, device, prepare
        self._processes = processes or Processes()
        self.digest = digest
        self.steps_per_epoch = len(rows) // batch_size
        if not self.steps_per_epoch:
            raise ConfigError("batch_size", f"{batch_size} is more than the {len(rows)} images")
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @classmethod
    def of_image_set(cls, data: ImageSet, config: TrainingConfig, device: torch.device) -> Batches:
        """Return the batches of a set in memory, images in 0..1."""
        return cls(
            MemoryPixels(data, device),
            torch.arange(len(data)),
            torch.from_numpy(data.labels),
            num_classes=data.num_classes,
            batch_size=config.batch_size,
            seed=config.seed,
            augmentation=config.augmentation,
            device=device,
            digest=data.digest(),
        )

    def of(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) and targets, (B,) labels or (B, C) probabilities, of the update after `step` updates."""
        epoch, chosen = self._chosen(step)
        for later in range(step + 1, step + 1 + _AHEAD):
            later_epoch, expected = self._chosen(later)
            self._pixels.expect(self._rows[expected].tolist(), later_epoch)
        pixels = self._pixels.take(self._rows[chosen].tolist(), epoch)  # (B, H, W, 3)
        labels = self._labels[chosen].to(self._device, non_blocking=True)
        place = (step, self._processes.rank)
        augmentation = self._augmentation
        if augmentation.flip or augmentation.shift:
            pixels = flip_and_shift(pixels, augmentation, generator_of(self._seed, "shift", *place))
        images = erase(self._prepare(pixels), augmentation, seed_of(self._seed, "erase", *place))
        return mix(images, labels, augmentation, self._num_classes, seed_of(self._seed, "mix", *place))

    def _chosen(self, step: int) -> tuple[int, Tensor]:
        """Return the epoch of an update, and this process's part (B,) of its batch as positions among the training images."""
        epoch, position = divmod(step, self.steps_per_epoch)
        batch = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        return epoch, self._processes.share(batch)

    def _shuffled(self, epoch: int) -> Tensor:
        return torch.randperm(len(self._rows), generator=generator_of(self._seed, "order", epoch))
