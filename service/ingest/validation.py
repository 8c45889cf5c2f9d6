"""An upload's images, one by one, into a data set file: what the validating process does."""

from __future__ import annotations

import errno
import mmap
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from service.domain.errors import DatasetRefusedError
from service.ingest.candidate import Source
from service.ingest.container import Container
from service.ingest.hub_parquet import HubParquet
from service.ingest.limits import Limits
from service.ingest.picture import Reason, RefusedPictureError, examine, format_of
from service.ingest.spool import Spool
from service.ingest.tar_archive import TarArchive
from service.ingest.zip_archive import ZipArchive

MIN_CLASSES = 2
CURRENT_BYTES = 1024
"""Bytes of the file in which the process notes what it is at, for whoever finds it dead."""

_EXAMPLES = 20
_EXAMPLES_OF_A_REASON = 5
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(_Line):
    """What to validate; the process's first line of input. It goes on until its input ends."""

    container: Container
    source: Path
    target: Path
    spool: Path
    current: Path
    max_images: int
    max_pixels: int
    max_unpacked_bytes: int

    @property
    def limits(self) -> Limits:
        """The limits."""
        return Limits(max_images=self.max_images, max_pixels=self.max_pixels, max_unpacked_bytes=self.max_unpacked_bytes)


class Accepted(_Line):
    """The data set file is written; the fields of `service.domain.dataset.Dataset` that follow from the content."""

    outcome: Literal["accepted"] = "accepted"
    digest: str
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    size_bytes: int
    min_side: int
    max_side: int
    formats: dict[str, int]
    refused: dict[str, int]
    refused_examples: tuple[tuple[str, str], ...]


class Refused(_Line):
    """The upload is no data set."""

    outcome: Literal["refused"] = "refused"
    reason: str
    limit: int | None = None


class DiskFull(_Line):
    """There is no room for it."""

    outcome: Literal["disk_full"] = "disk_full"
    reason: str


Outcome: TypeAlias = Accepted | Refused | DiskFull


def validate(order: Order) -> Outcome:
    """Return what became of an upload; raises OSError where the disk fails in another way than being full."""
    try:
        return _accept(order)
    except DatasetRefusedError as error:
        return Refused(reason=str(error), limit=error.limit)
    except MemoryError:
        return Refused(reason="validating the upload needs more memory than it may have")
    except OSError as error:
        if error.errno in _DISK_FULL:
            return DiskFull(reason=f"there is no room for the data set: {error.strerror}")
        raise


def _accept(order: Order) -> Accepted:
    with closing(_open(order, order.limits)) as source:
        return _accept_from(source, order, order.limits)


def _accept_from(source: Source, order: Order, limits: Limits) -> Accepted:
    refusals = _Refusals()
    groups: set[int] = set()
    with Spool(order.spool) as spool, _CurrentEntry(order.current) as current:
        for candidate in source.candidates():
            current.note(candidate.name)
            try:
                picture = examine(candidate, limits)
            except RefusedPictureError as refusal:
                refusals.count(candidate.name, refusal.reason)
                if format_of(candidate.head) is not None and candidate.group >= 0:
                    groups.add(candidate.group)
                continue
            if len(spool) == limits.max_images:
                raise DatasetRefusedError(f"there are more than {limits.max_images:,} images", limit=limits.max_images)
            spool.add(picture, candidate.name, candidate.group)
        if not len(spool):
            raise DatasetRefusedError(f"there are no images that can be used{refusals.described()}")
        placement = source.placement(groups | spool.groups())
        with_images = spool.train_classes(placement)
        if len(with_images) < MIN_CLASSES:
            found = f"only the class {with_images[0][:80]!r} has" if with_images else "no class has"
            raise DatasetRefusedError(
                f"{found} training images; at least {MIN_CLASSES} classes must: "
                f"there must be a folder of images for each class, or a column of labels{refusals.described()}",
                limit=MIN_CLASSES,
            )
        source.close()
        order.source.unlink(missing_ok=True)  # makes room for what is written next
        written = spool.write(order.target, placement, shown=_EXAMPLES_OF_A_REASON)
    refusals.count_all(written.without_class, written.examples, Reason.NO_CLASS)
    content = asdict(written)
    for name in ("without_class", "examples"):
        del content[name]
    return Accepted(
        class_names=placement.class_names, refused=dict(refusals.counts), refused_examples=tuple(refusals.examples), **content
    )


def _open(order: Order, limits: Limits) -> Source:
    match order.container:
        case Container.ZIP:
            return ZipArchive(order.source, limits)
        case Container.PARQUET:
            return HubParquet(order.source, limits)
        case _:
            return TarArchive(order.source, limits, gzipped=order.container is Container.TAR_GZ)


class _Refusals:
    """Refused images by reason, and a few of them by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[tuple[str, str]] = []

    def count(self, name: str, reason: Reason) -> None:
        """Count one."""
        self.counts[reason.value] += 1
        if self.counts[reason.value] <= _EXAMPLES_OF_A_REASON and len(self.examples) < _EXAMPLES:
            self.examples.append((name, reason.value))

    def count_all(self, count: int, names: tuple[str, ...], reason: Reason) -> None:
        """Count several, of which some are named."""
        if count:
            self.counts[reason.value] += count
            self.examples += [(name, reason.value) for name in names]

    def described(self) -> str:
        """Return what was refused, for the end of a sentence."""
        if not self.counts:
            return ""
        counted = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        return f" (refused: {counted}; such as {self.examples[0][0]!r})"


class _CurrentEntry:
    """The name of what is being decoded, in a file that outlives the process; a context manager."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(CURRENT_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), CURRENT_BYTES)

    def note(self, name: str) -> None:
        """Remember what comes next."""
        encoded = name.encode()[: CURRENT_BYTES - 1] + b"\0"
        self._map[: len(encoded)] = encoded

    def __enter__(self) -> _CurrentEntry:
        return self

    def __exit__(self, *_: Any) -> None:
        self._map.close()
