"""Data sets: any container, one content; every image looked at; listed, read and deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis
from starlette.testclient import TestClient

from service.api.problems import ERROR_TABLE
from service.domain.errors import (
    DatasetRefusedError,
    ObjectStoreError,
    StorageFullError,
    StoreUnavailableError,
    UploadsBusyError,
    UploadStalledError,
    UploadTooLargeError,
    UploadTypeError,
)
from service.ingest.picture import Reason
from service.storage import keys
from tests.service.archives import SHARED, animated, hub_parquet, image, pets, real_images, tarred, zipped
from tests.service.conftest import ApiFactory
from tests.service.test_bad_requests import assert_problem
from tleg_core.image_file import TEST, TRAIN, ImageFile

Upload = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the server under test."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def url(redis_url: str) -> str:
    """The address of a database that holds nothing at first."""
    with redis.Redis.from_url(f"{redis_url}?db=6") as client:
        client.flushdb()
    return f"{redis_url}?db=6"


@pytest.fixture(scope="module")
def api(open_api: ApiFactory, url: str, folder: Path) -> Iterator[TestClient]:
    """The application on a database and a folder of its own."""
    with open_api(url, data_dir=folder) as client:
        yield client


@pytest.fixture
def upload(api: TestClient) -> Upload:
    """A way to upload something that must be accepted."""

    def send(content: bytes, *statuses: int, **options: Any) -> dict[str, Any]:
        answer = api.post("/datasets", content=content, **options)
        assert answer.status_code in (statuses or (200, 201)), answer.text
        resource: dict[str, Any] = answer.json()
        return resource

    return send


def stored(folder: Path, resource: dict[str, Any]) -> ImageFile:
    """Return the file of a data set."""
    digits = resource["id"].removeprefix("ds-")
    (path,) = (folder / "objects" / "datasets").glob(f"{digits}*")
    return ImageFile.open(path)


def counts(resource: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return training and test images by class."""
    return {item["name"]: (item["train"], item["test"]) for item in resource["classes"]}


