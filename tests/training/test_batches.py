"""Batches: their order, their draws, and that nothing but the seed and the update decides them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing

from tests.training.run_in_child import image_set
from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet
from tleg_core.training.augmentation import erase
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.decoded import InputShape
from tleg_core.training.draws import global_draws
from tleg_core.training.image_order import ImageOrder
from tleg_core.training.pixels import MemoryPixels
from tleg_core.training.preprocessing import normalise
from tleg_core.training.processes import Processes
from tleg_core.training_config import Augmentation, Crop, TrainingConfig

CPU = torch.device("cpu")
PLAIN = Augmentation(flip=0.0, shift=0)
PUBLISHED = Augmentation(
    crop=Crop.RANDOM_RESIZED,
    rand_augment="rand-m9-mstd0.5-inc1",
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    random_erasing=0.25,
    label_smoothing=0.1,
    repeats=3,
)


class OneOf(Processes):
    """A process among several, without a group: nothing is sent."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count


def batches(
    data: ImageSet,
    augmentation: Augmentation,
    *,
    batch_size: int = 8,
    seed: int = 0,
    processes: Processes | None = None,
    prefetch: bool = False,
) -> Batches:
    """Return the batches of a set in memory."""
    return Batches(
        MemoryPixels(data, CPU),
        torch.arange(len(data)),
        torch.from_numpy(data.labels),
        num_classes=data.num_classes,
        batch_size=batch_size,
        seed=seed,
        augmentation=augmentation,
        device=CPU,
        digest="",
        processes=processes,
        prefetch=prefetch,
    )


def same(left: Batch, right: Batch) -> bool:
    """Whether two batches are equal, bit for bit."""
    return (
        torch.equal(left.images, right.images)
        and torch.equal(left.targets, right.targets)
        and torch.equal(left.rows, right.rows)
        and (left.view, left.step) == (right.view, right.step)
    )


def test_an_epoch_has_each_image_once_and_an_order_of_its_own() -> None:
    """But for an incomplete last batch; `rows` says which images they are."""
    data = image_set(67)
    made = batches(data, PLAIN)
    epochs = [torch.cat([made.of(step).rows for step in range(8 * epoch, 8 * epoch + 8)]) for epoch in range(2)]
    assert [len(epoch.unique()) for epoch in epochs] == [64, 64]
    assert not torch.equal(epochs[0], epochs[1])
    batch = made.of(3)
    pixels = torch.from_numpy(data.images[batch.rows.numpy()]).permute(0, 3, 1, 2) / 255
    assert torch.equal(batch.images, pixels)
    assert torch.equal(batch.targets, torch.from_numpy(data.labels)[batch.rows])


def test_repeats_come_together_and_leave_an_epoch_as_long() -> None:
    """Three of each of a third of the images, other images in the next epoch: DeiT's repeated augmentation."""
    order = ImageOrder(torch.arange(90), batch_size=9, seed=0, repeats=3)
    assert order.steps_per_epoch == 10
    epoch = torch.cat([order.batch(step) for step in range(10)])
    assert set(Counter(epoch.tolist()).values()) == {3}
    assert torch.equal(epoch.view(30, 3), epoch[::3, None].expand(30, 3))
    assert order.repeats(4).tolist() == [0, 1, 2] * 3
    assert order.repeats(order.steps_per_epoch + 1).tolist() == [0, 1, 2] * 3
    assert set(torch.cat([order.batch(step) for step in range(10, 20)]).tolist()) != set(epoch.tolist())


def test_each_repeat_is_a_draw_of_its_own_and_goes_to_another_process() -> None:
    """Three processes get the three views of an image; together they have the batch of one."""
    data = image_set(64)
    config = TrainingConfig(epochs=1, batch_size=24, augmentation=Augmentation(crop=Crop.RANDOM_RESIZED, repeats=3))
    shape = InputShape(side=8, channels=3, interpolation="bicubic", crop_pct=1.0)

    def of(processes: Processes) -> Batch:
        made = Batches.of_images(data, config, CPU, shape=shape, preprocessing=Preprocessing(), processes=processes, workers=0)
        with made:
            return made.of(1)

    parts = [of(OneOf(rank, 3)) for rank in range(3)]
    assert all(torch.equal(part.rows, parts[0].rows) for part in parts)
    assert len(parts[0].rows.unique()) == 8
    equal = sum(torch.equal(parts[0].images[image], parts[1].images[image]) for image in range(8))
    assert equal < 3  # of 8 px, a crop may be drawn twice
    assert sorted(of(OneOf(0, 1)).rows.tolist()) == sorted(torch.cat([part.rows for part in parts]).tolist())


