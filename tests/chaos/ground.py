"""The ground of the chaos tests: `tleg serve` and `tleg worker` as processes, a tiny learngene and data set, short jobs.

Nothing in the product knows of it: processes are found by psutil, and killed as the kernel or an operator would.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import psutil
from PIL import Image
from redis.asyncio import Redis

from service.domain.dataset import Dataset
from service.domain.errors import StoreUnavailableError
from service.domain.job import FineTuneSpec, Job, JobStatus
from service.domain.model import Model
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import JobStore
from service.storage.learngene_registry import load_catalogue
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore, dataset_key
from tests.processes import children_with, is_running
from tests.service.server import ServerProcess, environment
from tests.service.tiny import write_small_learngenes
from tleg_core.family import Variation
from tleg_core.fine_tuning import Augmentation, FineTuneSettings, HeadStart, Precision, Start
from tleg_core.image_file import TRAIN, ImageFileWriter

HEARTBEAT_S = 4.0
CLASSES = ("circle", "square", "triangle")
IMAGES_OF_A_CLASS = 40
DATASET_ID = "ds-" + 32 * "c"
_DEADLINE_S = 240.0

_T = TypeVar("_T")


def settings(**changes: object) -> dict[str, object]:
    """Return the settings of a job that uses every source of chance that training has; 180 steps, a few seconds."""
    given: dict[str, object] = {
        "epochs": 15,
        "batch_size": 8,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "layer_decay": 0.8,
        "warmup_epochs": 1,
        "augmentation": Augmentation.LIGHT,
        "mixup": 0.2,
        "cutmix": 0.0,
        "random_erasing": 0.1,
        "label_smoothing": 0.1,
        "drop_path": 0.1,
        "freeze": 0,
        "clip_grad": 1.0,
        "precision": Precision.FLOAT32,
        "compile": False,
        "seed": 1,
        "nproc": 1,
        "holdout": 0.2,
        "start": Start.MODEL,
        "head": HeadStart.ZERO,
        "save_every_epochs": 4,
    }
    return FineTuneSettings(**{**given, **changes}).to_json()  # type: ignore[arg-type]


@dataclass
class Worker:
    """One `tleg worker`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def engine(self) -> psutil.Process | None:
        """Its engine, if it runs one now."""
        return engine_of(self.pid)

    def is_ready(self) -> bool:
        """Whether its engine has said so, the latest that it started."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if "engine_" in line]
        return bool(lines) and "engine_ready" in lines[-1]


@dataclass
class Ground:
    """A server without workers of its own, and workers beside it."""

    folder: Path
    env: dict[str, str]
    server: ServerProcess
    learngenes: list[Path]
    model: Model
    workers: list[Worker] = field(default_factory=list)

    @classmethod
    def make(cls, **env: str) -> Self:
        """Make a folder with learngenes and images; a short path, for sockets lie in it."""
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        learngenes = write_small_learngenes(folder)[:1]
        family = load_catalogue(learngenes, shipped=False).families[0]
        model = Model.of(family, family.recipe(family.members[1], Variation()))
        env = {
            "TLEG_HEARTBEAT_S": str(HEARTBEAT_S),
            "TLEG_CHECKPOINT_S": "0",
            "TLEG_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",  # the networks are tiny, and the machine may be too
        } | env
        server = ServerProcess(folder / "data", learngenes, **env)
        return cls(folder, env, server, learngenes, model)

    def __enter__(self) -> Self:
        """Start the server, and record a model and a data set."""
        self.server.start()
        self._record_subject()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End everything."""
        for worker in self.workers:
            self.end(worker)
        self.server.stop()
        if kind is None:
            shutil.rmtree(self.folder)
        else:
            print(f"see {self.folder}")

    def start_worker(self, *, ready: bool = True, **env: str) -> Worker:
        """Start a worker; wait until it can take a job."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        named = [text for path in self.learngenes for text in ("--learngene", str(path))]
        command = [sys.executable, "-m", "service.cli", "worker", "--no-shipped", *named]
        command += ["--data-dir", str(self.server.data_dir)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment(**self.env | env), start_new_session=True
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        if ready:
            wait_until(worker.is_ready)
        return worker

    def have_workers(self, count: int) -> list[Worker]:
        """Start workers until so many run, and wait until they can take jobs."""
        alive = [worker for worker in self.workers if worker.process.poll() is None]
        while len(alive) < count:
            alive.append(self.start_worker(ready=False))
        for worker in alive:
            wait_until(worker.is_ready)
        return alive

    def end(self, worker: Worker) -> int:
        """Drain a worker, and return its exit code."""
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)
            worker.process.send_signal(signal.SIGTERM)
        return worker.process.wait(60)

    def ask(self, use: Callable[[JobStore], Awaitable[_T]]) -> _T:
        """Ask the jobs' store."""

        async def opened() -> _T:
            async with self._redis() as redis:
                return await use(JobStore(redis, heartbeat_s=HEARTBEAT_S, max_deaths=3))

        deadline = time.monotonic() + 30
        while True:
            try:
                return asyncio.run(opened())
            except StoreUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def create(self, **changes: object) -> str:
        """Queue a job; return its id."""
        spec = FineTuneSpec(model=self.model.id, dataset=DATASET_ID, settings=settings(**changes), requested={})
        job, _ = self.ask(lambda jobs: jobs.create(spec))
        return job.id

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return self.ask(lambda jobs: jobs.get(job_id))

    def wait(self, job_id: str, holds: Callable[[Job], bool]) -> Job:
        """Wait until that holds of a job."""
        deadline = time.monotonic() + _DEADLINE_S
        while not holds(job := self.get(job_id)):
            assert time.monotonic() < deadline, f"{job}; see {self.folder}"
            time.sleep(0.05)
        return job

    def ended(self, job_id: str) -> Job:
        """Wait for a job's end."""
        return self.wait(job_id, lambda job: job.status.is_terminal)

    def running(self, job_id: str) -> Job:
        """Wait until a job has taken a step."""
        return self.wait(job_id, lambda job: job.status is JobStatus.RUNNING and job.progress.step > 0)

    def weights(self, job: Job) -> str:
        """Return the sha256 of a job's result, taken of the file itself."""
        assert job.status is JobStatus.SUCCEEDED, job
        assert job.result is not None

        async def read() -> Model:
            async with self._redis() as redis:
                return (await ModelStore(redis).get(str(job.result))).model

        fine_tuning = asyncio.run(read()).fine_tuning
        assert fine_tuning is not None
        path = self._objects().local_path(fine_tuning.weights_key)
        assert path is not None
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def worker_of(self, job: Job) -> Worker:
        """Return the worker that has a job."""
        assert job.worker is not None
        return next(worker for worker in self.workers if f"-{worker.pid}-" in str(job.worker))

    def states_left(self, job_id: str) -> list[Path]:
        """Return the states of training that lie in the object store."""
        return list((self.server.data_dir / "objects" / "jobs" / job_id).glob("*"))

    def _redis(self) -> Redis:
        socket = self.server.data_dir / "redis" / "redis.sock"
        return Redis.from_url(f"unix://{socket}", decode_responses=True)

    def _objects(self) -> ObjectStore:
        return ObjectStore((self.server.data_dir / "objects").as_uri())

    def _record_subject(self) -> None:
        images = self.folder / "images.arrow"
        rng = np.random.default_rng(5)
        with ImageFileWriter(images, CLASSES) as writer:
            for label in range(len(CLASSES)):
                for number in range(IMAGES_OF_A_CLASS):
                    buffer = io.BytesIO()
                    noise = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8) + np.uint8(20 * label)
                    Image.fromarray(noise).save(buffer, "PNG")
                    writer.add(buffer.getvalue(), f"{number:03}.png", label, TRAIN)
        key = dataset_key(64 * "c", 32 * "c")
        self._objects().put_file(key, images)
        dataset = Dataset(
            id=DATASET_ID,
            name="noise",
            class_names=CLASSES,
            train_counts=(IMAGES_OF_A_CLASS,) * len(CLASSES),
            test_counts=(0,) * len(CLASSES),
            size_bytes=images.stat().st_size,
            min_side=32,
            max_side=32,
            formats={"PNG": IMAGES_OF_A_CLASS * len(CLASSES)},
            refused={},
            refused_examples=(),
            object_key=key,
        )

        async def record() -> None:
            async with self._redis() as redis:
                await ModelStore(redis).add(self.model)
                await DatasetStore(redis).add(dataset)

        asyncio.run(record())


def engine_of(pid: int) -> psutil.Process | None:
    """Return the engine of a worker, if it runs one now."""
    return next(iter(children_with("service.worker.engine", pid)), None)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal, if the process still is."""
    if is_running(pid):
        os.kill(pid, number)


def wait_until(holds: Callable[[], bool], *, within_s: float = 180) -> None:
    """Wait until that holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
