"""The workbench: what a warm engine holds for every job. Learngenes and data sets, on the device where they fit; the store.

Nothing here is of one job; what a job does with it is `training`'s business.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from service.domain.dataset import Dataset
from service.domain.errors import DatasetNotFoundError, LearngeneNotLoadedError, ObjectDamagedError, ObjectStoreError
from service.domain.model import Model
from service.storage.learngene_registry import load_catalogue
from service.storage.object_store import ObjectStore, learngene_sha256
from tleg_core.description import Preprocessing
from tleg_core.errors import ConfigError, LearngeneFileError
from tleg_core.family import Family
from tleg_core.image_file import ImageFile
from tleg_core.learngene import Learngene
from tleg_core.memory import memory_bytes
from tleg_core.training.checkpoint import read_tensors
from tleg_core.training.decoded import DecodedPixels, InputShape, decoding_threads
from tleg_core.training.network import DeviceLearngene
from tleg_core.training.processes import Processes

logger = logging.getLogger(__name__)

_KEPT_SHARE = 0.25  # of the memory, for decoded images
_FETCHED_FILES = 4  # data set files kept on the disk where the store is elsewhere
_FETCHED_LEARNGENES = 4  # published learngenes kept on the device, beside those that it starts with


def choose_device(wanted: str, rank: int, count: int) -> torch.device:
    """Return the device of a process.

    Args:
        wanted: auto, cpu or cuda.
        rank: The process's number among `count` on this machine.
        count: Processes.

    Raises:
        ConfigError: There is no GPU, or there are fewer than processes.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device", "is cuda, but PyTorch finds no GPU")
    if count > torch.cuda.device_count():
        raise ConfigError("nproc", f"{count} processes need as many GPUs; there are {torch.cuda.device_count()}")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


