"""Hostile uploads: each is refused with its reason, quickly, in bounded memory; nothing is left of any."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from service.domain.errors import DatasetRefusedError
from service.ingest.archive_path import check_class_names, place_folders
from service.ingest.container import Container
from service.ingest.validation import Accepted, DiskFull, Order, Outcome, Refused, validate
from tests.service.archives import hub_parquet, image, pets, tarred, zipped

Try = Callable[..., Outcome]
MEBIBYTE = 1024**2


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Validate an upload; whatever comes of it, only a data set file may be left, and that only of an accepted one."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as the validating process does

    def run(container: str, content: bytes, **limits: int) -> Outcome:
        (tmp_path / "set.arrow").unlink(missing_ok=True)
        (tmp_path / "upload").write_bytes(content)
        outcome = validate(order(tmp_path, container, **limits))
        left = {path.name for path in tmp_path.iterdir()} - {"upload", "current"}
        assert left == ({"set.arrow"} if isinstance(outcome, Accepted) else set())
        return outcome

    return run


def order(folder: Path, container: str, **limits: int) -> Order:
    """Return the order to validate `upload` in a folder."""
    given = {"max_images": 1000, "max_pixels": 1_000_000, "max_unpacked_bytes": 256 * MEBIBYTE} | limits
    paths = {name: folder / name for name in ("spool", "current")}
    return Order(container=Container(container), source=folder / "upload", target=folder / "set.arrow", **paths, **given)


def refusal(outcome: Outcome) -> str:
    """Return why an upload was refused."""
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def entry(name: str, content: bytes = b"", *, mode: int = 0, flags: int = 0, method: int = 0, size: int | None = None) -> bytes:
    """Return a zip of pets with one more entry, whose directory says what an honest one does not."""
    files = zipped(pets() | {"cat/victim": content}, 0)
    start = files.rindex(b"PK\x01\x02")
    head = bytearray(files[start:])
    struct.pack_into("<H", head, 8, flags)
    struct.pack_into("<H", head, 10, method)
    struct.pack_into("<L", head, 38, mode << 16)
    if size is not None:
        struct.pack_into("<L", head, 24, size)
    return renamed(files[:start] + bytes(head), name)


def renamed(files: bytes, name: str) -> bytes:
    """Give the last entry of a zip's directory another name."""
    start = files.rindex(b"PK\x01\x02")
    end = files.rindex(b"PK\x05\x06")
    length = struct.unpack_from("<H", files, start + 28)[0]
    head = bytearray(files[start : start + 46])
    raw = name.encode("utf-8", "surrogatepass")
    struct.pack_into("<H", head, 28, len(raw))
    directory = bytes(head) + raw + files[start + 46 + length : end]
    tail = bytearray(files[end:])
    struct.pack_into("<L", tail, 12, struct.unpack_from("<L", tail, 12)[0] + len(raw) - length)
    return files[:start] + directory + bytes(tail)


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    """Return a tar of pets with one more entry."""
    buffer = io.BytesIO(tarred(pets()))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        info = tarfile.TarInfo(name)
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info)
    return buffer.getvalue()


BAD_PATHS = {
    "/etc/passwd": "absolute",
    "//server/share": "absolute",
    "C:/windows/x.png": "absolute",
    "../x.png": r"'\.\.'",
    "cat/../../x.png": r"'\.\.'",
    "cat/..": r"'\.\.'",
    "cat\\..\\x.png": "backslash",
    "a/" * 40 + "x.png": "deeper",
    "cat/" + "x" * 2000: "1,024 bytes",
    "ü" * 600: "1,024 bytes",
}


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS.items(), ids=lambda text: repr(text[:20]))
def test_paths_that_lead_elsewhere_are_refused(attempt: Try, path: str, reason: str) -> None:
    """In a zip and in a tar, the refusal names the entry and what is wrong with its path."""
    for container, content in (("zip", entry(path)), ("tar", tar_entry(path))):
        outcome = attempt(container, content)
        assert re.search(reason, refusal(outcome)), (container, outcome)


