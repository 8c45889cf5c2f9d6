"""Image sources: what a folder, parquet shards and a data set file hold, row by row, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tleg_core.errors import ConfigError
from tleg_core.image_file import TEST, TRAIN, ImageFile, ImageFileWriter
from tleg_core.image_folder import ImageFolder
from tleg_core.image_source import ImagePart, ImageSource, common_size, read_picture
from tleg_core.images import ImageSet, load_image_set, open_images, read_images
from tleg_core.parquet_images import ParquetImages

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SHIPPED_ZIP = Path(__file__).resolve().parents[2] / "tleg_core" / "data" / "openclipart15-grey.zip"


def picture(colour: object, size: tuple[int, int] = (8, 6), form: str = "PNG", mode: str = "RGB", **options: object) -> bytes:
    """Return an encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_shard(path: Path, contents: list[bytes | None], labels: list[int], *, group_rows: int = 100) -> Path:
    """Write a parquet file as the Hub's library does, with two classes."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"bytes": content, "path": None} for content in contents]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": rows, "label": labels}, schema=schema), path, row_group_size=group_rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes: pictures in two depths with other files between them, none, and one of another size."""
    root = tmp_path / "set"
    for path, content in {
        "b/2.JPG": picture((0, 0, 255), form="JPEG"),
        "b/10.png": picture((1, 1, 1)),
        "b/deeper/1.webp": picture((2, 2, 2), form="WEBP"),
        "b/deeper.png": picture((3, 3, 3)),
        "b/notes.txt": b"not a picture",
        "b/._2.JPG": b"what macOS leaves",
        "b/.cache/1.png": b"hidden",
        "c/2.JPG": picture(7, (9, 4), "JPEG", "L"),
        ".git/1.png": b"hidden",
        "README.md": b"words",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "a").mkdir()
    return root


def test_a_folder_is_indexed_in_one_order_whatever_the_disk_says(folder: Path) -> None:
    """By the parts of the paths; without hidden and other files; an empty class is a class, and a name may occur twice."""
    source = ImageFolder(folder)
    names = [Path(source.picture_name(row)).relative_to(folder).as_posix() for row in range(len(source))]
    assert names == ["b/10.png", "b/2.JPG", "b/deeper/1.webp", "b/deeper.png", "c/2.JPG"]
    assert sorted(names, key=lambda name: Path(name).parts) == names
    assert (source.class_names, source.labels.tolist(), source.name) == (("a", "b", "c"), [1, 1, 1, 1, 2], "set")
    assert source.encoded(4) == (folder / "c" / "2.JPG").read_bytes()
    with pytest.raises(IndexError):
        source.encoded(5)


def test_the_digest_of_a_folder_is_that_of_its_index(folder: Path, tmp_path: Path) -> None:
    """Another name, size or class is another set; where the folder lies is not looked at."""
    digest = ImageFolder(folder).digest()
    moved = folder.rename(tmp_path / "moved")
    assert ImageFolder(moved).digest() == digest
    (moved / "b" / "10.png").rename(moved / "b" / "11.png")
    renamed = ImageFolder(moved).digest()
    (moved / "b" / "11.png").rename(moved / "a" / "10.png")
    other_class = ImageFolder(moved).digest()
    (moved / "a" / "10.png").write_bytes(b"x")
    assert len({digest, renamed, other_class, ImageFolder(moved).digest()}) == 4


