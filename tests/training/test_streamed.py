"""Images that worker processes make: those that threads make, whatever their number, and clear words when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tleg_core.description import Preprocessing
from tleg_core.errors import PictureError
from tleg_core.image_folder import ImageFolder
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet, open_images, save_parquet
from tleg_core.parquet_images import ParquetImages
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.class_tasks import TaskBatches, whole_task
from tleg_core.training.decoded import DecodedPixels, InputShape, decoding_threads
from tleg_core.training.errors import ImageWorkerError
from tleg_core.training.pixels import MemoryPixels
from tleg_core.training.processes import Processes
from tleg_core.training.random_view import RandomView
from tleg_core.training.source_pixels import default_workers, keeping_device, training_pixels
from tleg_core.training.streamed import StreamedPixels, WholeView
from tleg_core.training_config import Augmentation, Crop, TrainingConfig

pytestmark = pytest.mark.timeout(600)  # processes that load PyTorch take minutes on a machine that is busy otherwise

CPU = torch.device("cpu")
SHAPE = InputShape(side=24, channels=3, interpolation="bicubic", crop_pct=0.875)
VIEW = RandomView(shape=SHAPE, mean=(0.5, 0.5, 0.5))
PUBLISHED = Augmentation(
    crop=Crop.RANDOM_RESIZED,
    rand_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.4,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    random_erasing=0.25,
    label_smoothing=0.1,
    repeats=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photos of noise in two classes, of several sizes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(48):
        where = root / "set" / ("even", "odd")[index % 2]
        where.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(20, 60, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(where / f"{index:02}.jpg")
    return root / "set"


def streamed(source: ImageSource, workers: int = 1, **settings: object) -> StreamedPixels:
    """Return pixels of random views, four at a time."""
    given = {"seed": 3, "device": CPU, "batch_size": 4} | settings
    return StreamedPixels(source, VIEW, SHAPE, workers=workers, **given)  # type: ignore[arg-type]


@pytest.fixture
def pixels(folder: Path) -> Iterator[StreamedPixels]:
    """Pixels that one process makes."""
    made = streamed(ImageFolder(folder))
    yield made
    made.close()


def run(source: ImageSource, workers: int, steps: int = 5, **settings: object) -> list[Batch]:
    """Return the first batches of a run with everything that is random."""
    config = TrainingConfig(epochs=9, batch_size=12, augmentation=PUBLISHED, **settings)  # type: ignore[arg-type]
    made = Batches.of_images(source, config, CPU, shape=SHAPE, preprocessing=Preprocessing(), workers=workers)
    with made:
        return [made.of(step) for step in range(steps)]


def same(left: list[Batch], right: list[Batch]) -> bool:
    """Whether two runs are equal, bit for bit."""
    pairs = list(zip(left, right, strict=True))
    return all(torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) for a, b in pairs)


def test_the_number_of_processes_changes_nothing(folder: Path) -> None:
    """The paper's augmentation by threads, by one process and by three: the same bits."""
    source = ImageFolder(folder)
    threads = run(source, 0)
    assert same(run(source, 1), threads)
    assert same(run(source, 3), threads)


def test_every_kind_of_source_is_read_by_the_processes(tmp_path: Path) -> None:
    """A set in memory, and parquet in row groups that do not all fit: as threads read them."""
    images = np.random.default_rng(1).integers(0, 256, (24, 9, 7, 3), dtype=np.uint8)
    data = ImageSet(name="noise", images=images, labels=np.arange(24) % 2, class_names=("a", "b"))
    assert same(run(data, 1, 2), run(data, 0, 2))
    save_parquet(data, tmp_path / "x.parquet")
    parquet = ParquetImages([tmp_path / "x.parquet"], "x", kept_bytes=1)
    assert same(run(parquet, 1, 2), run(data, 0, 2))


def test_images_are_those_of_their_rows_and_draws(pixels: StreamedPixels, folder: Path) -> None:
    """Expected or not, more than a batch at once, in any order, one of them twice; another draw is another view."""
    source = ImageFolder(folder)
    others = streamed(source, batch_size=16)
    try:
        expected = others.take(list(range(10)), 7)
        pixels.expect([0, 1, 2, 3], 7)
        pixels.expect([4, 5], 7)
        assert torch.equal(pixels.take(list(range(10)), 7), expected)
        assert torch.equal(pixels.take([9, 3, 3, 0], 7), expected[[9, 3, 3, 0]])
        draws = pixels.take([5, 5, 5], [6, 7, 8])
        assert torch.equal(draws[1], expected[5])
        assert not torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[2], draws[1])
    finally:
        others.close()