def test_an_upload_is_described_and_found(api: TestClient, folder: Path) -> None:
    """The answer counts classes, sides and formats; Location leads to the same; the file holds the very bytes."""
    answer = api.post("/datasets", params={"name": "Haustiere 🐈"}, content=zipped(pets()))
    assert answer.status_code == 201
    resource = answer.json()
    assert resource["name"] == "Haustiere 🐈"
    assert (resource["object"], resource["images"], resource["num_classes"]) == ("dataset", 6, 2)
    assert resource["formats"] == {"PNG": 2, "JPEG": 2, "WEBP": 2}
    assert (resource["min_side"], resource["max_side"]) == (8, 8)
    assert resource["size_bytes"] == sum(map(len, pets().values()))
    assert (resource["refused"], resource["refused_examples"]) == ({}, [])
    assert counts(resource) == {"cat": (3, 0), "dog": (3, 0)}
    assert answer.headers["Location"] == resource["links"]["self"] == f"/datasets/{resource['id']}"
    assert api.get(answer.headers["Location"]).json() == resource
    file = stored(folder, resource)
    assert {bytes(file.encoded(row)) for row in range(6)} == set(pets().values())
    assert file.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert file.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(zipped, id="zip"),
        pytest.param(lambda files: zipped(files, 0), id="zip, stored"),
        pytest.param(lambda files: zipped(dict(reversed(files.items()))), id="another order"),
        pytest.param(lambda files: zipped({f"my pets/{name}": content for name, content in files.items()}), id="in a folder"),
        pytest.param(lambda files: zipped({f"./a/b/{name}": content for name, content in files.items()}), id="in two folders"),
        pytest.param(lambda files: zipped({name.replace("/", "/more/"): files[name] for name in files}), id="deeper"),
        pytest.param(lambda files: zipped({f"train/{name}": content for name, content in files.items()}), id="train alone"),
        pytest.param(tarred, id="tar"),
        pytest.param(lambda files: tarred({f"{'x' * 150}/{name}": files[name] for name in files}), id="long names, pax"),
        pytest.param(
            lambda files: tarred({f"{'x' * 150}/{name}": files[name] for name in files}, form=1), id="long names, GNU"
        ),
        pytest.param(lambda files: tarred(files, form=0), id="tar, ustar"),
        pytest.param(lambda files: tarred(files, compressed=True), id="tar.gz"),
        pytest.param(lambda files: hub_parquet([*files.values()], [0, 0, 0, 1, 1, 1], ["cat", "dog"]), id="parquet"),
        pytest.param(
            lambda files: hub_parquet([*files.values()], ["cat"] * 3 + ["dog"] * 3, label_type=pa.string()), id="parquet, texts"
        ),
        pytest.param(
            lambda files: hub_parquet(
                [*files.values()], ["cat"] * 3 + ["dog"] * 3, label_type=pa.dictionary(pa.int8(), pa.string())
            ),
            id="parquet, dictionary",
        ),
        pytest.param(
            lambda files: hub_parquet(
                [*files.values()], [0, 0, 0, 1, 1, 1], ["cat", "dog"], columns=("img", "fine_label"), row_group_size=2
            ),
            id="parquet, CIFAR's columns",
        ),
    ],
)
def test_the_same_images_are_the_same_data_set(upload: Upload, content: Callable[[dict[str, bytes]], bytes]) -> None:
    """Whatever they are packed in, and whatever that is called, the id is the same, and the first name stays."""
    first = upload(zipped(pets()), params={"name": "first"})
    assert upload(content(pets()), 200, params={"name": "other"}) == first


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda files: {"kitten" + name[3:] if "cat" in name else name: files[name] for name in files}, id="class name"
        ),
        pytest.param(lambda files: files | {"dog/9.png": image(99)}, id="one more"),
        pytest.param(lambda files: files | {"dog/9.png": files["dog/0.img"]}, id="one twice"),
        pytest.param(lambda files: dict([*files.items()][1:]), id="one fewer"),
        pytest.param(lambda files: files | {"cat/0.img": files["dog/0.img"], "dog/0.img": files["cat/0.img"]}, id="labels"),
        pytest.param(lambda files: {f"{'test' if '0' in name else 'train'}/{name}": files[name] for name in files}, id="split"),
    ],
)
def test_other_content_is_another_data_set(upload: Upload, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Names of classes, labels, split, and every image count."""
    assert upload(zipped(pets()))["id"] != upload(zipped(change(pets())))["id"]


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation", "Test"])
def test_split_folders_become_the_split(upload: Upload, folder: Path, held_out: str) -> None:
    """Images beneath train/ and test/ (or its other names) are counted and stored apart."""
    files = {f"data/{'train' if '2' not in name else held_out}/{name}": content for name, content in pets().items()}
    resource = upload(zipped(files))
    assert counts(resource) == {"cat": (2, 1), "dog": (2, 1)}
    assert (resource["train"], resource["test"]) == (4, 2)
    file = stored(folder, resource)
    assert file.splits.tolist() == [TRAIN] * 4 + [TEST] * 2
    assert file.labels.tolist() == [0, 0, 1, 1, 0, 1]


def test_a_class_may_be_called_train(upload: Upload) -> None:
    """Without a test folder beside it, `train` is a vehicle."""
    files = {name.replace("cat", "train").replace("dog", "ship"): content for name, content in pets().items()}
    assert counts(upload(zipped(files))) == {"ship": (3, 0), "train": (3, 0)}


def test_what_systems_leave_behind_is_ignored(upload: Upload) -> None:
    """Hidden files, macOS's doubles and Windows's thumbnails are not even counted; folder entries are none."""
    junk = {
        "__MACOSX/cat/._0.img": b"x",
        ".DS_Store": b"x",
        "cat/.DS_Store": b"x",
        "cat/Thumbs.db": b"x",
        "cat/desktop.ini": b"x",
        ".git/config": b"x",
        "cat/": b"",
        "empty/": b"",
    }
    assert upload(zipped(pets() | junk)) == upload(zipped(pets()))
    assert upload(tarred({name: content for name, content in (pets() | junk).items() if content})) == upload(zipped(pets()))


def test_every_bad_image_is_counted_and_named(upload: Upload) -> None:
    """An image is refused by its content, whatever its name; the good ones are kept."""
    bad = {
        "cat/gif.png": image(1, "GIF"),
        "cat/bmp.png": image(1, "BMP"),
        "cat/tiff.png": image(1, "TIFF"),
        "cat/text.jpg": b"not an image at all, but quite long enough to look at",
        "cat/page.png": b"<!doctype html><html></html>",
        "cat/nothing.png": b"",
        "cat/cut.png": image(1, size=(64, 64))[:-200],
        "cat/cut.jpg": image(1, "JPEG", (64, 64))[:-300],
        "cat/cut.webp": image(1, "WEBP", (64, 64))[:-30],
        "cat/magic.jpg": b"\xff\xd8\xff",
        "cat/flipped.png": image(1)[:40] + b"\xff\xff" + image(1)[42:],
        "cat/moving.png": animated("PNG"),
        "cat/moving.webp": animated("WEBP"),
        "README.md": b"# about",
        "stray.png": image(77),
    }
    resource = upload(zipped(pets() | bad))
    assert resource["images"] == 6
    assert resource["refused"] == {"format": 6, "empty": 1, "damaged": 5, "animated": 2, "no_class": 1}
    examples = {(item["name"], item["reason"]) for item in resource["refused_examples"]}
    assert {("cat/moving.webp", "animated"), ("stray.png", "no_class"), ("cat/nothing.png", "empty")} <= examples
    assert resource["id"] == upload(zipped(pets()))["id"]


def test_photographs_of_phones_are_accepted(upload: Upload) -> None:
    """A JPEG with a second picture behind it (MPO) is a JPEG."""
    double = animated("MPO")
    resource = upload(zipped(pets() | {"cat/phone.jpg": double}))
    assert (resource["refused"], resource["formats"]["JPEG"]) == ({}, 3)


def test_odd_but_valid_images_are_accepted(upload: Upload) -> None:
    """Grey, palette, alpha, CMYK and 16-bit images are images."""
    odd = {
        "cat/grey.png": image(1, mode="L"),
        "cat/palette.png": image(2, mode="P"),
        "cat/alpha.png": image(3, mode="RGBA"),
        "cat/cmyk.jpg": image(4, "JPEG", mode="CMYK"),
        "cat/deep.png": image(5, mode="I;16"),
        "cat/bits.png": image(6, mode="1"),
        "cat/tiny.png": image(7, size=(1, 1)),
        "cat/long.png": image(8, size=(1, 3000)),
    }
    resource = upload(zipped(pets() | odd))
    assert (resource["refused"], resource["images"]) == ({}, 14)
    assert (resource["min_side"], resource["max_side"]) == (1, 3000)


def test_rows_without_image_or_label_are_counted(upload: Upload) -> None:
    """Parquet's gaps, and the Hub's -1 for an unknown label, are reasons too."""
    contents = [*pets().values(), None, image(50), image(51), b"text"]
    resource = upload(hub_parquet(contents, [0, 0, 0, 1, 1, 1, 0, -1, None, 0], ["cat", "dog"]))
    assert resource["refused"] == {"no_image": 1, "no_label": 2, "format": 1}
    assert resource["images"] == 6


def test_classes_without_names_are_called_by_their_numbers(upload: Upload) -> None:
    """Integers that no metadata names are classes in their order."""
    assert counts(upload(hub_parquet([*pets().values()], [10, 10, 10, 9, 9, 9]))) == {"9": (3, 0), "10": (3, 0)}


def test_named_classes_keep_their_labels(upload: Upload) -> None:
    """The order of ClassLabel is kept, and so is a class without images."""
    resource = upload(hub_parquet([*pets().values()], [2, 2, 2, 0, 0, 0], ["dog", "fish", "cat"]))
    assert counts(resource) == {"dog": (3, 0), "fish": (0, 0), "cat": (3, 0)}


def test_a_data_set_may_have_very_many_classes(upload: Upload) -> None:
    """Its description is longer than a pipe holds at once."""
    names = [f"a class with a long name, number {number}" for number in range(20_000)]
    resource = upload(hub_parquet([image(number) for number in range(4)], [0, 1, 2, 19_999], names))
    assert [item["name"] for item in resource["classes"]] == names
    assert resource["images"] == 4


def test_a_form_uploads_too(api: TestClient) -> None:
    """`curl -F file=@pets.zip` works; the file's name is the set's unless the form or the query gives one."""
    files = {f"form{name}": content for name, content in pets().items()}
    sent = {"file": ("C:\\my\\beasts.tar.gz", tarred(files, compressed=True))}
    answer = api.post("/datasets", files=sent)
    assert (answer.status_code, answer.json()["name"]) == (201, "beasts")
    for number, (data, params, expected) in enumerate([({"name": "B"}, {}, "B"), ({"name": "B"}, {"name": "C"}, "C")]):
        more = {"file": ("a.zip", zipped(files | {"formcat/x.png": image(60 + number)}), "application/zip")}
        assert api.post("/datasets", files=more, data=data, params=params).json()["name"] == expected


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "application/zip", "APPLICATION/ZIP; x=y"])
def test_content_types_that_say_the_truth_or_nothing_are_taken(api: TestClient, content_type: str | None) -> None:
    """`curl -T` sends none at all."""
    request = api.build_request("POST", "/datasets", content=zipped(pets()))
    if content_type is not None:
        request.headers["Content-Type"] = content_type
    assert api.send(request).status_code in (200, 201)


def test_the_list_is_newest_first_and_paged(api: TestClient, upload: Upload) -> None:
    """Pages hold summaries; the cursor is the last id."""
    made = [upload(zipped(pets() | {"cat/x.png": image(number)}))["id"] for number in (201, 202, 203)]
    first = api.get("/datasets", params={"limit": 2}).json()
    assert [item["id"] for item in first["data"]] == [made[2], made[1]]
    assert first["has_more"] is True
    assert "classes" not in first["data"][0]
    second = api.get("/datasets", params={"limit": 1, "after": made[1]}).json()
    assert second["data"][0]["id"] == made[0]
    assert_problem(api.get("/datasets", params={"after": "nope"}), 422)


def test_deleting_leaves_nothing(api: TestClient, upload: Upload, folder: Path) -> None:
    """204, then 404; the images are gone, and the same upload is new again."""
    files = pets() | {"cat/x.png": image(123)}
    resource = upload(zipped(files), 201)
    path = stored(folder, resource).path
    assert api.delete(resource["links"]["self"]).status_code == 204
    assert not path.exists()
    assert_problem(api.get(resource["links"]["self"]), 404)
    assert_problem(api.delete(resource["links"]["self"]), 404)
    upload(zipped(files), 201)


def test_a_used_data_set_stays(api: TestClient, upload: Upload, url: str) -> None:
    """While a fine-tune needs it, deleting is 409 and names the fine-tune."""
    resource = upload(zipped(pets()))
    with redis.Redis.from_url(url) as client:
        client.sadd(keys.dataset_jobs(resource["id"]), "ft-needs-it")
        try:
            problem = assert_problem(api.delete(resource["links"]["self"]), 409)
        finally:
            client.srem(keys.dataset_jobs(resource["id"]), "ft-needs-it")
    assert (problem["code"], problem["jobs"]) == ("dataset_in_use", ["ft-needs-it"])
    assert api.get(resource["links"]["self"]).status_code == 200


@pytest.mark.parametrize("name", ["x" * 129, "a\nb", "\x00", "\x7f"])
def test_a_name_that_cannot_be_shown_is_refused(api: TestClient, name: str) -> None:
    """Names are printable and short."""
    problem = assert_problem(api.post("/datasets", params={"name": name}, content=zipped(pets())), 422)
    assert "name" in json.dumps(problem)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_real_images_are_the_same_in_every_container(upload: Upload, folder: Path) -> None:
    """The Hub's parquet, a zip and a tar.gz of the same drawings are one data set, with the labels kept."""
    path = SHARED / "openclipart15-test.parquet"
    contents, labels, names = real_images(path)
    files = {
        f"clip/{names[label]}/{index}.png": content for index, (content, label) in enumerate(zip(contents, labels, strict=True))
    }
    resource = upload(path.read_bytes())
    assert (resource["images"], resource["refused"]) == (617, {})
    assert upload(zipped(files), 200) == upload(tarred(files, compressed=True), 200) == resource
    file = stored(folder, resource)
    assert {(bytes(file.encoded(row)), int(file.labels[row])) for row in range(617)} == set(zip(contents, labels, strict=True))


def test_nothing_is_left_of_uploads(folder: Path, upload: Upload) -> None:
    """After all that, the folder of uploads is empty, and there is one object for each data set."""
    upload(zipped(pets()))
    assert list((folder / "uploads").iterdir()) == []


def test_a_damaged_record_is_said_to_be_one(api: TestClient, url: str) -> None:
    """Of whatever kind it is; the list goes without it."""
    dataset_id = "ds-" + "0" * 32
    with redis.Redis.from_url(url) as client:
        client.hset(keys.dataset(dataset_id), mapping={"record": "{}", "created_at": "2026-01-01T00:00:00+00:00"})
        client.zadd(keys.DATASETS, {dataset_id: 1})
        problem = assert_problem(api.get(f"/datasets/{dataset_id}"), 500)
        assert (problem["code"], "model" in str(problem)) == ("record_unreadable", False)
        assert dataset_id not in api.get("/datasets", params={"limit": 100}).text
        assert api.delete(f"/datasets/{dataset_id}").status_code == 204


def test_the_readme_says_what_is_refused() -> None:
    """Every reason to leave an image out, and every status and code with which an upload is refused."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in readme] == []
    refusals = (UploadStalledError, UploadTooLargeError, UploadTypeError, DatasetRefusedError, StorageFullError)
    for status, code, _ in (ERROR_TABLE[error] for error in refusals):
        assert f"| {status} | `{code}` |" in readme
    for status, code, _ in (ERROR_TABLE[error] for error in (UploadsBusyError, StoreUnavailableError, ObjectStoreError)):
        assert status == 503
        assert f"`{code}`" in readme


def test_the_client_sees_problems(api: TestClient) -> None:
    """Reading what is not there is a problem as everywhere."""
    answer: httpx.Response = api.get("/datasets/ds-nope")
    assert assert_problem(answer, 404)["code"] == "dataset_not_found"
