"""The batches of tasks that share one set's pixels: in what order they are read, and what a task leaves to the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from tleg_core.description import Preprocessing
from tleg_core.images import ImageSet, save_parquet
from tleg_core.parquet_images import ParquetImages
from tleg_core.training.class_tasks import TaskBatches, draw_tasks
from tleg_core.training.pixels import MemoryPixels
from tleg_core.training_config import TrainingConfig

CPU = torch.device("cpu")
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