def test_links_are_followed_and_those_that_cannot_be_are_named(folder: Path, tmp_path: Path) -> None:
    """Out of the folder too: whole classes and single pictures; a dead link and a circle are errors."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1.png").write_bytes(picture((9, 9, 9)))
    (folder / "d").symlink_to(elsewhere)
    (folder / "a" / "linked.png").symlink_to(elsewhere / "1.png")
    source = ImageFolder(folder)
    assert source.labels.tolist() == [0, 1, 1, 1, 1, 2, 3]
    assert read_picture(source, 0).getpixel((0, 0)) == read_picture(source, 6).getpixel((0, 0)) == (9, 9, 9)
    (elsewhere / "1.png").unlink()
    with pytest.raises(ConfigError, match=r"linked.png cannot be read: No such file"):
        ImageFolder(folder)
    (folder / "a" / "linked.png").unlink()
    (folder / "a" / "round").symlink_to(folder)
    with pytest.raises(ConfigError, match=r"round/a is a link to a folder that it lies in"):
        ImageFolder(folder)


def test_pictures_of_every_kind_become_upright_rgb(tmp_path: Path) -> None:
    """Grey, CMYK, a palette with a transparent colour, 16 bits, an alpha channel, and a photo that the camera turned."""
    folder = tmp_path / "odd" / "one"
    folder.mkdir(parents=True)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(folder / "palette.png", transparency=b"\xff\x00")
    (folder / "grey.jpg").write_bytes(picture(7, form="JPEG", mode="L"))
    (folder / "cmyk.jpg").write_bytes(picture((0, 0, 0, 255), form="JPEG", mode="CMYK"))
    (folder / "alpha.png").write_bytes(picture((1, 2, 3, 0), mode="RGBA"))
    Image.fromarray(np.full((2, 2), 32896, dtype=np.uint16)).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpg").write_bytes(picture((0, 0, 0), (8, 4), "JPEG", exif=exif))
    source = ImageFolder(tmp_path / "odd")
    found = {Path(source.picture_name(row)).stem: read_picture(source, row) for row in range(len(source))}
    assert {image.mode for image in found.values()} == {"RGB"}
    assert found["palette"].getpixel((0, 0)) == (10, 20, 30)
    assert found["grey"].getpixel((0, 0)) == (7, 7, 7)
    assert max(found["cmyk"].getpixel((0, 0))) < 3  # type: ignore[arg-type]
    assert found["alpha"].getpixel((0, 0)) == (1, 2, 3)
    assert found["sixteen"].getpixel((0, 0)) == (128, 128, 128)
    assert found["turned"].size == (4, 8)
    assert source.class_names == ("one",)


def test_a_damaged_or_vanished_picture_is_named(folder: Path) -> None:
    """Whether it is cut short, no picture, or gone since the folder was indexed."""
    source = ImageFolder(folder)
    whole = (folder / "b" / "2.JPG").read_bytes()
    (folder / "b" / "2.JPG").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "10.png").write_bytes(b"words")
    (folder / "c" / "2.JPG").unlink()
    for row, name in ((1, "b/2.JPG is no readable"), (0, "b/10.png is no readable"), (4, "c/2.JPG cannot be read")):
        with pytest.raises(ConfigError, match=name):
            read_picture(source, row)


def test_shards_are_one_set_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Each split its own; in the folder or its `data`; read group by group, in any order, and the same in another process."""
    contents = [picture((value, 0, 0)) for value in range(50)]
    for index, rows in enumerate((slice(0, 20), slice(20, 40))):
        labels = [row % 2 for row in range(50)][rows]
        write_shard(tmp_path / "hub" / "data" / f"train-{index:05}-of-00002.parquet", contents[rows], labels, group_rows=7)
    write_shard(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", contents[40:], [0] * 10)
    train, test = open_images(tmp_path / "hub"), open_images(tmp_path / "hub", split="test")
    assert (len(train), len(test), train.name, test.name) == (40, 10, "hub-train", "hub-test")
    assert train.labels.tolist() == [row % 2 for row in range(40)]
    again: ImageSource = pickle.loads(pickle.dumps(train))  # noqa: S301 (just pickled)
    for row in (39, 0, 20, 19, 7, 6):
        assert bytes(train.encoded(row)) == bytes(again.encoded(row)) == contents[row]
    assert train.picture_name(23).endswith("data/train-00001-of-00002.parquet, row 3")
    assert train.run_starts is None
    assert load_image_set(tmp_path / "hub").images.shape == (40, 6, 8, 3)


def test_row_groups_are_kept_up_to_a_bound(tmp_path: Path) -> None:
    """A set that is larger says where its groups begin; every row can still be read."""
    contents = [np.random.default_rng(row).bytes(1000) for row in range(30)]
    path = write_shard(tmp_path / "x.parquet", contents, [0] * 30, group_rows=10)
    source = ParquetImages([path], "x", kept_bytes=25_000)
    assert source.run_starts is not None
    assert source.run_starts.tolist() == [0, 10, 20]
    for row in np.random.default_rng(0).permutation(30):
        assert bytes(source.encoded(int(row))) == contents[row]
        assert len(source._kept) <= 2
    part = ImagePart(source, np.array([3, 5, 12, 29]), "part")
    assert part.run_starts is not None
    assert part.run_starts.tolist() == [0, 2, 3]
    assert bytes(part.encoded(2)) == contents[12]


def test_the_digest_of_parquet_is_that_of_labels_and_footers(tmp_path: Path) -> None:
    """The same file elsewhere is the same set; other labels or other pictures are another."""
    contents = [picture((value, 0, 0)) for value in range(4)]
    digests = [
        ParquetImages([write_shard(tmp_path / str(number) / "x.parquet", rows, labels)], "x").digest()
        for number, (rows, labels) in enumerate(
            ((contents, [0, 1, 0, 1]), (contents, [0, 1, 0, 1]), (contents, [0, 1, 1, 1]), (contents[::-1], [0, 1, 0, 1]))
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """Other classes, and a column that holds no pictures."""
    first = write_shard(tmp_path / "train-0.parquet", [picture(0)], [0])
    table = pq.read_table(first)
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "z"], "_type": "ClassLabel"}}
    other = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(other, tmp_path / "train-1.parquet")
    with pytest.raises(ConfigError, match=r"train-1.parquet has other classes than .*train-0.parquet"):
        open_images(tmp_path)
    texts = pa.table({"image": ["x"], "label": [0]}).replace_schema_metadata(table.schema.metadata)
    pq.write_table(texts, tmp_path / "texts.parquet")
    with pytest.raises(ConfigError, match=r"texts.parquet cannot be read: its images are string"):
        open_images(tmp_path / "texts.parquet").encoded(0)


