"""`tleg train` of a pool as real processes: killed at any moment and resumed; two under torchrun."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training import late_stitches
from tests.training.test_train_processes import TLEG, TORCHRUN, command, finished, started, wait_for
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.keeper import CHECKPOINT_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOL = """
[pool]
method = "sn-net"
[network]
img_size = 16
patch_size = 8
[[anchors]]
name = "small"
size = "test"
embed_dim = 16
depth = 2
[[anchors]]
name = "large"
size = "test"
depth = 2
[stitching]
images = 16
[joint]
epochs = 2
alpha = 0.0
[training]
epochs = 2
batch_size = 8
clip_grad = 1.0
ema_decay = 0.9
precision = "float32"
checkpoint_every_steps = 1
"""

EVERYTHING = """micro_batches = 2
drop_path = 0.2
[augmentation]
mixup_alpha = 0.8
random_erasing = 0.25
"""

NOTHING_DRAWN = """
[augmentation]
flip = 0.0
shift = 0
"""
"""Nothing but the path, that would be drawn for each process apart."""


@pytest.fixture
def data(bars: ImageSet, tmp_path: Path) -> Path:
    """A file of 48 images."""
    save_parquet(bars, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_a_run_killed_in_any_phase_ends_in_the_same_bytes(data: Path, tmp_path: Path) -> None:
    """By SIGKILL, four times, in whatever phase it is by then."""
    recipe = POOL + EVERYTHING
    finished(command(TLEG, recipe, data, tmp_path / "a" / "gene.safetensors"), tmp_path)
    out = tmp_path / "b" / "gene.safetensors"
    checkpoint = out.with_suffix(".run") / CHECKPOINT_NAME
    draws = random.Random(4)
    phases: list[int] = []
    for attempt in range(4):
        with started(command(TLEG, recipe, data, out, resume=attempt > 0), tmp_path) as child:
            wait_for(checkpoint, child)
            before = checkpoint.stat().st_mtime_ns
            while checkpoint.stat().st_mtime_ns == before and child.process.poll() is None:
                time.sleep(0.005)
            time.sleep(draws.random() * 0.3)
            child.process.send_signal(signal.SIGKILL)
            child.process.wait()
        phases.append(int(Checkpoint.read(checkpoint).facts["phase"]))
    assert phases == sorted(phases)
    finished(command(TLEG, recipe, data, out, resume=True), tmp_path)
    undisturbed, resumed = (Learngene.open(tmp_path / name / "gene.safetensors") for name in "ab")
    assert resumed.digest == undisturbed.digest


def test_two_processes_make_what_one_does(data: Path, bars: ImageSet, tmp_path: Path) -> None:
    """The same anchors, stitches and paths up to rounding: METHODS P2, whose processes never share a gradient."""
    save_parquet(bars.head(30), tmp_path / "test.parquet")
    recipe = POOL + NOTHING_DRAWN
    finished(command(TLEG, recipe, data, tmp_path / "one" / "gene.safetensors"), tmp_path)
    finished(command(TORCHRUN, recipe, data, tmp_path / "two" / "gene.safetensors"), tmp_path)
    one, two = (Learngene.open(tmp_path / name / "gene.safetensors") for name in ("one", "two"))
    for name, array in one.tensors.items():
        np.testing.assert_allclose(two.tensors[name], array, atol=2e-4, err_msg=name)  # sums in another order; AdamW divides
    assert len(two.description.accuracy) == len(one.description.accuracy) == 6


def test_stitches_are_waited_for_however_long_their_fit_takes(tmp_path: Path) -> None:
    """Longer than a sum over the processes is: the first one fits them alone, and all have what one process alone makes."""
    assert late_stitches.FIT_S > late_stitches.PATIENCE_S
    program = late_stitches.__name__
    pools = []
    for name, start in (("one", [sys.executable]), ("two", TORCHRUN[:-2])):
        (tmp_path / name).mkdir()
        finished([*start, "-m", program, str(tmp_path / name)], tmp_path)
        pools += [load_file(path) for path in sorted((tmp_path / name).glob("?.safetensors"))]
    assert len(pools) == 3
    for pool in pools[1:]:
        assert {name: array.tobytes() for name, array in pool.items()} == {
            name: array.tobytes() for name, array in pools[0].items()
        }
