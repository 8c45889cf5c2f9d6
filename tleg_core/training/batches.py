"""The batches of a run: which images each update sees, in what order, and augmented how.

A function of the seed and the update's number alone: the order of the images follows from the seed and the epoch, every other
draw from the seed and the update, so a run goes on from any update without stored generator states.

Shape legend: B images of a batch (of this process), N training images, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.training.augmentation import erase, flip_and_shift, mix, shifts
from tleg_core.training.draws import generator_of, seed_of
from tleg_core.training.pixels import MemoryPixels, Pixels
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.processes import Processes
from tleg_core.training_config import Augmentation, TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What an update, or a part of one, is computed from.

    Args:
        images: (B, 3, H, W) on the training device.
        targets: Labels, int64 (B,), or the probabilities that mixing makes of them, float (B, C).
        rows: The images' rows in the data set, int64 (B,), on the CPU.
        view: Which of an image's draws this is, where there is a limited number of them; 0 otherwise.
        step: Updates before this one.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    view: int
    step: int

    def __len__(self) -> int:
        return len(self.images)

    def chunk(self, parts: int) -> list[Batch]:
        """Return the batch in at most so many parts, as torch.chunk divides."""
        pieces = zip(self.images.chunk(parts), self.targets.chunk(parts), self.rows.chunk(parts), strict=True)
        return [Batch(images=i, targets=t, rows=r, view=self.view, step=self.step) for i, t, r in pieces]


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
        self._shifts_of_view = lru_cache(maxsize=2)(self._drawn_shifts)

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

    def of(self, step: int) -> Batch:
        """Return the batch of the update after `step` updates."""
        epoch, chosen = self._chosen(step)
        for later in range(step + 1, step + 1 + _AHEAD):
            later_epoch, expected = self._chosen(later)
            self._pixels.expect(self._rows[expected].tolist(), later_epoch)
        rows = self._rows[chosen]
        pixels = self._pixels.take(rows.tolist(), epoch)  # (B, H, W, 3)
        labels = self._labels[chosen].to(self._device, non_blocking=True)
        place = (step, self._processes.rank)
        augmentation = self._augmentation
        view = 0 if augmentation.views is None else epoch % augmentation.views
        if augmentation.flip or augmentation.shift:
            draws = (
                shifts(len(rows), augmentation, generator_of(self._seed, "shift", *place))
                if augmentation.views is None
                else self._shifts_of_view(view)[rows]
            )
            pixels = flip_and_shift(pixels, draws)
        images = erase(self._prepare(pixels), augmentation, seed_of(self._seed, "erase", *place))
        images, targets = mix(images, labels, augmentation, self._num_classes, seed_of(self._seed, "mix", *place))
        return Batch(images=images, targets=targets, rows=rows, view=view, step=step)

    def _drawn_shifts(self, view: int) -> Tensor:
        """Return the draws of every image for one view, (rows, 3)."""
        return shifts(int(self._rows.max()) + 1, self._augmentation, generator_of(self._seed, "view", view))

    def _chosen(self, step: int) -> tuple[int, Tensor]:
        """Return the epoch of an update, and this process's part (B,) of its batch as positions among the training images."""
        epoch, position = divmod(step, self.steps_per_epoch)
        batch = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        return epoch, self._processes.share(batch)

    def _shuffled(self, epoch: int) -> Tensor:
        return torch.randperm(len(self._rows), generator=generator_of(self._seed, "order", epoch))
