"""The data set file: what is written is read back, and nothing else is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tleg_core import image_file
from tleg_core.errors import ImageFileError
from tleg_core.image_file import TEST, TRAIN, ImageFile, ImageFileWriter, decode_image

CLASSES = ("cat", "dog", "空")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, count: int = 5) -> list[bytes]:
    """Write a file of `count` rows and return their contents."""
    contents = [bytes([row % 256]) * (row % 7) for row in range(count)]
    with ImageFileWriter(path, CLASSES) as writer:
        for row, content in enumerate(contents):
            writer.add(content, f"image {row}", row % 3, TEST if row % 2 else TRAIN)
    return contents


def test_rows_are_read_back_in_any_order(tmp_path: Path) -> None:
    """Rows come back as they were added, over several batches."""
    contents = write(tmp_path / "set.arrow", 2500)
    opened = ImageFile.open(tmp_path / "set.arrow")
    assert (len(opened), opened.class_names) == (2500, CLASSES)
    assert opened.labels.dtype == np.int64
    assert opened.labels.tolist() == [row % 3 for row in range(2500)]
    assert opened.splits.dtype == np.int8
    assert opened.splits.tolist() == [row % 2 for row in range(2500)]
    for row in (2499, 0, 1023, 1024, 2048, 7):
        assert bytes(opened.encoded(row)) == contents[row]
        assert opened.picture_name(row) == f"image {row}"
    for outside in (-1, 2500):
        with pytest.raises(IndexError):
            opened.encoded(outside)


def test_large_images_do_not_fill_a_batch_past_its_offsets(tmp_path: Path) -> None:
    """Batches end by bytes too: 80 MB in 20 rows are three batches or more."""
    with ImageFileWriter(tmp_path / "set.arrow", CLASSES) as writer:
        for row in range(20):
            writer.add(bytes([row]) * 4_000_000, str(row), 0, TRAIN)
    with pa.ipc.open_file(tmp_path / "set.arrow") as reader:
        assert reader.num_record_batches >= 3
    opened = ImageFile.open(tmp_path / "set.arrow")
    assert all(opened.encoded(row)[-1] == row for row in range(20))


def test_a_file_that_fails_in_the_middle_is_not_there(tmp_path: Path) -> None:
    """An error inside the block leaves the folder empty, and so does an unknown label."""

    def write_unknown_label() -> None:
        with ImageFileWriter(tmp_path / "set.arrow", CLASSES) as writer:
            writer.add(b"x", "x", 0, TRAIN)
            writer.add(b"x", "x", 3, TRAIN)

    with pytest.raises(ValueError, match="label 3"):
        write_unknown_label()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -8, -200])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    """A prefix of a file is refused by name."""
    write(tmp_path / "set.arrow", 300)
    whole = (tmp_path / "set.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[:keep])
    with pytest.raises(ImageFileError, match=r"cut\.arrow"):
        ImageFile.open(tmp_path / "cut.arrow")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """Another Arrow file, another format, an empty set, and no file at all are refused."""
    with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("x", pa.int8())])):
        pass
    (tmp_path / "set.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    write(tmp_path / "empty.arrow", 0)
    for name in ("other.arrow", "set.zip", "empty.arrow", "missing.arrow"):
        with pytest.raises(ImageFileError, match=name):
            ImageFile.open(tmp_path / name)


@pytest.mark.parametrize(("label", "split"), [(9, 0), (-1, 0), (0, 2), (None, 0), (0, None)])
def test_values_that_no_writer_writes_are_refused(tmp_path: Path, label: int | None, split: int | None) -> None:
    """Labels and splits outside their range, and missing ones, are refused on opening."""
    write(tmp_path / "set.arrow")
    schema = ImageFile.open(tmp_path / "set.arrow")._batches[0].schema
    rows = [{"image": {"bytes": b"x", "path": "x"}, "label": label, "split": split}]
    with pa.OSFile(str(tmp_path / "bad.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    with pytest.raises(ImageFileError, match=r"bad\.arrow"):
        ImageFile.open(tmp_path / "bad.arrow")


def test_flipped_bytes_never_crash_the_reader(tmp_path: Path) -> None:
    """Damage anywhere in the index either is refused or leaves rows inside the file."""
    write(tmp_path / "set.arrow", 20)
    whole = (tmp_path / "set.arrow").read_bytes()
    for place in range(0, len(whole), 7):
        (tmp_path / "bad.arrow").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            opened = ImageFile.open(tmp_path / "bad.arrow")
        except ImageFileError:
            continue
        assert all(len(opened.encoded(row)) <= len(whole) for row in range(len(opened)))


def test_images_are_turned_upright() -> None:
    """EXIF orientation 6 turns a wide image into a tall one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


def test_every_mode_becomes_rgb() -> None:
    """Grey, palette with transparency, alpha, CMYK and 16 bits become 8-bit RGB with the colours kept."""
    sixteen = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert decode_image(encode(sixteen)).getpixel((0, 0)) == (128, 128, 128)
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30])
    assert decode_image(encode(palette, transparency=b"\x00\xff")).getpixel((0, 0)) == (10, 20, 30)
    assert decode_image(encode(Image.new("L", (2, 2), 7))).getpixel((0, 0)) == (7, 7, 7)
    assert decode_image(encode(Image.new("RGBA", (2, 2), (1, 2, 3, 0)))).getpixel((0, 0)) == (1, 2, 3)
    assert decode_image(encode(Image.new("CMYK", (2, 2)), "JPEG")).mode == "RGB"
    assert decode_image(encode(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == (255, 255, 255)
    assert image_file.TRAIN != image_file.TEST