@pytest.mark.parametrize("folder", ["a\nb", "\x1b[31mred", "x" * 129, "\u202egnp", "   ", "\x7f"])
def test_class_names_that_cannot_be_shown_are_refused(attempt: Try, folder: str) -> None:
    """A class has 1 to 128 printable characters."""
    files = {name.replace("cat", "kit"): content for name, content in pets().items()}
    files |= {"victim.png": image(1)}
    content = renamed(zipped(files, 0), f"{folder}/x.png")
    assert "1 to 128 printable" in refusal(attempt("zip", content))


def test_class_names_that_are_no_text_are_refused(attempt: Try) -> None:
    """Bytes that are no UTF-8, in a tar."""
    assert "1 to 128 printable" in refusal(
        attempt("tar", tarred(pets() | {"k\udcff/x.png": image(1)}, form=tarfile.GNU_FORMAT))
    )


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777])
def test_links_and_devices_in_a_zip_are_refused(attempt: Try, mode: int) -> None:
    """Symbolic links, devices, pipes and sockets are no images."""
    assert "link or a device" in refusal(attempt("zip", entry("cat/link", b"/etc/passwd", mode=mode)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(attempt: Try, kind: bytes) -> None:
    """The same of a tar, hard links too."""
    assert "link or a device" in refusal(attempt("tar", tar_entry("cat/link", kind, linkname="/etc/passwd")))


@pytest.mark.parametrize("kind", [b"S", b"V", b"M", b"Z", b"N"])
def test_unusual_tar_entries_are_refused(attempt: Try, kind: bytes) -> None:
    """Sparse files, volume names and whatever else is no file and no folder."""
    assert "of type" in refusal(attempt("tar", tar_entry("cat/odd", kind)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (entry("cat/x", flags=1), "encrypted"),
        (entry("cat/x", flags=1 << 6), "encrypted"),
        (entry("cat/x", flags=1 << 13), "encrypted"),
        (entry("cat/x", method=12), "method 12"),
        (entry("cat/x", method=14), "method 14"),
        (entry("cat/x", method=99), "method 99"),
        (entry("cat/x", b"abc", size=5), "damaged"),
        (zipped({}), "empty"),
        (zipped(pets())[:-1], "cut short"),
        (zipped(pets())[:200], "cut short"),
        (b"PK\x03\x04", "cut short"),
        (zipped(pets()) + b"trailing", "cut short"),
        (
            zipped({"cat/x.png": image()}),
            "only the class 'cat' has training images; at least 2 classes must: there must be a folder",
        ),
        (zipped({"x.png": image()}), "no class has"),
        (zipped({"cat/a.txt": b"a", "dog/b.txt": b"b"}), "no images"),
        (zipped({"cat/x.zip": zipped(pets()), "dog/x.zip": zipped(pets())}), "no images"),
        (
            zipped({f"test/{name}": content for name, content in pets().items()} | {"train/cat/x.png": image(5)}),
            "only the class 'cat' has",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_zips_are_refused(attempt: Try, content: bytes, reason: str) -> None:
    """Each with its reason."""
    assert reason in refusal(attempt("zip", content))


def test_entries_that_are_there_twice_are_refused(attempt: Try) -> None:
    """Two readers would see two contents."""
    with warnings.catch_warnings(action="ignore"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("cat/x.png", "dog/y.png", "cat/x.png"):
                archive.writestr(name, image())
    assert "'cat/x.png' is there twice" in refusal(attempt("zip", buffer.getvalue()))
    assert "'cat/0.img' is there twice" in refusal(attempt("tar", tar_entry("cat/0.img")))
    assert "'./cat/0.img' is there twice" in refusal(attempt("tar", tar_entry("./cat/0.img")))


def test_bombs_are_refused_before_they_go_off(attempt: Try) -> None:
    """A zip whose entries would grow too much is refused by its directory; one that lies about it, by what it becomes."""
    start = time.monotonic()
    one = zipped(pets() | {"cat/bomb.png": bytes(100 * MEBIBYTE)})
    assert "cannot be packed so small" in refusal(attempt("zip", one))
    many = zipped(pets() | {f"cat/{number}.png": bytes(MEBIBYTE) for number in range(100)})
    assert "cannot be packed so small" in refusal(attempt("zip", many))
    assert "unpacked" in refusal(attempt("zip", zipped(pets()), max_unpacked_bytes=1000))
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflated.compress(image(1) + bytes(50 * MEBIBYTE)) + deflated.flush()
    lying = bytearray(zipped(pets() | {"cat/victim": packed}, 0))
    place = lying.rindex(b"PK\x01\x02")
    struct.pack_into("<H", lying, place + 10, 8)
    struct.pack_into("<L", lying, place + 24, len(image(1)))
    assert "damaged at the entry 'cat/victim'" in refusal(attempt("zip", bytes(lying)))
    assert time.monotonic() - start < 20


def test_overlapping_entries_are_refused(attempt: Try) -> None:
    """Many names for one kernel of data (a "better zip bomb") are no archive."""
    files = bytearray(zipped(pets(), 0))
    first, second = (place for place in finds(bytes(files), b"PK\x01\x02")[:2])
    files[second + 42 : second + 46] = files[first + 42 : first + 46]
    assert "overlap" in refusal(attempt("zip", bytes(files)))


@pytest.mark.parametrize("place", [2**32, 2**63, 2**64 - 1])
def test_an_entry_outside_of_its_zip_is_refused(attempt: Try, place: int) -> None:
    """By a Zip64 field, which has room for numbers that nothing else has."""
    files = zipped(pets(), 0)
    end = files.rindex(b"PK\x05\x06")
    last = files.rindex(b"PK\x01\x02")
    head, field, tail = bytearray(files[last:end]), struct.pack("<2HQ", 1, 8, place), bytearray(files[end:])
    struct.pack_into("<H", head, 30, len(field))
    struct.pack_into("<L", head, 42, 0xFFFFFFFF)
    struct.pack_into("<L", tail, 12, struct.unpack_from("<L", tail, 12)[0] + len(field))
    assert "damaged at the entry 'dog/2.img'" in refusal(attempt("zip", files[:last] + bytes(head) + field + bytes(tail)))


def finds(content: bytes, part: bytes) -> list[int]:
    """Return every place of a part."""
    places, place = [], content.find(part)
    while place >= 0:
        places.append(place)
        place = content.find(part, place + 1)
    return places


def test_gzip_bombs_are_refused(attempt: Try) -> None:
    """A tar.gz of nothing but zeros, inside an entry or behind the end, stops early; so does one that is too large."""
    bomb = gzip.compress(tarred(pets() | {"cat/bomb.png": bytes(200 * MEBIBYTE)}))
    assert "cannot be packed so small" in refusal(attempt("tar.gz", bomb))
    assert "cannot be packed so small" in refusal(attempt("tar.gz", gzip.compress(tarred(pets()) + bytes(200 * MEBIBYTE))))
    assert "unpacked" in refusal(attempt("tar.gz", tarred(pets(), compressed=True), max_unpacked_bytes=2000))
    assert "header of" in refusal(attempt("tar", tar_entry("cat/x", tarfile.XHDTYPE, size=10**9)))


@pytest.mark.parametrize(
    ("container", "content", "reason"),
    [
        ("tar.gz", gzip.compress(b"no tar" * 1000), "damaged"),
        ("tar.gz", b"\x1f\x8b" + bytes(600), "gzip is cut short or damaged"),
        ("tar.gz", tarred(pets(), compressed=True)[:-4], "gzip is cut short"),
        ("tar.gz", tarred(pets(), compressed=True)[:300], "gzip is cut short"),
        ("tar.gz", tarred(pets(), compressed=True)[:-8] + bytes(8), "damaged"),
        ("tar", tarred(pets())[:700], "cut short"),
        ("tar", tarred(pets()).rstrip(b"\0"), "cut short"),
        ("tar", tarred({}), "empty"),
        ("tar", tarred(pets())[:512] + b"\xff" * 512 + tarred(pets())[1024:], ""),
        ("tar", tarred({"cat/x.png": image()}), "only the class 'cat' has"),
        ("tar", tar_entry("cat/x", tarfile.XHDTYPE, size=0)[:-10240] + bytes(1024), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_tars_are_refused(attempt: Try, container: str, content: bytes, reason: str) -> None:
    """Cut anywhere, changed anywhere."""
    outcome = attempt(container, content)
    if reason:
        assert reason in refusal(outcome)


def test_an_archive_of_100_000_entries_is_answered_at_once(attempt: Try) -> None:
    """Above the limit by the directory alone; below it because junk is not unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{number}.txt"), b"x")
    start = time.monotonic()
    outcome = attempt("zip", buffer.getvalue(), max_images=10_000)
    assert "100,000 entries; at most 13,000" in refusal(outcome)
    assert isinstance(outcome, Refused)
    assert outcome.limit == 13_000
    assert time.monotonic() - start < 10
    assert "no images that can be used (refused: 100,000 format" in refusal(attempt("zip", buffer.getvalue(), max_images=10**6))
    assert time.monotonic() - start < 40


def test_a_directory_that_says_to_be_smaller_than_it_is_is_refused(attempt: Try) -> None:
    """The count of entries is not believed."""
    content = bytearray(zipped(pets()))
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", content, end + 8, 2, 2)
    assert "says to have 2 entries" in refusal(attempt("zip", bytes(content)))


def test_too_many_images_are_refused(attempt: Try) -> None:
    """The limit is named."""
    outcome = attempt("tar", tarred(pets()), max_images=5)
    assert "more than 5 images" in refusal(outcome)
    contents = [*pets().values()]
    assert "6 rows; at most 5" in refusal(attempt("parquet", hub_parquet(contents, [0, 1] * 3, ["a", "b"]), max_images=5))


def flood(kind: str) -> bytes:
    """Return an image that says to have 50,000 x 50,000 pixels or as many as its format can, in a few bytes."""
    if kind == "PNG":
        head = struct.pack(">2L5B", 50_000, 50_000, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data)) for name, data in chunks
        )
    if kind == "JPEG":
        content = bytearray(image(1, "JPEG"))
        place = content.index(b"\xff\xc0")
        content[place + 5 : place + 9] = struct.pack(">2H", 65_000, 65_000)
        return bytes(content)
    if kind == "VP8X":
        data = bytes(4) + (16_382).to_bytes(3, "little") * 2
    elif kind == "VP8L":
        data = b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + bytes(20)
    else:
        data = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<2H", 16_382, 16_382) + bytes(20)
    return b"RIFF" + struct.pack("<L", len(data) + 12) + b"WEBP" + kind.ljust(4).encode() + struct.pack("<L", len(data)) + data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "VP8X", "VP8L", "VP8"])
def test_pixel_floods_are_refused_by_their_header(attempt: Try, kind: str) -> None:
    """No pixel of them is decoded, and they are counted by that reason."""
    start = time.monotonic()
    outcome = attempt("zip", zipped(pets() | {"cat/flood.png": flood(kind)}))
    assert isinstance(outcome, Accepted)
    assert outcome.refused == {"too_many_pixels": 1}
    assert time.monotonic() - start < 15


def test_the_limit_of_pixels_is_exact(attempt: Try) -> None:
    """An image of just so many pixels is accepted."""
    files = pets() | {"cat/large.png": image(1, size=(100, 50))}
    assert attempt("zip", zipped(files), max_pixels=5000).model_dump()["refused"] == {}
    assert attempt("zip", zipped(files), max_pixels=4999).model_dump()["refused"] == {"too_many_pixels": 1}


TWO = ["a", "b"]
SIX = [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PAR1", "cut short"),
        (b"PAR1" + bytes(100), "cut short"),
        (b"PAR1" + bytes(100) + b"PAR1", "damaged"),
        (b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", "damaged"),
        (hub_parquet([*pets().values()], SIX, TWO)[:-1], "cut short"),
        (hub_parquet([*pets().values()], SIX, TWO)[:500], "cut short"),
        (hub_parquet([], [], TWO), "empty"),
        (hub_parquet([*pets().values()], [0, 0, 0, 1, 1, 2], TWO), "label 2"),
        (hub_parquet([*pets().values()], [0, 0, 0, 1, 1, -2], TWO), "label -2"),
        (hub_parquet([*pets().values()], SIX, ["a", "a"]), "'a' is there twice"),
        (hub_parquet([*pets().values()], SIX, ["a", "\n"]), "printable"),
        (hub_parquet([*pets().values()], SIX, TWO, columns=("picture", "label")), "no column 'image'"),
        (hub_parquet([*pets().values()], SIX, TWO, columns=("image", "class")), "no column 'label'"),
        (hub_parquet([*pets().values()], [0.5] * 6, TWO, label_type=pa.float64()), "integers or texts"),
        (hub_parquet([*pets().values()], [0] * 6, TWO), "only the class 'a' has"),
        (hub_parquet([None] * 6, SIX, TWO), "no images"),
        (hub_parquet([image(0, "BMP", (600, 600))] * 1000, [0, 1] * 500, TWO), "cannot be packed so small"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parquet_is_refused(attempt: Try, content: bytes, reason: str) -> None:
    """Each with its reason."""
    assert reason in refusal(attempt("parquet", content))


def test_too_many_classes_are_refused() -> None:
    """The limit is named, for folders and for names."""
    names = [f"class {number}" for number in range(65_537)]
    with pytest.raises(DatasetRefusedError, match="65,537 classes; at most 65,536"):
        check_class_names(names)
    with pytest.raises(DatasetRefusedError, match="65,537 classes; at most 65,536"):
        place_folders([(name,) for name in names], range(65_537))
    with pytest.raises(DatasetRefusedError, match="together"):
        check_class_names([f"{number:0128}" for number in range(60_000)])


@pytest.mark.parametrize("container", ["zip", "tar", "tar.gz"])
def test_damage_anywhere_is_an_outcome(attempt: Try, container: str) -> None:
    """Changed or missing bytes end in a refusal or a data set, never in an error of ours."""
    chosen = random.Random(container)
    whole = zipped(pets()) if container == "zip" else tarred(pets(), compressed=container == "tar.gz")
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chosen.randint(1, 4)):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        outcome = attempt(container, bytes(content[: chosen.choice((len(content), chosen.randrange(len(content))))]))
        assert not isinstance(outcome, DiskFull)


def test_damaged_parquet_is_an_outcome_of_the_process(tmp_path: Path) -> None:
    """Changed bytes end in an outcome of the confined process, whatever the reader in C++ makes of them."""
    chosen = random.Random(0)
    whole = hub_parquet([*pets().values()], SIX, TWO)
    for _ in range(2):
        content = bytearray(whole)
        for _ in range(8):
            content[chosen.randrange(len(content) // 2, len(content) - 8)] = chosen.randrange(256)
        (tmp_path / "upload").write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "service.ingest"],
            input=order(tmp_path, "parquet").model_dump_json().encode() + b"\n",
            capture_output=True,
            check=False,
        )
        assert done.returncode < 0 or b"outcome" in done.stdout or done.returncode == 1, done.stderr