def test_a_process_takes_its_own_share_only() -> None:
    """The parts of a batch are those of one process, and no image is asked for twice."""
    data = image_set(64)

    class Asked(MemoryPixels):
        rows: list[int] = []  # noqa: RUF012

        def take(self, rows, draws):
            self.rows.extend(rows)
            return super().take(rows, draws)

    whole = batches(data, PLAIN, batch_size=16).of(2)
    parts = []
    for rank in range(2):
        made = batches(data, PLAIN, batch_size=16, processes=OneOf(rank, 2))
        made._pixels = Asked(data, CPU)
        parts.append(made.of(2))
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert sorted(Asked.rows) == sorted(whole.rows.tolist())


def test_the_draws_of_a_view_follow_from_view_and_image() -> None:
    """Whichever update it comes in, in a run of any seed; so do those of any rows asked for; without views there are none."""
    data = image_set(48)
    made = batches(data, Augmentation(shift=2, views=2))
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for step in range(4 * made.steps_per_epoch):
        batch = made.of(step)
        assert batch.view == step // made.steps_per_epoch % 2
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            assert torch.equal(seen.setdefault((row, batch.view), image), image)
    assert len(seen) == 96
    shown = made.shown(torch.tensor([5, 40]), 1)
    assert torch.equal(shown, torch.stack([seen[5, 1], seen[40, 1]]))
    assert any(not torch.equal(seen[row, 0], seen[row, 1]) for row in range(48))
    other = batches(data, Augmentation(shift=2, views=2), seed=1)
    assert torch.equal(other.shown(torch.arange(48), 0), made.shown(torch.arange(48), 0))
    assert not torch.equal(other.of(0).rows, made.of(0).rows)
    with pytest.raises(ConfigError, match="views"):
        batches(data, Augmentation(shift=2)).shown(torch.tensor([5]), 1)


def test_views_of_random_crops_are_their_draws() -> None:
    """An image's crop is that of the epoch modulo the views, in a run of any seed."""
    data = image_set(32)
    augmentation = Augmentation(crop=Crop.RANDOM_RESIZED, views=2, color_jitter=0.4)
    config = TrainingConfig(epochs=4, batch_size=32, augmentation=augmentation)
    with Batches.of_image_set(data, config, CPU) as made:
        images = [batch.images[batch.rows.argsort()] for batch in (made.of(step) for step in range(4))]
        assert torch.equal(images[0], images[2])
        assert torch.equal(images[1], images[3])
        assert not torch.equal(images[0], images[1])
        assert torch.equal(made.shown(torch.arange(32), 1), images[1])
    with Batches.of_image_set(data, replace(config, seed=1), CPU) as other:
        assert torch.equal(other.shown(torch.arange(32), 1), images[1])


def test_views_that_cannot_be_are_refused() -> None:
    """What is drawn batch by batch, and repeats, which would all be one view."""
    for other in ({"mixup_alpha": 0.8}, {"random_erasing": 0.25}):
        with pytest.raises(ConfigError, match="views"):
            Augmentation(views=4, **other)
    with pytest.raises(ConfigError, match="repeats"):
        batches(image_set(16), Augmentation(views=4, repeats=3))


def test_a_batch_made_ahead_is_the_one_that_is_made_when_asked_for() -> None:
    """In order, after a jump, and after an error; PyTorch's global generator is left to the training."""
    data = image_set(64)
    augmentation = Augmentation(shift=1, mixup_alpha=0.8, cutmix_alpha=1.0, random_erasing=0.5, label_smoothing=0.1)
    plain = batches(data, augmentation)
    with batches(data, augmentation, prefetch=True) as ahead:
        before = torch.get_rng_state()
        for step in (0, 1, 2, 7, 8, 3, 3):
            assert same(ahead.of(step), plain.of(step))
        assert torch.equal(torch.get_rng_state(), before)