def test_a_part_of_a_data_set_file_is_read_by_its_split(tmp_path: Path) -> None:
    """And a file without that part is refused; a pickled one opens its file again."""
    path = tmp_path / "set.arrow"
    with ImageFileWriter(path, ("a", "b")) as writer:
        for value, split in ((1, TRAIN), (2, TEST), (3, TRAIN)):
            writer.add(picture((value, 0, 0)), f"{value}.png", value % 2, split)
    train = open_images(path)
    assert [read_picture(train, row).getpixel((0, 0)) for row in range(len(train))] == [(1, 0, 0), (3, 0, 0)]
    again = pickle.loads(pickle.dumps(train))  # noqa: S301 (just pickled)
    assert bytes(again.encoded(1)) == bytes(train.encoded(1))
    assert (train.digest(), train.name) == (again.digest(), "set-train")
    assert open_images(path, split="test").digest() != train.digest()
    with ImageFileWriter(tmp_path / "train-only.arrow", ("a",)) as writer:
        writer.add(picture(1), "x", 0, TRAIN)
    with pytest.raises(ConfigError, match="no images to test"):
        open_images(tmp_path / "train-only.arrow", split="test")
    assert ImageFile.open(path).digest() != ImageFile.open(tmp_path / "train-only.arrow").digest()


def test_a_set_that_fits_is_read_whole_and_a_larger_one_when_asked_for(folder: Path, tmp_path: Path) -> None:
    """By the size of its pixels; pictures that differ in size are never read whole."""
    assert isinstance(read_images(folder, side=8), ImageFolder)
    assert common_size(open_images(folder)) is None
    write_shard(tmp_path / "x.parquet", [picture((value, 0, 0)) for value in range(4)], [0, 1, 0, 1])
    whole = read_images(tmp_path / "x.parquet", side=4)
    assert isinstance(whole, ImageSet)
    assert whole.digest() == load_image_set(tmp_path / "x.parquet").digest()
    assert isinstance(read_images(tmp_path / "x.parquet", side=4, kept_bytes=4 * 8 * 6 * 3 - 1), ParquetImages)
    assert isinstance(read_images(tmp_path / "x.parquet", side=40, kept_bytes=10_000), ParquetImages)


def test_a_set_in_memory_is_a_source_without_loss() -> None:
    """Its rows are pictures that decode to their pixels."""
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    source = ImageSet(name="noise", images=images, labels=np.zeros(3, dtype=np.int64), class_names=("a",))
    for row in range(3):
        np.testing.assert_array_equal(np.asarray(read_picture(source, row)), images[row])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A folder is a part only if it holds class folders; a part that is not there is an error."""
    for name in ("boat", "train"):
        (tmp_path / "vehicles" / name).mkdir(parents=True)
        (tmp_path / "vehicles" / name / "1.png").write_bytes(picture((1, 2, 3)))
    assert open_images(tmp_path / "vehicles").class_names == ("boat", "train")
    (tmp_path / "vehicles").rename(tmp_path / "train")
    assert open_images(tmp_path).class_names == ("boat", "train")
    with pytest.raises(ConfigError, match="no part to test"):
        open_images(tmp_path, split="test")
    (tmp_path / "train").rename(tmp_path / "val")
    assert open_images(tmp_path, split="test").name.endswith("-test")


def test_the_shipped_drawings_are_read_from_their_folders(tmp_path: Path) -> None:
    """Real pictures: the grey openclipart drawings, unpacked."""
    with zipfile.ZipFile(SHIPPED_ZIP) as archive:
        archive.extractall(tmp_path)
    train, test = open_images(tmp_path), open_images(tmp_path, split="test")
    with zipfile.ZipFile(SHIPPED_ZIP) as archive:
        pictures = [name for name in archive.namelist() if name.startswith("train/") and name.endswith(".webp")]
    assert len(train) == len(pictures)
    assert train.class_names == test.class_names
    assert read_picture(train, len(train) - 1).mode == "RGB"


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Give the path of a shared file, or skip the test where this machine does not have it."""

    def path_of(name: str) -> Path:
        if not (SHARED_DATA / name).is_file():
            pytest.skip(f"shared/data/{name} is not on this machine")
        return SHARED_DATA / name

    return path_of


def test_cifar_is_read_row_by_row_as_it_is_read_whole(shared_data: Callable[[str], Path]) -> None:
    """Real photos in several row groups."""
    path = shared_data("cifar10-test.parquet")
    source, whole = open_images(path), load_image_set(path)
    assert (len(source), source.class_names, source.labels.tolist()) == (10_000, whole.class_names, whole.labels.tolist())
    for row in (0, 9_999, 4_321):
        np.testing.assert_array_equal(np.asarray(read_picture(source, row)), whole.images[row])
