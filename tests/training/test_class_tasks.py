"""The batches of tasks that share one set's pixels: in what order they are read, and what a task leaves to the next."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tleg_core.description import Preprocessing
from tleg_core.images import ImageSet, save_parquet
from tleg_core.parquet_images import ParquetImages
from tleg_core.training.augmented import RandPixels
from tleg_core.training.class_tasks import TaskBatches, draw_tasks, whole_task
from tleg_core.training.decoded import DecodedPixels, InputShape, decoding_threads
from tleg_core.training.pixels import MemoryPixels
from tleg_core.training.random_view import RandomView
from tleg_core.training_config import Augmentation, Crop, TrainingConfig

CPU = torch.device("cpu")
SHAPE = InputShape(side=16, channels=3, interpolation="bicubic", crop_pct=0.875)
GROUP_ROWS = 64


def test_a_task_reads_row_groups_in_runs(tmp_path: Path) -> None:
    """Half of each of three row groups is the task's: 32 images, read in two parts; each image once an epoch."""
    images = np.zeros((3 * GROUP_ROWS, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(len(images), dtype=np.int64) % 4
    data = ImageSet(name="x", images=images, labels=labels, class_names=("a", "b", "c", "d"))
    save_parquet(data, tmp_path / "whole.parquet")
    pq.write_table(pq.read_table(tmp_path / "whole.parquet"), tmp_path / "x.parquet", row_group_size=GROUP_ROWS)
    source = ParquetImages([tmp_path / "x.parquet"], "x", kept_bytes=1)
    config = TrainingConfig(epochs=3, batch_size=8)
    task = draw_tasks(labels, num_tasks=1, classes_per_task=2, seed=0)[0]
    with TaskBatches(source, MemoryPixels(data, CPU), config, Preprocessing(), CPU).of(task) as batches:
        for epoch in range(3):
            steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
            rows = torch.cat([batches.of(step).rows for step in steps])
            assert sorted(rows.tolist()) == task.rows.tolist()
            assert int((rows // GROUP_ROWS).diff().ne(0).sum()) < 6


@pytest.mark.parametrize("crop", list(Crop))
def test_threads_keep_nothing_that_a_task_did_not_take(crop: Crop, bars: ImageSet, tmp_path: Path) -> None:
    """What was decoded past its end would stay in memory; dropped, it can still be had."""
    save_parquet(bars, tmp_path / "bars.parquet")
    source = ParquetImages([tmp_path / "bars.parquet"], "bars")
    config = TrainingConfig(epochs=1, batch_size=8, augmentation=Augmentation(crop=crop))
    with decoding_threads() as threads:
        pixels: DecodedPixels | RandPixels = (
            DecodedPixels(source, SHAPE, device=CPU, threads=threads, keep_bytes=0, keep_device=CPU)
            if crop is Crop.LIGHT
            else RandPixels(source, RandomView(shape=SHAPE, mean=(0.5, 0.5, 0.5)), seed=0, device=CPU, threads=threads)
        )
        with TaskBatches(source, pixels, config, Preprocessing(), CPU).of(whole_task(source)) as batches:
            batches.of(0)
            assert pixels._coming
        assert not pixels._coming
        taken = pixels.take([3, 1], 1)
        pixels.expect([1, 3], 1)
        assert torch.equal(pixels.take([3, 1], 1), taken)


@pytest.mark.parametrize(("views", "alike"), [(None, False), (2, True)])
def test_each_task_has_views_of_its_own(views: int | None, alike: bool, bars: ImageSet) -> None:
    """Two tasks of the same images, cut out anew; with a number of views an image has these, whatever the task."""
    augmentation = Augmentation(crop=Crop.RANDOM_RESIZED, flip=0.0, views=views)
    config = TrainingConfig(epochs=2, batch_size=48, augmentation=augmentation)
    shown = []
    with decoding_threads() as threads:
        pixels = RandPixels(bars, RandomView.of(augmentation, SHAPE, Preprocessing()), seed=0, device=CPU, threads=threads)
        tasks = TaskBatches(bars, pixels, config, Preprocessing(), CPU)
        for number in (0, 1, 1):
            with tasks.of(replace(whole_task(bars), number=number)) as batches:
                made = [batches.of(epoch) for epoch in range(2)]
            shown.append([batch.images[batch.rows.argsort()] for batch in made])
    first, second, again = shown
    assert all(torch.equal(one, other) for one, other in zip(second, again, strict=True))
    if alike:
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        return
    for one, other in product(first, second):
        assert sum(torch.equal(*pair) for pair in zip(one, other, strict=True)) < 5  # of 16 px, a crop may be drawn twice
