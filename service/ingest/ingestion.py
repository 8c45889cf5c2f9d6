"""Uploads becoming data sets: the side that waits for the validating process, stores its file and records it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import service
from service.domain.dataset import Dataset, StoredDataset
from service.domain.errors import (
    DatasetRefusedError,
    ObjectStoreError,
    ServiceError,
    StorageFullError,
    StoreUnavailableError,
    UploadsBusyError,
)
from service.ingest.candidate import printable
from service.ingest.container import Container
from service.ingest.limits import Limits
from service.ingest.upload_folder import UploadFolder, delete_stale
from service.ingest.validation import Accepted, DiskFull, Order, Outcome, Refused
from service.storage.dataset_store import DatasetStore
from service.storage.object_store import ObjectStore, dataset_key

logger = logging.getLogger(__name__)

_RECEIVED_AT_ONCE = 64
_VALIDATED_AT_ONCE = 2
_TIMEOUT_S = 6 * 3600
_MAX_OUTCOME_BYTES = 64 * 1024**2
_LOGGED_BYTES = 4000
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PACKAGES = Path(service.__file__).parents[1]
"""Where the process finds this package, whatever folder the server was started in."""

_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


class Ingestion:
    """Turns uploads into data sets, a few at a time.

    Args:
        root: Folder for what is on its way.
        limits: What an upload may contain.
        datasets: Where data sets are recorded.
        objects: Where their files go.
    """

    def __init__(self, root: Path, *, limits: Limits, datasets: DatasetStore, objects: ObjectStore) -> None:
        self._root = root
        self._limits = limits
        self._datasets = datasets
        self._objects = objects
        self._receiving = 0
        self._validating = asyncio.Semaphore(_VALIDATED_AT_ONCE)

    async def clean(self) -> None:
        """Delete what killed servers and interrupted deletions left; what cannot be now is left to the next time."""
        try:
            await delete_stale(self._root, self._release)
            await self._datasets.end_doomed(self._objects)
        except (StoreUnavailableError, ObjectStoreError, OSError) as error:
            logger.warning("%s", error, extra={"action": "cleaning_failed"})

    @asynccontextmanager
    async def folder(self, declared_bytes: int) -> AsyncIterator[UploadFolder]:
        """Give a folder for an upload, and delete it in the end.

        Args:
            declared_bytes: How long the client says that its upload is; 0 if it does not say.

        Raises:
            UploadsBusyError: There are too many uploads at once.
            StorageFullError: There is no room.
        """
        if self._receiving >= _RECEIVED_AT_ONCE:
            raise UploadsBusyError
        self._receiving += 1
        try:
            with storage_failures():
                folder = await asyncio.to_thread(UploadFolder, self._root)
            try:
                if declared_bytes > shutil.disk_usage(folder.path).free:
                    raise StorageFullError(f"there is no room for an upload of {declared_bytes:,} bytes")
                yield folder
            finally:
                await _to_the_end(folder.close)
        finally:
            self._receiving -= 1

    async def ingest(self, folder: UploadFolder, container: Container, name: str) -> tuple[StoredDataset, bool]:
        """Make a data set of an upload that was received; return it, and whether it is new. What was refused is this upload's.

        Cancelled, it leaves nothing behind.

        Raises:
            DatasetRefusedError: The upload is none.
            StorageFullError: There is no room.
            StoreUnavailableError, ObjectStoreError: It could not be stored.
        """
        async with self._validating:
            accepted = await self._validate(folder, container)
        dataset_id = f"ds-{accepted.digest[:32]}"
        dataset = Dataset(
            id=dataset_id,
            name=name or dataset_id,
            object_key=dataset_key(accepted.digest, folder.id),
            **accepted.model_dump(exclude={"outcome", "digest"}),
        )
        storing = asyncio.create_task(self._store(folder, dataset))
        try:
            return await asyncio.shield(storing)
        except asyncio.CancelledError:
            await asyncio.wait([storing])  # it ends either way: stored and recorded, or nothing of it
            raise

    async def _store(self, folder: UploadFolder, dataset: Dataset) -> tuple[StoredDataset, bool]:
        """Store and record, or neither; where this process dies in between, the claim is what a later one undoes it by."""
        with storage_failures():
            folder.claim.write_text(json.dumps({"dataset": dataset.id, "object_key": dataset.object_key}))
        try:
            await asyncio.to_thread(self._objects.move_file, dataset.object_key, folder.image_file)
            stored, added = await self._datasets.add(dataset)
        except ServiceError:
            await self._give_up(folder, dataset)
            raise
        if added:
            return stored, True
        await self._give_up(folder, dataset)
        found = replace(stored.dataset, refused=dataset.refused, refused_examples=dataset.refused_examples)
        return replace(stored, dataset=found), False

    async def _give_up(self, folder: UploadFolder, dataset: Dataset) -> None:
        """Delete the object, unless it was recorded though no answer of that came; unknown, it is left to the next `clean`."""
        try:
            await self._release(folder.claim.read_bytes())
        except (StoreUnavailableError, ObjectStoreError) as error:
            folder.leave_claim()
            logger.warning("%s", error, extra={"action": "object_left", "object": dataset.object_key})

    async def _release(self, claim: bytes) -> None:
        """Delete the object of a claim that came to nothing."""
        try:
            claimed = json.loads(claim)
            dataset_id, object_key = str(claimed["dataset"]), str(claimed["object_key"])
        except (ValueError, KeyError, TypeError):
            return  # it was being written: nothing was taken yet
        if not await self._datasets.names_object(dataset_id, object_key):
            await self._objects.delete_async(object_key)

    async def _validate(self, folder: UploadFolder, container: Container) -> Accepted:
        order = Order(
            container=container,
            source=folder.upload,
            target=folder.image_file,
            spool=folder.spool,
            current=folder.current,
            max_images=self._limits.max_images,
            max_pixels=self._limits.max_pixels,
            max_unpacked_bytes=self._limits.max_unpacked_bytes,
        )
        output, code = await _run(order)
        try:
            outcome = _OUTCOME.validate_json(output)
        except ValidationError:
            raise DatasetRefusedError(_death(folder.current, code)) from None
        match outcome:
            case Refused():
                raise DatasetRefusedError(outcome.reason, limit=outcome.limit)
            case DiskFull():
                raise StorageFullError(outcome.reason)
        return outcome


async def _run(order: Order) -> tuple[bytes, int]:
    """Return the process's output and its exit code; it is killed where this is cancelled, or takes too long."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.ingest",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=_PACKAGES,
        limit=_MAX_OUTCOME_BYTES,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018, S101
    errors = asyncio.create_task(_tail(process.stderr))
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            with contextlib.suppress(ConnectionError):
                process.stdin.write(order.model_dump_json().encode() + b"\n")
                await process.stdin.drain()
            output = await _head(process.stdout)
            code = await process.wait()
    except TimeoutError:
        raise DatasetRefusedError(f"validating the upload took more than {_TIMEOUT_S // 3600} hours") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.wait([asyncio.create_task(process.wait()), errors])
    if said := errors.result():
        logger.error("an upload's validation said: %s", said, extra={"action": "validation_failed", "code": code})
    return output, code