def test_an_error_of_a_batch_made_ahead_is_raised_when_it_is_asked_for() -> None:
    """Not before, and not instead of another batch."""
    data = image_set(64)

    class Failing(MemoryPixels):
        def take(self, rows, draws):
            if 9 in rows:
                raise ValueError("row 9")
            return super().take(rows, draws)

    with batches(data, PLAIN, prefetch=True) as ahead:
        ahead._pixels = Failing(data, CPU)
        outcomes = []
        for step in range(8):
            try:
                outcomes.append(ahead.of(step).step)
            except ValueError:
                outcomes.append(-1)
        assert sorted(outcomes) == [-1, *(step for step in range(8) if step in outcomes)]


def test_everything_at_once_follows_from_seed_and_update() -> None:
    """The paper's augmentation: a second run that begins in the middle has the same batches, another seed others."""
    data = image_set(96)
    shape = InputShape(side=8, channels=3, interpolation="bicubic", crop_pct=1.0)

    def of(steps: list[int], seed: int = 0) -> list[Batch]:
        config = TrainingConfig(epochs=2, batch_size=24, augmentation=PUBLISHED, seed=seed)
        with Batches.of_images(data, config, CPU, shape=shape, preprocessing=Preprocessing(), workers=0) as made:
            return [made.of(step) for step in steps]

    run = of([0, 1, 2, 3, 4, 5])
    assert all(same(one, other) for one, other in zip(run[3:], of([3, 4, 5]), strict=True))
    assert not torch.equal(run[3].images, of([3], seed=1)[0].images)
    assert run[0].targets.shape == (24, 3)
    torch.testing.assert_close(run[0].targets.sum(1), torch.ones(24))


def test_erasing_is_timms() -> None:
    """Bit for bit timm's own random erasing under global generators of the same seed; in 0..1, what is normalised to it."""
    erasing = RandomErasing(0.25, mode="pixel", device="cpu")
    augmentation = Augmentation(random_erasing=0.25)
    images = torch.rand(64, 3, 20, 28)
    prep = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    with global_draws(7):
        torch.manual_seed(7)
        expected = erasing(normalise(images, prep).clone())
    assert torch.equal(erase(normalise(images, prep).clone(), augmentation, 7), expected)
    in_unit = erase(images.clone(), augmentation, 7, prep)
    torch.testing.assert_close(normalise(in_unit, prep), expected, atol=1e-5, rtol=1e-5)  # float32 there and back
    assert not torch.equal(in_unit, images)


def test_images_that_are_read_in_runs_stay_in_parts_of_them() -> None:
    """An epoch has each image once; 16 of a run come together, in an order of the epoch's own, and a batch is of many runs."""
    starts = np.array([0, 100, 150, 400], dtype=np.int64)
    order = ImageOrder(torch.arange(480), batch_size=96, seed=0, run_starts=starts)
    epoch = torch.cat([order.batch(step) for step in range(5)])
    assert epoch.sort().values.tolist() == list(range(480))
    runs = np.searchsorted(starts, epoch.numpy(), side="right")
    changes = int((np.diff(runs) != 0).sum())
    assert changes < 480 / 16 + 4
    assert len(np.unique(runs[:96])) >= 2
    assert not torch.equal(epoch, torch.cat([order.batch(step) for step in range(5, 10)]))
    again = ImageOrder(torch.arange(480), batch_size=96, seed=0, run_starts=starts)
    assert torch.equal(again.batch(7), order.batch(7))


@pytest.mark.gpu
def test_a_batch_on_a_gpu_is_made_without_waiting_for_it(tmp_path: Path) -> None:
    """CUDA's own check finds no synchronisation in what makes a batch; it is the CPU's batch."""
    del tmp_path
    data = image_set(64)
    augmentation = Augmentation(shift=1, mixup_alpha=0.8, random_erasing=0.5)
    config = TrainingConfig(epochs=1, batch_size=16, augmentation=augmentation)
    device = torch.device("cuda")
    with Batches.of_image_set(data, config, device) as made:
        made.of(0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            batch = made._made(2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert batch.images.device.type == "cuda"
        assert torch.equal(made.of(2).images, batch.images)