def test_what_is_expected_and_never_taken_makes_room(pixels: StreamedPixels) -> None:
    """A run that jumps is not held up by what it expected before; what was taken stays as it was."""
    taken = pixels.take([0, 1, 2, 3], 0)
    copy = taken.clone()
    for start in range(0, 40, 4):
        pixels.expect(list(range(start, start + 4)), 1)
    first = pixels.take([44, 45, 46, 47], 1)
    assert torch.equal(pixels.take([44, 45, 46, 47], 1), first)
    assert torch.equal(taken, copy)


def test_a_task_leaves_room_for_the_next_ones_batches(pixels: StreamedPixels, folder: Path) -> None:
    """What the last update of one expected past its end is dropped: the next has all its batches made ahead, and right."""
    source = ImageFolder(folder)
    config = TrainingConfig(epochs=1, batch_size=4, augmentation=Augmentation(crop=Crop.RANDOM_RESIZED, flip=0.0))
    tasks = TaskBatches(source, pixels, config, Preprocessing(), CPU)
    first = whole_task(source)
    with tasks.of(first) as batches:
        batches.of(batches.steps_per_epoch - 1)
    with tasks.of(replace(first, number=1)) as batches:
        batches.of(0)
        ahead = [list(rows) for rows, _ in pixels._coming]
        coming = [batches.of(step) for step in (1, 2, 3)]
    assert ahead == [batch.rows.tolist() for batch in coming]
    with tasks.of(replace(first, number=1)) as batches:
        assert all(torch.equal(batches.of(batch.step).images, batch.images) for batch in coming)


def test_whole_images_are_streamed_as_they_are_kept(folder: Path) -> None:
    """Without random crops a set that does not fit is decoded by the processes as threads decode one that does."""
    source = ImageFolder(folder)
    made = StreamedPixels(source, WholeView(SHAPE), SHAPE, seed=0, device=CPU, batch_size=8, workers=2)
    try:
        expected = np.stack([SHAPE.fit(source.encoded(row)) for row in range(8)])
        np.testing.assert_array_equal(made.take(list(range(8)), 0).numpy(), expected)
    finally:
        made.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_picture_is_named(tmp_path: Path, folder: Path, workers: int) -> None:
    """By its path; the batches before it can be had."""
    (tmp_path / "a").mkdir()
    for index in range(24):
        (tmp_path / "a" / f"{index:02}.jpg").write_bytes((folder / "even" / "00.jpg").read_bytes())
    (tmp_path / "a" / "07.jpg").write_bytes((folder / "even" / "00.jpg").read_bytes()[:200])
    config = TrainingConfig(epochs=1, batch_size=4, augmentation=Augmentation(crop=Crop.RANDOM_RESIZED))
    source = ImageFolder(tmp_path)
    outcomes = []
    with Batches.of_images(source, config, CPU, shape=SHAPE, preprocessing=Preprocessing(), workers=workers) as made:
        for step in range(6):
            try:
                outcomes.append(made.of(step).step)
            except PictureError as error:
                outcomes.append(str(error))
    (words,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert words.startswith(f"data: {tmp_path}/a/07.jpg is no readable picture")
    assert len(outcomes) == 6


class Deadly:
    """A view that ends its process at one image."""

    def __call__(self, image: Image.Image, seed: int) -> np.ndarray:  # noqa: ARG002
        """Return black, or die."""
        if seed % 5 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((24, 24, 3), dtype=np.uint8)


def test_a_worker_that_dies_is_an_error_in_plain_words(folder: Path) -> None:
    """And not a run that waits for ever."""
    made = StreamedPixels(ImageFolder(folder), Deadly(), SHAPE, seed=0, device=CPU, batch_size=16, workers=2)
    try:
        with pytest.raises(ImageWorkerError, match="process that decodes images has died"):
            made.take(list(range(16)), 0)
        with pytest.raises(ImageWorkerError):
            made.take(list(range(16)), 1)
    finally:
        made.close()


def test_closing_ends_the_processes(folder: Path) -> None:
    """Also where much is still to be done; a batch that was taken stays as it is."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    made = streamed(ImageFolder(folder), workers=2)
    taken = made.take([0, 1, 2, 3], 0)
    working = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert len(working) >= 2
    for start in range(0, 48, 4):
        made.expect(list(range(start, start + 4)), 1)
    made.close()
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert len(left) <= 2  # the server that workers are started by, and multiprocessing's tracker, end with this process
    assert taken.any()


CHILD = """
import signal, sys, time, torch
from tleg_core.image_folder import ImageFolder
from tests.training.test_streamed import streamed
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    made = streamed(ImageFolder(sys.argv[1]), workers=2)
    made.take([0, 1, 2, 3], 0)
    made.expect([4, 5, 6, 7], 0)
    print("ready", flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_processes_end_with_the_one_that_they_work_for(folder: Path, tmp_path: Path, end: signal.Signals) -> None:
    """Killed, or interrupted from the keyboard, which all of them hear: nobody is left, and no worker complains."""
    (tmp_path / "child.py").write_text(CHILD)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "child.py"), str(folder)]
    with (tmp_path / "words").open("w") as words:
        child = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=words, text=True, start_new_session=True
        )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            family = psutil.Process(child.pid).children(recursive=True)
            assert len(family) >= 2
            if end is signal.SIGKILL:
                child.kill()
            else:
                os.killpg(child.pid, end)
            child.wait(60)
            _, alive = psutil.wait_procs(family, timeout=60)
            assert not alive
        finally:
            child.kill()
    assert (tmp_path / "words").read_text().count("Traceback") == (end is signal.SIGINT)  # its own KeyboardInterrupt