class Workbench:
    """What an engine holds.

    Args:
        learngenes: Paths of the files of those that it starts with.
        store: The object store.
        device: Where it computes.
        work_dir: A folder of its own.
        processes: Those that share each job.

    Raises:
        LearngeneFileError: A learngene cannot be read.
    """

    def __init__(
        self, learngenes: Iterable[Path], store: ObjectStore, *, device: torch.device, work_dir: Path, processes: Processes
    ) -> None:
        self.store, self.device, self.processes = store, device, processes
        self.work_dir = work_dir / str(processes.rank)
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.threads = decoding_threads()
        catalogue = load_catalogue(learngenes, shipped=False)
        self._learngenes = {family.digest: DeviceLearngene(family, device) for family in catalogue.families}
        self._fetched: OrderedDict[str, DeviceLearngene] = OrderedDict()  # by object key
        self._files: OrderedDict[str, ImageFile] = OrderedDict()
        self._pixels: OrderedDict[tuple[str, InputShape], DecodedPixels] = OrderedDict()

    def fetch_learngene(self, object_key: str | None) -> None:
        """Hold the published learngene that lies under a key, until several others were needed; None needs none.

        Where it is gone or damaged the log says so, and `weights` says that it is not here.

        Raises:
            ObjectStoreError: The store fails.
        """
        if object_key is None:
            return
        if object_key in self._fetched:
            self._fetched.move_to_end(object_key)
            return
        path = self.work_dir / "learngene.safetensors"
        try:
            self.store.fetch_file(object_key, path, sha256=learngene_sha256(object_key))
            family = Family(Learngene.open(path))
        except (FileNotFoundError, ObjectDamagedError, LearngeneFileError) as error:
            reason = "it is gone" if isinstance(error, FileNotFoundError) else str(error)
            facts = {"action": "learngene_broken", "object": object_key}
            logger.error("a published learngene cannot be used: %s", reason, extra=facts)
            return
        finally:
            path.unlink(missing_ok=True)
        while len(self._fetched) >= _FETCHED_LEARNGENES:
            self._fetched.popitem(last=False)
        self._fetched[object_key] = DeviceLearngene(family, self.device)

    def weights(self, model: Model) -> dict[str, Tensor]:
        """Return a model's weights, float32 on the device.

        Raises:
            LearngeneNotLoadedError: It is to be expanded from a learngene that is not here.
            ObjectStoreError: Its file cannot be fetched, or is damaged.
        """
        if model.fine_tuning is None:
            return self._learngene(model).expand(model.recipe)
        path = self.work_dir / "parent.safetensors"
        try:
            self._fetch(model.fine_tuning.weights_key, path, sha256=model.fine_tuning.weights_sha256)
            tensors, _ = read_tensors(path)
        finally:
            path.unlink(missing_ok=True)
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def preprocessing(self, model: Model) -> Preprocessing:
        """Return what a model expects of its input; raises `LearngeneNotLoadedError`."""
        if model.fine_tuning is not None:
            return model.fine_tuning.preprocessing
        return self._learngene(model).family.learngene.description.preprocessing

    def images(self, dataset: Dataset) -> ImageFile:
        """Return a data set's file, open.

        Raises:
            DatasetNotFoundError: It is not in the store.
            ObjectStoreError: The store fails.
            ImageFileError: It is damaged.
        """
        key = dataset.object_key
        file = self._files.get(key)
        if file is None:
            path = self.store.local_path(key)
            if path is None:
                path = self.work_dir / Path(key).name  # the key's last part is a digest of ours
                self._fetch_dataset(dataset, path)
            if not path.is_file():
                raise DatasetNotFoundError(dataset.id)
            self._files[key] = file = ImageFile.open(path)
        self._files.move_to_end(key)
        while len(self._files) > _FETCHED_FILES:
            old_key, old = self._files.popitem(last=False)
            for pixels_key in [pair for pair in self._pixels if pair[0] == old_key]:
                del self._pixels[pixels_key]
            if self.store.local_path(old_key) is None:
                old.path.unlink(missing_ok=True)
        return file

    def pixels(self, dataset: Dataset, file: ImageFile, shape: InputShape) -> DecodedPixels:
        """Return a data set's images at a network's size, as far as they were decoded for earlier jobs."""
        key = (dataset.object_key, shape)
        if key not in self._pixels:
            budget, keep_device = self._room(len(file) * shape.image_bytes)
            while (
                self._pixels and sum(item.kept_bytes for item in self._pixels.values()) + len(file) * shape.image_bytes > budget
            ):
                self._pixels.popitem(last=False)
            self._pixels[key] = DecodedPixels(
                file, shape, device=self.device, threads=self.threads, keep_bytes=budget, keep_device=keep_device
            )
        self._pixels.move_to_end(key)
        return self._pixels[key]

    def _fetch_dataset(self, dataset: Dataset, path: Path) -> None:
        try:
            self.store.fetch_file(dataset.object_key, path)
        except FileNotFoundError:
            raise DatasetNotFoundError(dataset.id) from None

    def _fetch(self, key: str, path: Path, *, sha256: str) -> None:
        """Write an object to a file; raises `ObjectStoreError`, where there is none too."""
        try:
            self.store.fetch_file(key, path, sha256=sha256)
        except FileNotFoundError:
            raise ObjectStoreError(f"the object store has no {key}") from None

    def _learngene(self, model: Model) -> DeviceLearngene:
        digest = model.recipe.learngene
        fetched = (item for item in self._fetched.values() if item.family.digest == digest)
        learngene = self._learngenes.get(digest) or next(fetched, None)
        if learngene is None:
            raise LearngeneNotLoadedError(model.learngene, digest)
        return learngene

    def _room(self, wanted_bytes: int) -> tuple[int, torch.device]:
        """Return how many bytes decoded images may take, and on which device; the machine's memory if a GPU's is too small."""
        if self.device.type == "cuda":
            _, total_bytes = torch.cuda.mem_get_info(self.device)
            if wanted_bytes <= total_bytes * _KEPT_SHARE:
                return int(total_bytes * _KEPT_SHARE), self.device
        return int(memory_bytes() * _KEPT_SHARE / self.processes.count), torch.device("cpu")
