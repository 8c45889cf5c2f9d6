"""Image sets: what is read, and what is refused."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tleg_core.errors import ConfigError
from tleg_core.images import ImageSet, load_image_set, save_parquet

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
SHIPPED = Path(__file__).resolve().parents[2] / "tleg_core" / "data" / "fashion-mnist-test-1000.parquet"


def write_idx(path: Path, magic: int, array: np.ndarray) -> None:
    """Write an IDX file as MNIST's authors define it."""
    path.write_bytes(gzip.compress(struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()))


def write_parquet(path: Path, rows: list[dict[str, object]], labels: list[int], names: list[str]) -> Path:
    """Write a parquet file in the Hub's convention without our writer."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(pa.table({"image": rows, "label": labels}, schema=schema), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 8 x 6 pictures in three formats, once for training and once for testing."""
    for split, count in (("train", 3), ("test", 1)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            where = tmp_path / "set" / split / name
            where.mkdir(parents=True)
            for index, suffix in zip(range(count), ("png", "jpg", "webp"), strict=False):
                Image.new("RGB", (8, 6), colour).save(where / f"{index}.{suffix}")
            (where / "notes.txt").write_text("not a picture")
    return tmp_path / "set"


def test_parquet_written_by_us_reads_back_the_same(bars: ImageSet, tmp_path: Path) -> None:
    """Pixels, labels and names survive, since PNG is lossless."""
    save_parquet(bars, tmp_path / "bars.parquet")
    read = load_image_set(tmp_path / "bars.parquet")
    assert read.digest() == bars.digest()
    assert (read.name, read.class_names) == ("bars", bars.class_names)


def test_shared_openclipart_has_its_documented_counts(shared_data: Callable[[str], Path]) -> None:
    """A real Hub file of colour pictures is read whole."""
    read = load_image_set(shared_data("openclipart15-test.parquet"))
    assert read.images.shape == (617, 64, 64, 3)
    assert read.num_classes == 15


def test_the_shipped_images_are_the_first_thousand_of_fashion_mnist() -> None:
    """The demo's images are what their README says; checked against Debian's files where they are installed."""
    shipped = load_image_set(SHIPPED)
    assert shipped.images.shape == (1000, 28, 28, 3)
    assert shipped.class_names[9] == "Ankle boot"
    if DEBIAN_FASHION_MNIST.is_dir():
        assert shipped.digest() == load_image_set(DEBIAN_FASHION_MNIST, split="test").head(1000).digest()


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debian_fashion_mnist_is_read_with_its_class_names() -> None:
    """The training part has 60,000 grey images, made RGB, 6,000 a class."""
    read = load_image_set(DEBIAN_FASHION_MNIST, split="train")
    assert read.images.shape == (60_000, 28, 28, 3)
    assert np.bincount(read.labels).tolist() == [6000] * 10
    assert (read.images[..., 0] == read.images[..., 2]).all()
    assert read.class_names[0] == "T-shirt/top"


def test_idx_parts_are_chosen_by_split_and_can_be_resized(tmp_path: Path) -> None:
    """An unknown IDX folder gets its digits as class names."""
    for stem, count in (("train", 4), ("t10k", 2)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", 0x0803, np.full((count, 5, 5), 7, dtype=np.uint8))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", 0x0801, np.arange(count, dtype=np.uint8))
    assert len(load_image_set(tmp_path)) == 4
    test = load_image_set(tmp_path, split="test", size=10)
    assert test.images.shape == (2, 10, 10, 3)
    assert (test.images == 7).all()
    assert test.class_names == ("0", "1")


def test_broken_idx_files_are_named(tmp_path: Path) -> None:
    """A cut file, a foreign magic number and unequal counts are errors of `data`."""
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(labels, 0x0801, np.zeros(3, dtype=np.uint8))
    write_idx(images, 0x0803, np.zeros((2, 4, 4), dtype=np.uint8))
    with pytest.raises(ConfigError, match="2 images but 3 labels"):
        load_image_set(tmp_path)
    write_idx(images, 0x0D03, np.zeros((3, 4, 4), dtype=np.uint8))
    with pytest.raises(ConfigError, match="no IDX file"):
        load_image_set(tmp_path)
    images.write_bytes(images.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_image_set(tmp_path)


def test_class_folders_are_read_by_split(folder: Path) -> None:
    """PNG, JPEG and WebP are pictures, other files are not, and classes are in alphabetical order."""
    train = load_image_set(folder)
    assert train.images.shape == (6, 6, 8, 3)
    assert train.class_names == ("blue", "red")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(load_image_set(folder, split="test", size=4)) == 2
    assert load_image_set(folder / "test").labels.tolist() == [0, 1]


def test_pictures_of_different_sizes_need_a_size(folder: Path) -> None:
    """The error names `size` and the first picture that differs."""
    Image.new("RGB", (9, 9)).save(folder / "train" / "red" / "odd.png")
    with pytest.raises(ConfigError, match=r"size: is needed: .*odd.png is 9 x 9"):
        load_image_set(folder)
    assert load_image_set(folder, size=12).images.shape == (7, 12, 12, 3)


def test_a_broken_picture_is_named(folder: Path) -> None:
    """A file that is no picture inside is an error, not a missing image."""
    (folder / "train" / "red" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(ConfigError, match=r"red/0.png is no readable picture"):
        load_image_set(folder)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    """A missing path, an empty folder and a file of another kind are told apart."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_image_set(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds neither"):
        load_image_set(tmp_path)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ConfigError, match="Hub's convention"):
        load_image_set(tmp_path / "text.parquet")


def test_parquet_that_cannot_be_trained_on_is_refused(tmp_path: Path, bars: ImageSet) -> None:
    """Unlabelled rows (-1), references without bytes and missing class names are errors."""
    save_parquet(bars.head(2), tmp_path / "good.parquet")
    rows = pq.read_table(tmp_path / "good.parquet")["image"].to_pylist()
    with pytest.raises(ConfigError, match="labels: run from -1"):
        load_image_set(write_parquet(tmp_path / "a.parquet", rows, [0, -1], ["x"]))
    with pytest.raises(ConfigError, match="has no bytes"):
        load_image_set(write_parquet(tmp_path / "b.parquet", [{"bytes": None, "path": "p.png"}], [0], ["x"]))
    pq.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="class names"):
        load_image_set(tmp_path / "c.parquet")


def test_a_set_whose_parts_contradict_each_other_is_refused() -> None:
    """Shapes and types are checked on construction."""
    images, labels = np.zeros((2, 4, 4, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    with pytest.raises(ConfigError, match="images"):
        ImageSet(name="x", images=images[..., :1], labels=labels, class_names=("a",))
    with pytest.raises(ConfigError, match="labels"):
        ImageSet(name="x", images=images, labels=labels[:1], class_names=("a",))
    with pytest.raises(ConfigError, match="holds no images"):
        ImageSet(name="x", images=images[:0], labels=labels[:0], class_names=("a",))
