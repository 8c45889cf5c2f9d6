"""Uploads for tests: images, archives of class folders, and parquet in the Hub's convention."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Files = Mapping[str, bytes]

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Real images beside the checkout, where there are any."""


def image(number: int = 0, kind: str = "PNG", size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: object) -> bytes:
    """Return an image's file; another number is another image."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str, numbers: range = range(2)) -> bytes:
    """Return a moving picture."""
    first, *others = (Image.open(io.BytesIO(image(number, size=(16, 16)))) for number in numbers)
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others, duration=100)
    return buffer.getvalue()


def pets(first: int = 0) -> dict[str, bytes]:
    """Return six images in two classes, of three formats; another `first` gives other images, so another data set."""
    return {
        f"{name}/{index}.img": image(first + 10 * label + index, kind)
        for label, name in enumerate(("cat", "dog"))
        for index, kind in enumerate(("PNG", "JPEG", "WEBP"))
    }


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def tarred(files: Files, *, compressed: bool = False, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1) if compressed else buffer.getvalue()


def hub_parquet(
    contents: list[bytes | None],
    labels: list[Any],
    names: list[str] | None = None,
    *,
    label_type: Any = None,
    columns: tuple[str, str] = ("image", "label"),
    **options: Any,
) -> bytes:
    """Return parquet with a row for each content."""
    image_column = pa.array(
        [{"bytes": content, "path": f"{index}.png"} for index, content in enumerate(contents)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    label = {"_type": "ClassLabel", "names": names} if names is not None else {"_type": "Value", "dtype": "int64"}
    features = {columns[0]: {"_type": "Image"}, columns[1]: label}
    schema = pa.schema(
        [(columns[0], image_column.type), (columns[1], label_type or pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table([image_column, pa.array(labels, label_type or pa.int64())], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def real_images(path: Path) -> tuple[list[bytes], list[int], list[str]]:
    """Return contents, labels and class names of a parquet file in the Hub's convention."""
    table = pq.read_table(path)
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    return [row["bytes"] for row in table["image"].to_pylist()], table["label"].to_pylist(), names
