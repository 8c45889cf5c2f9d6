"""The object store: everything large (data sets, states of training, fine-tuned weights, exports), through obstore.

A local folder by default; S3, GCS or Azure by URL. Keys are made of our own ids and digests only. A local object is flushed to
the disk before its writing returns, so what Redis says of it is true after a crash of the machine.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from service.domain.errors import ObjectDamagedError, ObjectStoreError
from tleg_core.atomic_file import atomic_file

CHUNK_BYTES = 1024 * 1024
_ANSWER_TIMEOUT_S = 10  # for a chunk, when a client of the API waits; obstore's own retries go on for minutes


def dataset_key(digest: str, upload: str) -> str:
    """Return the key of a data set's Arrow file: its content's sha256 and the id of the upload, so that no two share one."""
    return f"datasets/{digest}-{upload}.arrow"


def weights_key(sha256: str) -> str:
    """Return the key of a fine-tuned model's file, named by its content."""
    return f"weights/{sha256}.safetensors"


def learngene_key(sha256: str, publication: str) -> str:
    """Return the key of a published learngene's file: its sha256 and the publication's id, so that no two share one."""
    return f"learngenes/{sha256}-{publication}.safetensors"


def learngene_sha256(key: str) -> str:
    """Return the sha256 that stands in the key of a learngene's file."""
    return key.removeprefix("learngenes/").partition("-")[0]


def state_key(job_id: str, attempt: int, step: int, sha256: str) -> str:
    """Return the key of a state of training; no two attempts share one, so a fenced one harms nothing."""
    return f"jobs/{job_id}/{attempt}-{step}-{sha256}.safetensors"


def trained_learngene_key(job_id: str, sha256: str) -> str:
    """Return the key of the learngene that a job trained, as long as it is not published; it goes with the job's states."""
    return f"{state_folder(job_id)}learngene-{sha256}.safetensors"


EXPORTS_FOLDER = "exports/"


def export_key(model_id: str, sha256: str, suffix: str) -> str:
    """Return the key of a model's export: its sha256 too, for another attempt may make other bytes."""
    return f"{EXPORTS_FOLDER}{model_id}-{sha256}{suffix}"


def state_sha256(key: str) -> str:
    """Return the sha256 that stands in the key of a state."""
    return key.removesuffix(".safetensors").rpartition("-")[2]


def state_folder(job_id: str) -> str:
    """Return what the keys of all states of a job's training begin with."""
    return f"jobs/{job_id}/"


