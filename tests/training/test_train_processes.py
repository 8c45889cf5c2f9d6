"""`tleg train` as real processes: killed at any moment and resumed; two under torchrun, and one of them lost."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.processes import is_running
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.keeper import CHECKPOINT_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TLEG = [sys.executable, "-m", "service.cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "service.cli"]

EVERYTHING = """
[network]
size = "test"
img_size = 16
patch_size = 8

[depths]
rule = "sandwich"
train = 4
self_distillation = 0.5

[distillation]
alpha = 0.0

[training]
epochs = 3
batch_size = 8
micro_batches = 2
warmup_epochs = 1
drop_path = 0.2
clip_grad = 1.0
ema_decay = 0.9
precision = "float16"
checkpoint_every_steps = 1

[augmentation]
mixup_alpha = 0.8
cutmix_alpha = 1.0
random_erasing = 0.25
label_smoothing = 0.1
"""
"""Every source of randomness and every state that a run has."""

ALONE_OR_NOT = """
[network]
size = "test"
img_size = 16
patch_size = 8

[depths]
rule = "uniform"
train = 4

[distillation]
alpha = 0.0

[training]
epochs = 2
batch_size = 16
clip_grad = 1.0
ema_decay = 0.9
precision = "float32"
checkpoint_every_steps = 1

[augmentation]
flip = 0.0
shift = 0
"""
"""Nothing drawn that would be drawn for each process apart."""


@pytest.fixture
def data(bars: ImageSet, tmp_path: Path) -> Path:
    """A file of 48 images."""
    save_parquet(bars, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def command(start: list[str], recipe: str, data: Path, out: Path, *, resume: bool = False) -> list[str]:
    """Return the command line of a training."""
    path = out.with_suffix(".toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(recipe)
    words = ["train", path, "--data", data, "--test-data", data.with_name("test.parquet"), "--out", out, "--device", "cpu"]
    if not data.with_name("test.parquet").exists():
        del words[4:6]
    return [*start, *(str(word) for word in words), *(["--resume"] if resume else [])]


class Child:
    """A command that runs, with one thread, so that sums are in one order."""

    def __init__(self, words: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)

    @property
    def said(self) -> str:
        """What it wrote so far."""
        return self._log.read_text()

    def check(self) -> None:
        """Fail where it has ended."""
        assert self.process.poll() is None, self.said


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[Child]:
    """Start a command; nothing of it is left afterwards."""
    child = Child(words, folder / "said.txt")
    try:
        yield child
    finally:
        left = (
            [*psutil.Process(child.process.pid).children(recursive=True), child.process] if child.process.poll() is None else []
        )
        for process in left:
            process.kill()
        child.process.wait()


def finished(words: list[str], folder: Path) -> str:
    """Run a command to its end and return what it said."""
    with started(words, folder) as child:
        assert child.process.wait() == 0, child.said
        return child.said


def wait_for(path: Path, child: Child) -> None:
    """Wait until there is a file."""
    while not path.exists():
        child.check()
        time.sleep(0.01)


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(data: Path, tmp_path: Path) -> None:
    """With elastic depths, mixing, erasing, drop path, float16's scale, clipping, accumulation and EMA; killed by SIGKILL."""
    finished(command(TLEG, EVERYTHING, data, tmp_path / "a" / "gene.safetensors"), tmp_path)
    out = tmp_path / "b" / "gene.safetensors"
    checkpoint = out.with_suffix(".run") / CHECKPOINT_NAME
    draws = random.Random(4)
    steps: list[int] = []
    for attempt in range(3):
        with started(command(TLEG, EVERYTHING, data, out, resume=attempt > 0), tmp_path) as child:
            wait_for(checkpoint, child)
            before = checkpoint.stat().st_mtime_ns
            while checkpoint.stat().st_mtime_ns == before and child.process.poll() is None:
                time.sleep(0.005)
            time.sleep(draws.random() * 0.3)  # anywhere between two updates, or within one, or while a checkpoint is written
            child.process.send_signal(signal.SIGKILL)
            child.process.wait()
        steps.append(int(Checkpoint.read(checkpoint).facts["step"]))
    assert steps[0] > 0
    finished(command(TLEG, EVERYTHING, data, out, resume=True), tmp_path)
    undisturbed, resumed = (Learngene.open(tmp_path / name / "gene.safetensors") for name in "ab")
    assert resumed.digest == undisturbed.digest


def test_two_processes_train_what_one_does(data: Path, bars: ImageSet, tmp_path: Path) -> None:
    """The same learngene up to rounding; one of them speaks, and the run's folder is as that of one."""
    save_parquet(bars.head(30), tmp_path / "test.parquet")
    finished(command(TLEG, ALONE_OR_NOT, data, tmp_path / "one" / "gene.safetensors"), tmp_path)
    said = finished(command(TORCHRUN, ALONE_OR_NOT, data, tmp_path / "two" / "gene.safetensors"), tmp_path)
    one, two = (Learngene.open(tmp_path / name / "gene.safetensors") for name in ("one", "two"))
    for name, array in one.tensors.items():
        np.testing.assert_allclose(two.tensors[name], array, atol=2e-5, err_msg=name)  # sums in another order; AdamW divides
    assert len(re.findall(r"epoch 2/2", said)) == 1
    lines = [(tmp_path / name / "gene.run" / "journal.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert sum('"epoch"' in line[:20] for line in lines[1]) == sum('"epoch"' in line[:20] for line in lines[0]) == 2


def test_a_lost_process_ends_all_and_the_run_resumes(data: Path, tmp_path: Path) -> None:
    """The other one says what happened, torchrun ends, nothing is left over, and --resume goes on."""
    long = ALONE_OR_NOT.replace("epochs = 2", "epochs = 400")
    out = tmp_path / "lost" / "gene.safetensors"
    with started(command(TORCHRUN, long, data, out), tmp_path) as child:
        wait_for(out.with_suffix(".run") / CHECKPOINT_NAME, child)
        processes = psutil.Process(child.process.pid).children(recursive=True)
        first, second = (next(process for process in processes if process.environ().get("RANK") == rank) for rank in "01")
        child.process.send_signal(signal.SIGSTOP)  # torchrun would end the first one too, before or after it has spoken
        second.kill()
        deadline = time.monotonic() + 300
        while is_running(first.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.process.send_signal(signal.SIGCONT)
        assert child.process.wait() != 0
        assert "Another process of this run has ended" in child.said
        assert "--resume" in child.said
        assert not any(is_running(process.pid) for process in processes)
    step = int(Checkpoint.read(out.with_suffix(".run") / CHECKPOINT_NAME).facts["step"])
    with started(command(TORCHRUN, long, data, out, resume=True), tmp_path) as child:
        while int(Checkpoint.read(out.with_suffix(".run") / CHECKPOINT_NAME).facts["step"]) <= step + 2:
            child.check()
            time.sleep(0.05)
