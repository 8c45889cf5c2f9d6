"""The rehearsal: a tiny fine-tune when an engine starts, so that no job waits for what is loaded on first use.

PyTorch, timm and the GPU's libraries load much of themselves when they are first called; that takes seconds.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from service.worker.workbench import Workbench
from tleg_core.description import Preprocessing
from tleg_core.fine_tuning import FineTuneFacts, FineTuneSettings
from tleg_core.image_file import TRAIN, ImageFile, ImageFileWriter
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.decoded import DecodedPixels, InputShape
from tleg_core.training.fine_tune import FineTune, Lesson
from tleg_core.training.loop import Wish
from tleg_core.training.network import Network
from tleg_core.training.observer import Silent
from tleg_core.vit import VIT_SIZES, timm_architecture, timm_model_args

_IMAGES = 8  # for each process


class _Nowhere:
    """Writes checkpoints to a file that is never read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def due(self, step: int, *, ends_epoch: bool) -> bool:  # noqa: ARG002
        return True

    def keep(self, checkpoint: Checkpoint, step: int) -> None:  # noqa: ARG002
        checkpoint.write(self._path)

    def read(self) -> Checkpoint:
        return Checkpoint.read(self._path)


def rehearse(bench: Workbench) -> None:
    """Train the smallest network for two updates on images of noise, measure, and write, in the work folder."""
    config = VIT_SIZES["test"]
    images, state, weights = (bench.work_dir / name for name in ("rehearsal.arrow", "rehearsal.state", "rehearsal.weights"))
    nproc = bench.processes.count
    num_images = nproc * _IMAGES
    rng = np.random.default_rng(0)
    with ImageFileWriter(images, ("a", "b")) as writer:
        for index in range(num_images):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(buffer, "JPEG")
            writer.add(buffer.getvalue(), str(index), index % 2, TRAIN)
    file = ImageFile.open(images)
    shape = InputShape.of(config.img_size, config.in_chans, Preprocessing())
    network = Network(architecture=timm_architecture(config), model_args=timm_model_args(config, 1), num_classes=2)
    facts = FineTuneFacts(
        num_train=num_images // 2, num_classes=2, has_test_split=False, img_size=config.img_size, depth=1, same_classes=False
    )
    settings = FineTuneSettings.resolve({"epochs": 1, "batch_size": 2 * nproc, "nproc": nproc}, facts)
    lesson = Lesson(
        network=network,
        weights=network.build(drop_path=0.0, seed=0).to(bench.device).state_dict(),
        preprocessing=Preprocessing(),
        file=file,
        pixels=DecodedPixels(
            file, shape, device=bench.device, threads=bench.threads, keep_bytes=2**20, keep_device=torch.device("cpu")
        ),
        shape=shape,
        digest="",
    )
    tuned = FineTune(
        lesson,
        settings,
        device=bench.device,
        threads=bench.threads,
        keeper=_Nowhere(state),
        observer=Silent(),
        wish=lambda: Wish.GO_ON,
        processes=bench.processes,
    )
    tuned.run()
    tuned.write_weights(weights)
    for path in (images, state, weights):
        path.unlink(missing_ok=True)