def test_pixels_are_kept_where_they_fit_and_streamed_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size that they have at the network's input, against a share of the memory; a set in memory stays there."""
    source = ImageFolder(folder)
    config = TrainingConfig(epochs=1, batch_size=4)
    alone = Processes()

    def chosen(data: ImageSource, config: TrainingConfig = config, workers: int = 1) -> object:
        made = training_pixels(
            data, config, shape=SHAPE, preprocessing=Preprocessing(), device=CPU, processes=alone, workers=workers
        )
        made.close()
        return made

    kept = chosen(source)
    assert isinstance(kept, DecodedPixels)
    assert kept.kept_bytes == 48 * 24 * 24 * 3
    monkeypatch.setattr("tleg_core.training.source_pixels.memory_bytes", lambda: 48 * 24 * 24 * 3 * 2 - 1)
    assert keeping_device(48 * 24 * 24 * 3, CPU, alone) is None
    assert isinstance(chosen(source), StreamedPixels)
    passing = chosen(source, workers=0)
    assert isinstance(passing, DecodedPixels)
    assert passing.kept_bytes == 0
    whole = ImageSet(
        name="x", images=np.zeros((4, 8, 8, 3), dtype=np.uint8), labels=np.zeros(4, dtype=np.int64), class_names=("a",)
    )
    assert isinstance(chosen(whole), MemoryPixels)
    cropped = TrainingConfig(epochs=1, batch_size=4, augmentation=Augmentation(crop=Crop.RANDOM_RESIZED))
    assert isinstance(chosen(whole, cropped), StreamedPixels)


def test_processors_are_shared_by_the_processes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is left to each process that trains; with one processor threads decode."""

    class OneOf(Processes):
        def __init__(self, count: int) -> None:
            self.rank, self.count = 0, count

    for processors, count, workers in ((1, 1, 0), (2, 1, 1), (16, 1, 15), (16, 4, 3), (16, 16, 0), (128, 1, 32)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, processors=processors: set(range(processors)))
        assert default_workers(CPU, OneOf(count)) == workers


def test_shared_photos_are_streamed_as_they_are_kept(shared_data: Callable[[str], Path]) -> None:
    """Real pictures from parquet, by two processes and by threads."""
    source = open_images(shared_data("openclipart15-test.parquet"))
    rows = list(range(0, 617, 40))
    made = StreamedPixels(source, WholeView(SHAPE), SHAPE, seed=0, device=CPU, batch_size=16, workers=2)
    try:
        with decoding_threads() as threads:
            kept = DecodedPixels(source, SHAPE, device=CPU, threads=threads, keep_bytes=0, keep_device=CPU)
            assert torch.equal(made.take(rows, 0), kept.take(rows, 0))
    finally:
        made.close()


def test_the_first_batch_is_not_made_after_those_that_follow_it() -> None:
    """What is taken now is begun before what is expected: a run begins when its first batch is there."""
    begun: list[list[int]] = []

    class Noted(MemoryPixels):
        def expect(self, rows, draws):  # noqa: ARG002
            begun.append(list(rows))

    data = ImageSet(
        name="x", images=np.zeros((64, 8, 8, 3), dtype=np.uint8), labels=np.zeros(64, dtype=np.int64), class_names=("a",)
    )
    config = TrainingConfig(epochs=1, batch_size=4)
    with Batches.of_image_set(data, config, CPU) as made:
        made._pixels = Noted(data, CPU)
        assert begun == []
        assert made.of(0).rows.tolist() == begun[0]
        assert len(begun) == 4
