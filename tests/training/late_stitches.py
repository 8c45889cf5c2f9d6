"""A pool's stitches that the first process fits for longer than the others wait for a sum.

`python -m tests.training.late_stitches FOLDER`: each process writes the pool that it then has, FOLDER/RANK.safetensors.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from tests.training.pools import CLASSES, CPU, pool_config
from tleg_core.images import ImageSet
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.observer import Silent
from tleg_core.training.pool_model import PoolModel
from tleg_core.training.pool_trainer import PoolTrainer
from tleg_core.training.process_group import process_group
from tleg_core.training.processes import Processes
from tleg_core.training.source_images import SourceImages

PATIENCE_S = 4.0  # of sums over the processes
FIT_S = 9.0

CONFIG = pool_config(
    pool={"method": "sn-net"}, anchor_training={"rule": "alone", "alpha": 0.0}, joint={"alpha": 0.0, "epochs": 0}
)


class LateImages(SourceImages):
    """Images that are long in coming."""

    def sample(self, count: int, seed: int) -> Tensor:
        """Return them late."""
        time.sleep(FIT_S)
        return super().sample(count, seed)


def stitched(folder: Path, processes: Processes) -> dict[str, Tensor]:
    """Return the pool of random anchors and fitted stitches."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)
    data = ImageSet(name="noise", images=images, labels=np.arange(48) % 3, class_names=CLASSES)
    anchors = PoolModel(CONFIG.design(len(CLASSES)), seed=0).pool_tensors()
    trainer = PoolTrainer(
        CONFIG,
        LateImages(data, CONFIG, CPU, processes),
        None,
        num_classes=len(CLASSES),
        given={
            anchor.name: {
                name.removeprefix(f"anchors.{at}."): tensor
                for name, tensor in anchors.items()
                if name.startswith(f"anchors.{at}.")
            }
            for at, anchor in enumerate(CONFIG.anchors)
        },
        keeper=FolderKeeper(folder, 1000),
        observer=Silent(),
        device=CPU,
        processes=processes,
    )
    return trainer.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group() as group:
        if group.count > 1:
            distributed.barrier()  # whoever starts late is waited for as usual
            distributed.set_timeout(timedelta(seconds=PATIENCE_S))
        target = Path(sys.argv[1])
        save_file(stitched(target, group), target / f"{group.rank}.safetensors")