class ObjectStore:
    """Objects by key. Every method raises `ObjectStoreError` where the store does not answer or cannot be written."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            parts = urlsplit(url)
            self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
            self._store = LocalStore(self._folder, mkdir=True) if self._folder is not None else from_url(url)
        except (OSError, ValueError, BaseError) as error:
            raise ObjectStoreError(f"the object store {url!r} (TLEG_STORE_URL) cannot be opened: {_reason(error)}") from None

    def local_path(self, key: str) -> Path | None:
        """Return the file of an object where the store is a local folder, None elsewhere."""
        return None if self._folder is None else self._folder / key

    def put_file(self, key: str, source: Path) -> None:
        """Store a file's content under `key`, whole or not at all."""
        with _failures():
            if self._folder is None:
                try:
                    obstore.put(self._store, key, source)
                except FileNotFoundError as error:  # what is missing is not the object
                    raise ObjectStoreError(f"the object store failed: there is no {self.url}") from error
                return
            path = self._folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as target, source.open("rb") as content:
                while chunk := content.read(CHUNK_BYTES):
                    target.write(chunk)

    def move_file(self, key: str, source: Path) -> None:
        """Store a file's content under `key`, whole or not at all; the file may be gone afterwards."""
        if self._folder is None:
            self.put_file(key, source)
            return
        path = self._folder / key
        with _failures():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.utime(source)  # an object's age counts from now
            with source.open("rb") as content:
                os.fsync(content.fileno())
            try:
                source.rename(path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.put_file(key, source)
                return
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name, too, survives a crash
            finally:
                os.close(folder)

    def fetch_file(self, key: str, target: Path, *, sha256: str | None = None) -> None:
        """Write an object's content to `target`, whole or not at all.

        Raises:
            FileNotFoundError: There is none.
            ObjectDamagedError: Its sha256 is another than the one given.
        """
        digest = None if sha256 is None else hashlib.sha256()
        with _failures(), atomic_file(target) as file:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES):
                if digest is not None:
                    digest.update(chunk)
                file.write(chunk)
            if digest is not None and digest.hexdigest() != sha256:
                raise ObjectDamagedError(key)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with _failures():
                obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def read_range(self, key: str, start: int, stop: int) -> memoryview:
        """Return the bytes `start`..`stop` of an object; raises FileNotFoundError where there is none."""
        with _failures():
            return memoryview(obstore.get_range(self._store, key, start=start, end=stop))

    async def read_range_async(self, key: str, start: int, stop: int) -> memoryview:
        """Return the bytes `start`..`stop` of an object, soon or not; raises FileNotFoundError where there is none."""
        with _failures():
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return memoryview(await obstore.get_range_async(self._store, key, start=start, end=stop))

    async def size_async(self, key: str) -> int:
        """Return the length of an object in bytes, soon or not; raises FileNotFoundError where there is none."""
        with _failures():
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return (await obstore.head_async(self._store, key))["size"]

    async def chunks(self, key: str, start: int, stop: int) -> AsyncGenerator[memoryview]:
        """Yield the bytes `start`..`stop` of an object in chunks of `CHUNK_BYTES`; the next one is read while one is used.

        Raises:
            FileNotFoundError: There is no such object.
            ObjectStoreError: It ends before `stop`, too.
        """

        async def read(begin: int) -> memoryview:
            end = min(begin + CHUNK_BYTES, stop)
            chunk = await self.read_range_async(key, begin, end)
            if len(chunk) != end - begin:
                raise ObjectStoreError(f"the object store failed: {key} ends at byte {begin + len(chunk)}, before {stop}")
            return chunk

        def seen(task: asyncio.Task[memoryview]) -> None:
            task.cancelled() or task.exception()  # one that nobody waits for any more fails silently

        coming: asyncio.Task[memoryview] | None = None
        try:
            for begin in range(start, stop, CHUNK_BYTES):
                chunk = await (coming or read(begin))
                following = begin + CHUNK_BYTES
                coming = asyncio.create_task(read(following)) if following < stop else None
                if coming is not None:
                    coming.add_done_callback(seen)
                yield chunk
        finally:
            if coming is not None:
                coming.cancel()

    async def read_async(self, key: str, size_bytes: int) -> memoryview:
        """Return an object of that length, whole, in memory of that length.

        Raises:
            FileNotFoundError: There is no such object.
            ObjectDamagedError: It has another length.
        """
        if await self.size_async(key) != size_bytes:
            raise ObjectDamagedError(key)
        content = bytearray(size_bytes)
        position = 0
        async with aclosing(self.chunks(key, 0, size_bytes)) as chunks:
            async for chunk in chunks:
                content[position : position + len(chunk)] = chunk
                position += len(chunk)
        return memoryview(content).toreadonly()

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        try:
            with _failures():
                obstore.delete(self._store, key)
        except FileNotFoundError:
            pass

    def delete_folder(self, prefix: str) -> None:
        """Delete every object whose key begins with `prefix`, which ends in a slash."""
        with _failures():
            if self._folder is not None:
                with suppress(FileNotFoundError):
                    shutil.rmtree(self._folder / prefix)
                return
            for found in obstore.list(self._store, prefix):
                obstore.delete(self._store, [item["path"] for item in found])

    def delete_oldest(self, prefix: str, max_bytes: int, *, keep: str, min_age_s: float) -> list[str]:
        """Delete the oldest objects whose key begins with `prefix` until the others have at most `max_bytes`.

        Args:
            prefix: What the keys begin with; it ends in a slash.
            max_bytes: What may stay.
            keep: The key of an object that stays in any case, and counts.
            min_age_s: An object stays, and counts, if it is younger, beside the youngest of all: by the store's own clock.

        Returns:
            The keys of those that were deleted.
        """
        with _failures():
            found = sorted(
                (item for page in obstore.list(self._store, prefix) for item in page), key=lambda item: item["last_modified"]
            )
        excess = sum(item["size"] for item in found) - max_bytes
        deleted = []
        for item in found:
            age_s = (found[-1]["last_modified"] - item["last_modified"]).total_seconds()
            if excess <= 0 or age_s < min_age_s:
                break
            if item["path"] != keep:
                self.delete(item["path"])
                deleted.append(item["path"])
                excess -= item["size"]
        return deleted

    async def delete_async(self, key: str) -> None:
        """Delete an object, if it is there."""
        await asyncio.to_thread(self.delete, key)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn the store's errors into ours; a missing object stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except TimeoutError as error:
        raise ObjectStoreError("the object store does not answer in time") from error
    except (OSError, BaseError) as error:
        raise ObjectStoreError(f"the object store failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    known = isinstance(error, OSError) and error.errno
    return os.strerror(known) if known else str(error).split("\n\n", maxsplit=1)[0][:500]  # obstore's debug dump is left out
