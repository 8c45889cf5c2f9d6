"""Stored logits: what an ancestry model says of every view of every image, computed once, for machines that cannot run it.

With `Augmentation.views` the draws of an image follow from the view and the image's row alone, so there are only V * N
different pictures, whatever the runs, and the ancestry model needs to look at each of them once. The file is safetensors with
one tensor `logits` (V, N, C) and, in its metadata, everything that decided it, a digest of some of the pictures included;
training on any others is refused.

Shape legend: V views, N images, B images of a batch, H height, W width, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tleg_core.amount import amount
from tleg_core.atomic_file import atomic_file
from tleg_core.canonical import sha256_hex
from tleg_core.dtype import DType
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.tensorfile import encode_header
from tleg_core.training.ancestry import AncestryCard
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import publish_tensors, read_tensors
from tleg_core.training.teacher import AncestryTeacher
from tleg_core.training_config import TrainingConfig

FORMAT_VERSION = 1

_DTYPES = {DType.FLOAT16: torch.float16, DType.FLOAT32: torch.float32}
METADATA_KEY = "tleg.logits"
_TENSOR = "logits"
_NO_PIXELS = ("label_smoothing", "repeats", "views")  # settings of the augmentation that change no picture
_SHORT = 40  # characters of a value in an error
_LOOKED_AT = 8  # images of each view that its digest is of: enough for two draws not to agree by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsCard:
    """What decided the logits of a file.

    Args:
        ancestry: The ancestry model's card.
        weights: The sha256 of its weights, in hex.
        precision: The arithmetic that it computed in.
        data: The digest of the images.
        augmentation: What was drawn; `views` is how many views there are.
        image_size: Height and width of an augmented image, in pixels.
        pictures: Of each view, a digest of some augmented images: equal ones were drawn alike, by an equal program.
    """

    ancestry: AncestryCard
    weights: str
    precision: str
    data: str
    augmentation: Mapping[str, Any]
    image_size: tuple[int, int]
    pictures: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LogitsCard:
        """Read `asdict`'s object; raises KeyError, TypeError or ValueError where it is another."""
        height, width = value["image_size"]
        rest = {"image_size": (height, width), "pictures": tuple(value["pictures"])}
        return cls(**(dict(value) | rest | {"ancestry": AncestryCard.from_json(value["ancestry"])}))

    def differences(self, other: LogitsCard) -> list[str]:
        """Return what is not the same in another card, in words; of the views, those that both have are compared."""
        pairs: dict[str, tuple[object, object]] = {
            "ancestry model": (self.weights, other.weights),
            "precision": (self.precision, other.precision),
            "data": (self.data, other.data),
            "image size": (self.image_size, other.image_size),
        }
        for name in self.augmentation.keys() | other.augmentation.keys():
            if name not in _NO_PIXELS:
                pairs[f"augmentation.{name}"] = (self.augmentation.get(name), other.augmentation.get(name))
        words = [
            f"{name} was {str(ours)[:_SHORT]}, is {str(theirs)[:_SHORT]}"
            for name, (ours, theirs) in sorted(pairs.items())
            if ours != theirs
        ]
        if not words and any(ours != theirs for ours, theirs in zip(self.pictures, other.pictures, strict=False)):
            words.append("the same settings draw other pictures here (with another version of timm or Pillow?)")
        return words


class StoredLogits:
    """A teacher that was asked beforehand.

    Args:
        path: The file, for errors.
        card: What decided it.
        logits: (V, N, C), of any float type.
    """

    def __init__(self, path: Path, card: LogitsCard, logits: Tensor) -> None:
        self._path, self.card, self._logits = path, card, logits

    @classmethod
    def open(cls, path: Path) -> StoredLogits:
        """Open a file that `store_logits` wrote; what is not asked for is not read.

        Raises:
            CheckpointError: There is no such file, or it is broken or of another kind.
        """
        tensors, metadata = read_tensors(path)
        try:
            value = json.loads(metadata[METADATA_KEY])
            version, card, logits = value["format"], LogitsCard.from_json(value["card"]), tensors[_TENSOR]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no logits (make them with `tleg ancestry logits`)") from error
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{path} is of version {version}; this tleg reads version {FORMAT_VERSION}")
        if logits.ndim != 3 or logits.shape[::2] != (card.augmentation["views"], len(card.ancestry.class_names)):
            raise CheckpointError(f"{path} is broken: its logits are {tuple(logits.shape)}")
        return cls(path, card, logits)

    @property
    def num_views(self) -> int:
        """V."""
        return len(self._logits)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The ancestry model's classes."""
        return self.card.ancestry.class_names

    def check(self, batches: Batches, config: TrainingConfig) -> None:
        """Raise `ConfigError` unless the batches are of the stored pictures; it names what differs."""
        views = config.augmentation.views
        if views is None or views > self.num_views:
            raise ConfigError(
                "augmentation.views",
                f"must be from 1 to {self.num_views} to learn from {self._path}, "
                + ("not none: without views an image is drawn anew in each epoch" if views is None else f"not {views}"),
            )
        card, num_images = self.card, self._logits.shape[1]
        if batches.digest != card.data:
            raise ConfigError(
                "ancestry", f"{self._path} holds logits of other data: {card.data[:_SHORT]}, not {batches.digest[:_SHORT]}"
            )
        asked = _card(
            batches, config, ancestry=card.ancestry, weights=card.weights, precision=card.precision, num_images=num_images
        )
        differences = card.differences(asked)
        if differences:
            raise ConfigError("ancestry", f"{self._path} holds logits of other pictures: {'; '.join(differences)}")

    def logits(self, batch: Batch) -> Tensor:
        """Return the stored logits (B, C), float32 on the batch's device."""
        return self._logits[batch.view, batch.rows].to(batch.images.device, non_blocking=True).float()

    def describe(self) -> str:
        """Return the ancestry model's card in one line, and that its logits were stored."""
        kind = str(self._logits.dtype).removeprefix("torch.")
        return f"{self.card.ancestry.describe()}; logits stored as {kind}, {amount(self.num_views, 'view')} of an image"

    def identity(self) -> dict[str, Any]:
        """Return what decided them, and how they are rounded."""
        return asdict(self.card) | {"dtype": str(self._logits.dtype)}