async def _head(stream: asyncio.StreamReader) -> bytes:
    """Return all that comes, up to what an outcome may have; one `read` returns what is there already."""
    kept = bytearray()
    while len(kept) < _MAX_OUTCOME_BYTES and (chunk := await stream.read(_MAX_OUTCOME_BYTES - len(kept))):
        kept += chunk
    return bytes(kept)


async def _tail(stream: asyncio.StreamReader) -> str:
    """Return the last that comes, as text."""
    kept = b""
    while chunk := await stream.read(_LOGGED_BYTES):
        kept = (kept + chunk)[-_LOGGED_BYTES:]
    return kept.decode(errors="replace")


def _death(current: Path, code: int) -> str:
    """Return what to say of a process that ended without an outcome."""
    how = f"was ended by {signal.Signals(-code).name}" if -code in list(signal.Signals) else f"ended with code {code}"
    try:
        entry = printable(current.read_bytes().partition(b"\0")[0].decode(errors="replace"))
    except OSError:
        entry = ""
    return f"validating the upload {how}" + (f" at {entry!r}; without it, the rest may be accepted" if entry else "")


@contextmanager
def storage_failures() -> Iterator[None]:
    """Turn a failing data folder into ours: a full one is a `StorageFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(f"there is no room for the upload: {error.strerror}") from error
        raise StoreUnavailableError(f"the data folder cannot be written: {error.strerror}") from error


async def _to_the_end(close: Callable[[], None]) -> None:
    """Run a deletion in a thread, and wait for it though cancelled meanwhile."""
    closing = asyncio.create_task(asyncio.to_thread(close))
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait([closing])
        raise