def store_logits(
    teacher: AncestryTeacher,
    batches: Batches,
    config: TrainingConfig,
    out: Path,
    *,
    num_images: int,
    folder: Path,
    dtype: DType = DType.FLOAT16,
    progressed: Callable[[int], None] = lambda _count: None,
) -> StoredLogits:
    """Compute and write the logits of all views of all images; go on from what an interrupted call left in `folder`.

    Args:
        teacher: The ancestry model, of the data's classes.
        batches: Those of the trainings to come.
        config: What they are made by: the augmentation with its views.
        out: The file to write.
        num_images: N.
        folder: Where finished views lie until all are there.
        dtype: float16, which keeps 11 bits of a logit, or float32.
        progressed: Is told after each batch how many images it had, counting each view's.

    Raises:
        ConfigError: The augmentation has no views, or `folder` holds those of something else.
        CheckpointError: Something cannot be written.
    """
    views = config.augmentation.views
    if views is None:
        raise ConfigError("augmentation.views", "must be a number: without views an image is drawn anew in each epoch")
    if dtype not in _DTYPES:
        raise ConfigError("dtype", f"must be one of {', '.join(_DTYPES)}, not {dtype}")
    identity = teacher.identity()
    card = _card(
        batches,
        config,
        ancestry=teacher.card,
        weights=identity["weights"],
        precision=identity["precision"],
        num_images=num_images,
    )
    parts = [folder / f"view-{view}.safetensors" for view in range(views)]
    for view, part in enumerate(parts):
        if part.exists():
            _check_part(part, card, dtype)
            progressed(num_images)
            continue
        logits = _view_logits(teacher, batches, num_images, view, progressed).to(_DTYPES[dtype])  # (N, C)
        if not torch.isfinite(logits).all():
            raise CheckpointError(f"the logits of view {view} are not all finite in {dtype}")
        publish_tensors(part, {_TENSOR: logits}, {METADATA_KEY: _text(card), "dtype": dtype})
    _join(parts, out, card, dtype)
    for part in parts:
        part.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
    return StoredLogits.open(out)


def _view_logits(
    teacher: AncestryTeacher, batches: Batches, count: int, view: int, progressed: Callable[[int], None]
) -> Tensor:
    """Return the logits (N, C) of one view of all images, in batches of the training's size.

    The last batch is filled up with images from the beginning: some kernels round otherwise in a batch of another size.
    """
    size = batches.batch_size
    parts: list[Tensor] = []
    for start in range(0, count, size):
        rows = torch.arange(start, start + size) % count
        parts.append(teacher.logits_of(batches.shown(rows, view))[: count - start].cpu())
        progressed(len(parts[-1]))
    return torch.cat(parts)


def _card(
    batches: Batches, config: TrainingConfig, *, ancestry: AncestryCard, weights: str, precision: str, num_images: int
) -> LogitsCard:
    """Return what decides the logits of these batches."""
    some = torch.arange(min(_LOOKED_AT, num_images))
    shown = [batches.shown(some, view) for view in range(config.augmentation.views or 0)]
    height, width = shown[0].shape[-2:]
    return LogitsCard(
        ancestry=ancestry,
        weights=weights,
        precision=str(precision),
        data=batches.digest,
        augmentation=asdict(config.augmentation),
        image_size=(height, width),
        pictures=tuple(_digest(images) for images in shown),
    )


def _digest(images: Tensor) -> str:
    """Return a digest of images in 0..1, of their eight bits: the same on any device."""
    pixels = (images * 255.0).round().to(torch.uint8).cpu()
    return sha256_hex(pixels.contiguous().numpy().tobytes())[:16]


def _text(card: LogitsCard) -> str:
    return json.dumps({"format": FORMAT_VERSION, "card": asdict(card)})


def _check_part(part: Path, card: LogitsCard, dtype: DType) -> None:
    """Raise `ConfigError` unless the view in `part` is one that would be computed again."""
    _, metadata = read_tensors(part)
    try:
        before = LogitsCard.from_json(json.loads(metadata[METADATA_KEY])["card"])
        differences = before.differences(card)
        if metadata["dtype"] != dtype:
            differences.append(f"dtype was {metadata['dtype']}, is {dtype}")
    except (KeyError, TypeError, ValueError):
        differences = ["it is not tleg's"]
    if differences:
        raise ConfigError("out", f"{part} is of another run ({'; '.join(differences)}): remove it, or write elsewhere")


def _join(parts: list[Path], out: Path, card: LogitsCard, dtype: DType) -> None:
    """Write the views, each read when it is its turn, as one tensor."""
    shape = (len(parts), *read_tensors(parts[0])[0][_TENSOR].shape)
    try:
        with atomic_file(out) as file:
            file.write(encode_header([(_TENSOR, shape)], dtype, {"format": "pt", METADATA_KEY: _text(card)}))
            for part in parts:
                file.write(read_tensors(part)[0][_TENSOR].numpy().data)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error}") from error
