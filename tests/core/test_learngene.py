"""The learngene's file: round trips, the safetensors library, and every kind of corruption."""

from __future__ import annotations

import json
import os
import re
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tleg_core.description import Measurement, Method
from tleg_core.designs.basis import basis_shapes
from tleg_core.designs.pool import MAX_STITCHES, Anchor, Pool, Stitch
from tleg_core.errors import ConfigError, LearngeneDigestError, LearngeneFileError
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import MAX_ANCHORS
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member
from tleg_core.schedule import Polynomial
from tleg_core.selection import Selection
from tleg_core.tensorfile import MAX_HEADER_BYTES
from tleg_core.vit import VitConfig

from .conftest import METHOD_SCHEDULES, PROVENANCE, LearngeneFactory, build_learngene, build_pool, build_scratch

MICRO = VitConfig(embed_dim=4, num_heads=2, img_size=4, patch_size=2, num_classes=3)
"""So small that a file can be broken in every place."""

CONTENT = bytes(build_learngene(MICRO).content)
HEADER_BYTES = struct.unpack("<Q", CONTENT[:8])[0]
DATA_START = 8 + HEADER_BYTES


def rebuilt(edit_header: Callable[[dict[str, Any]], Any] = lambda _: None, data: bytes = CONTENT[DATA_START:]) -> bytes:
    """Return the micro learngene's file with an edited header (in place, or the value returned) and other data."""
    header = json.loads(CONTENT[8:DATA_START])
    header = edit_header(header) or header
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_description(edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the micro learngene's file with an edited description (in place, or the value returned)."""

    def edit_header(header: dict[str, Any]) -> None:
        description = json.loads(header["__metadata__"]["tleg.learngene"])
        changed = edit(description)
        header["__metadata__"]["tleg.learngene"] = json.dumps(description if changed is None else changed)

    return rebuilt(edit_header)


def with_number(name: str, index: int, value: float) -> bytes:
    """Return the micro learngene's file with one number of a tensor replaced."""
    header = json.loads(CONTENT[8:DATA_START])
    data = bytearray(CONTENT[DATA_START:])
    struct.pack_into("<f", data, header[name]["data_offsets"][0] + 4 * index, value)
    return rebuilt(data=bytes(data))


@pytest.mark.parametrize("method", METHOD_SCHEDULES)
@pytest.mark.parametrize("class_token", [False, True])
def test_a_learngene_survives_its_file(
    method: Method, class_token: bool, make_learngene: LearngeneFactory, tmp_path: Path
) -> None:
    """Written and opened, description, tensors and digest are the same."""
    config = VitConfig(embed_dim=12, num_heads=3, img_size=8, patch_size=4, num_classes=2, class_token=class_token)
    accuracy = (Measurement(depth=6, data_set="digits", top1=0.5, images=100),)
    before = make_learngene(config, method, class_names=("cat", "Ünder\n\"'"), accuracy=accuracy, trained_depth=6)
    path = tmp_path / "a.safetensors"
    before.write(path)
    after = Learngene.open(path)
    assert after.description == before.description
    assert after.digest == before.digest
    assert list(after.tensors) == list(basis_shapes(config, METHOD_SCHEDULES[method].num_components))
    for name, tensor in before.tensors.items():
        assert tensor.tobytes() == after.tensors[name].tobytes()
    assert path.read_bytes() == bytes(before.content) == bytes(after.content)
    assert after.num_params == sum(tensor.size for tensor in before.tensors.values())


def test_the_file_opens_in_safetensors_with_equal_tensors(learngene: Learngene, tmp_path: Path) -> None:
    """The safetensors library reads names, values and metadata."""
    path = tmp_path / "a.safetensors"
    learngene.write(path)
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(learngene.tensors)
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["tleg.learngene"])["digest"] == learngene.digest
        for name, tensor in learngene.tensors.items():
            found = file.get_tensor(name)
            assert found.dtype == np.float32
            assert np.array_equal(found, tensor)


def test_what_was_read_cannot_be_written_to(learngene: Learngene) -> None:
    """The tensors are views of the checked bytes, and read-only."""
    with pytest.raises(ValueError, match="read-only"):
        learngene.tensors["pos_embed"][:] = 0


REGIONS = {
    "nothing": 0,
    "length": 5,
    "length only": 8,
    "header": 8 + HEADER_BYTES // 2,
    "header but one byte": DATA_START - 1,
    "header only": DATA_START,
    "data": (DATA_START + len(CONTENT)) // 2,
    "all but one byte": len(CONTENT) - 1,
}


@pytest.mark.parametrize("region", REGIONS)
def test_a_file_cut_short_anywhere_is_refused(region: str, tmp_path: Path) -> None:
    """Whatever is left, the error names the file."""
    path = tmp_path / "cut.safetensors"
    path.write_bytes(CONTENT[: REGIONS[region]])
    with pytest.raises(LearngeneFileError) as caught:
        Learngene.open(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_every_length_but_the_whole_is_refused() -> None:
    """All cuts, at every 13th byte of the file, and one byte too many."""
    for length in range(0, len(CONTENT), 13):
        with pytest.raises(LearngeneFileError, match=r"^cut: "):
            Learngene.from_bytes("cut", CONTENT[:length])
    with pytest.raises(LearngeneFileError, match=r"^long: "):
        Learngene.from_bytes("long", CONTENT + b"\0")


@settings(max_examples=300)
@given(position=st.integers(0, len(CONTENT) - 1), change=st.integers(1, 255))
def test_a_changed_byte_never_changes_a_weight_unseen(position: int, change: int) -> None:
    """Any one changed byte is a LearngeneFileError, or (in words of the description) leaves tensors and digest as they were."""
    content = bytearray(CONTENT)
    content[position] ^= change
    try:
        found = Learngene.from_bytes("changed", bytes(content))
    except LearngeneFileError as error:
        assert error.source == "changed"  # noqa: PT017 (no error is as good, below)
    else:
        assert position < DATA_START
        assert found.digest == build_learngene(MICRO).digest
        assert bytes(found.content[-1000:]) == CONTENT[-1000:]


def test_a_changed_weight_is_a_digest_error() -> None:
    """One last bit of one number is enough, and the error shows both digests."""
    content = bytearray(CONTENT)
    content[-1] ^= 1
    with pytest.raises(
        LearngeneDigestError, match=r"^x: its content has the digest [0-9a-f]{64}, its description says [0-9a-f]{64}$"
    ):
        Learngene.from_bytes("x", bytes(content))


def rename(header: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return the header with one name replaced in its place."""
    return {new if name == old else name: value for name, value in header.items()}


def set_shape(name: str, shape: list[int]) -> Callable[[dict[str, Any]], None]:
    """Return an edit that gives a tensor another shape of the same size."""
    return lambda header: header[name].update(shape=shape)


def swap_first_two(header: dict[str, Any]) -> dict[str, Any]:
    """Exchange two tensors of equal size: the same names and shapes, other bytes."""
    a, b = "basis.norm1.weight", "basis.norm1.bias"
    header[a], header[b] = header[b], header[a]
    return header


def retyped(header: dict[str, Any]) -> None:
    """Call one tensor I32: the same number of bytes."""
    header["pos_embed"]["dtype"] = "I32"


BROKEN: dict[str, tuple[bytes, str]] = {
    "no metadata": (rebuilt(lambda header: header.pop("__metadata__") and None), "no learngene"),
    "no description": (rebuilt(lambda header: header.update(__metadata__={"format": "pt"})), "no learngene"),
    "description not JSON": (rebuilt(lambda header: header.update(__metadata__={"tleg.learngene": "{"})), "not valid JSON"),
    "description a list": (rebuilt(lambda header: header.update(__metadata__={"tleg.learngene": "[]"})), "must be an object"),
    "description nested deep": (
        rebuilt(lambda header: header.update(__metadata__={"tleg.learngene": "[" * 200_000})),
        "not valid JSON",
    ),
    "another shape": (rebuilt(set_shape("basis.mlp.fc1.weight", [2, 4, 16])), "has the shape"),
    "another rank": (rebuilt(set_shape("norm.weight", [4, 1])), "has the shape"),
    "a renamed tensor": (
        rebuilt(lambda header: rename(header, "norm.weight", "fc_norm.weight")),
        "misses norm.weight and has the",
    ),
    "an extra tensor": (
        rebuilt(lambda header: header.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
        "has the unknown extra",
    ),
    "exchanged tensors": (rebuilt(swap_first_two), "not in a learngene's order"),
    "another type": (rebuilt(retyped), "is I32, a learngene holds F32 only"),
    "NaN in the basis": (
        with_number("basis.attn.qkv.weight", 5, float("nan")),
        "basis.attn.qkv.weight holds NaN or an infinity",
    ),
    "an infinity in the head": (with_number("head.bias", 2, float("-inf")), "head.bias holds NaN or an infinity"),
    "a foreign version": (
        with_description(lambda value: value.update(format=2)),
        "format: is version 2; this version of tleg reads 1",
    ),
    "another number of components": (
        with_description(lambda value: value.update(method="polynomial", schedule={"kind": "polynomial", "num_components": 3})),
        "has the shape",
    ),
    "another width": (with_description(lambda value: value["config"].update(embed_dim=8)), "has the shape"),
    "a class token": (with_description(lambda value: value["config"].update(class_token=True)), "misses cls_token"),
    "another number of heads": (with_description(lambda value: value["config"].update(num_heads=1)), "digest"),
    "another method": (with_description(lambda value: value.update(method="polynomial")), "digest"),
    "no digest": (with_description(lambda value: value.update(digest=None)), "digest"),
    "a number for a digest": (with_description(lambda value: value.update(digest=7)), "digest"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_learngene_is_refused_with_its_name_and_the_reason(name: str) -> None:
    """Each kind of breakage is one clear LearngeneFileError."""
    content, reason = BROKEN[name]
    with pytest.raises(LearngeneFileError, match=reason) as caught:
        Learngene.from_bytes("some.safetensors", content)
    assert str(caught.value).startswith("some.safetensors: ")
    assert len(str(caught.value)) < 500


def test_a_missing_tensor_is_named() -> None:
    """A file without its last tensor, its data cut to fit, misses that tensor."""

    def without_last(header: dict[str, Any]) -> None:
        del header["head.bias"]

    with pytest.raises(LearngeneFileError, match=r"misses head\.bias$"):
        Learngene.from_bytes("x", rebuilt(without_last, CONTENT[DATA_START : -4 * MICRO.num_classes]))


def test_a_tensor_of_half_the_width_is_refused() -> None:
    """float16 data is no learngene, even where header and data agree."""

    def to_half(header: dict[str, Any]) -> None:
        for name, value in header.items():
            if name != "__metadata__":
                value.update(dtype="F16", data_offsets=[offset // 2 for offset in value["data_offsets"]])

    half = np.frombuffer(CONTENT[DATA_START:], dtype="<f4").astype("<f2").tobytes()
    with pytest.raises(LearngeneFileError, match="is F16, a learngene holds F32 only"):
        Learngene.from_bytes("x", rebuilt(to_half, half))


def test_a_huge_header_length_is_refused_before_anything_is_parsed(tmp_path: Path) -> None:
    """The file's first eight bytes decide."""
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + CONTENT[8:])
    with pytest.raises(LearngeneFileError, match=rf"above the limit of {MAX_HEADER_BYTES:,}"):
        Learngene.open(path)


def test_a_descendants_file_is_no_learngene(family: Family) -> None:
    """What the service hands out is told from what it reads."""
    from tleg_core.descendant import Descendant  # noqa: PLC0415 (used here only)

    descendant = Descendant(family, family.recipe(Member(depth=1), Variation()))
    with pytest.raises(LearngeneFileError):
        Learngene.from_bytes("x", descendant.read(0, descendant.size))


def test_words_and_accuracy_keep_the_digest_and_weights_change_it(
    learngene: Learngene, make_learngene: LearngeneFactory
) -> None:
    """Provenance, name, depths and accuracy may be added later; what decides weights may not."""
    measured = (Measurement(depth=3, data_set="digits", top1=0.25, images=10),)
    same = learngene.with_description(
        name="renamed",
        provenance=type(PROVENANCE)(data_set="a", ancestry="b", command="c", version="d", licence="e", notes="f"),
        accuracy=measured,
        class_names=tuple("abcdefghij"),
        design=replace(learngene.description.basis, trained_depth=12, max_depth=20),
    )
    assert same.digest == learngene.digest
    assert same.description.accuracy == measured
    assert same.content != learngene.content
    assert make_learngene(method=Method.POLYNOMIAL, schedule=Polynomial(num_components=2)).digest != learngene.digest
    config = VitConfig.from_json(learngene.description.config.to_json() | {"num_heads": 4})
    assert make_learngene(config).digest != learngene.digest


def test_equal_configurations_have_equal_digests(make_learngene: LearngeneFactory) -> None:
    """An MLP ratio of 4 and one of 4.0 are the same network, so the same digest."""
    assert make_learngene(MICRO).digest == make_learngene(VitConfig(**MICRO.to_json() | {"mlp_ratio": 4})).digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("norm.bias"), "misses norm.bias"),
        (lambda tensors: tensors.update(more=np.zeros(1, dtype=np.float32)), "unknown more"),
        (lambda tensors: tensors.update({"norm.bias": np.zeros(5, dtype=np.float32)}), "has the shape"),
        (lambda tensors: tensors.update({"norm.bias": np.full(4, np.nan, dtype=np.float32)}), "holds NaN"),
        (lambda tensors: tensors.update({"norm.bias": np.zeros(4)}), "float64"),
        (lambda tensors: tensors.update({"norm.bias": np.zeros(4, dtype=np.complex64)}), "complex64"),
        (lambda tensors: tensors.update({"norm.bias": np.zeros(4, dtype=np.int32)}), "int32"),
    ],
)
def test_no_learngene_is_made_of_wrong_tensors(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """Missing, extra, misshapen, not finite or of another type: refused by name before a file exists."""
    good = build_learngene(MICRO)
    tensors = dict(good.tensors)
    change(tensors)
    with pytest.raises(LearngeneFileError, match=reason):
        Learngene.create(good.description, tensors)


def test_strided_tensors_are_stored_in_their_logical_order(make_learngene: LearngeneFactory) -> None:
    """A transposed view and its copy make the same file."""
    good = make_learngene(MICRO)
    strided = {name: np.asfortranarray(tensor) for name, tensor in good.tensors.items()}
    assert Learngene.create(good.description, strided).content == good.content


def json_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from json_paths(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from json_paths(inner, (*path, index))


MICRO_POOL = Pool(
    anchors=(
        Anchor(name="a", config=MICRO, depth=2),
        Anchor(name="b", config=replace(MICRO, embed_dim=6, num_heads=3), depth=2),
    ),
    stitches=(Stitch(source=0, target=1, joins=((0, 1),)), Stitch(source=1, target=0, joins=((0, 1),))),
    paths=(PoolPath.parse("0.0-0_1.1-1"),),
)
CLASSES = ("a", "b", "c")

RICH: dict[str, Learngene] = {
    "basis": build_learngene(
        MICRO,
        class_names=CLASSES,
        accuracy=(Measurement(depth=3, data_set="digits", top1=0.5, images=10),),
        trained_depth=6,
    ),
    "inherited": build_learngene(
        MICRO,
        Method.LEARNGENE,
        class_names=CLASSES,
        selection=Selection(rule="highest", scores=(0.5, 0.1, 0.7), chosen=(0, 2), details={"tasks": [1, 2]}),
    ),
    "pool": build_pool(
        MICRO_POOL,
        class_names=CLASSES,
        accuracy=(
            Measurement.of(Member.along(MICRO_POOL.paths[0]), data_set="digits", top1=0.5, images=10),
            Measurement.of(Member.along(MICRO_POOL.whole(1)), data_set="digits", top1=0.25, images=10),
        ),
    ),
    "scratch": build_scratch(MICRO),
}
"""One learngene of each design, that says all that can be said."""


def description_of(learngene: Learngene) -> dict[str, Any]:
    """Return the description in a learngene's file, as JSON."""
    content = bytes(learngene.content)
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    value: dict[str, Any] = json.loads(header["__metadata__"]["tleg.learngene"])
    return value


RICH_JSON = {kind: description_of(learngene) for kind, learngene in RICH.items()}
PATHS = [
    (kind, *path)
    for kind, value in RICH_JSON.items()
    for path in json_paths(value)
    if path[:2] != ("selection", "details") or len(path) == 2  # what they hold is free
]


def replaced(path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    """Return the description of `path`'s kind with the value at the rest of `path` replaced."""
    kind, *steps = path
    description: dict[str, Any] = json.loads(json.dumps(RICH_JSON[kind]))
    place: Any = description
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = new
    return description


def read_description(kind: str, description: Any) -> Learngene:
    """Read the micro learngene of that kind with this description."""
    content = bytes(RICH[kind].content)
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header["__metadata__"]["tleg.learngene"] = json.dumps(description)
    text = json.dumps(header).encode()
    return Learngene.from_bytes("x", struct.pack("<Q", len(text)) + text + content[start:])


def wrong_types(value: Any) -> list[Any]:
    """Return JSON values of every type that is not the type of `value`."""
    samples = {bool: True, int: 3, float: 2.5, str: "x", list: ["x"], dict: {"x": 1}}
    if type(value) is float:  # a whole number is a number
        samples.pop(int)
    wrong = [sample for kind, sample in samples.items() if kind is not type(value)]
    return wrong if value is None else [*wrong, None]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_a_wrong_type_is_refused_wherever_it_stands(path: tuple[Any, ...]) -> None:
    """Every field of the description has one JSON type (`trained_depth` may be null too)."""
    original: Any = RICH_JSON
    for step in path:
        original = original[step]
    for wrong in wrong_types(original):
        if path[1:] == ("trained_depth",) and (wrong is None or type(wrong) is int):
            continue
        with pytest.raises(LearngeneFileError, match=r"^x: "):
            read_description(path[0], replaced(path, wrong))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_or_extra_field_is_refused_wherever_it_stands(path: tuple[Any, ...]) -> None:
    """No field of an object may lack, and none may be added."""
    parent: Any = RICH_JSON
    for step in path[:-1]:
        parent = parent[step]
    if not isinstance(parent, dict):
        return
    if path[1] == "selection" and len(path) == 2:
        return  # it may be there or not
    lacking = {key: value for key, value in parent.items() if key != path[-1]}
    extra = parent | {"surprise": 1}
    for changed in (lacking, extra):
        with pytest.raises(LearngeneFileError, match=r"^x: "):
            read_description(path[0], replaced(path[:-1], changed) if path[1:-1] else changed)


EXTREMES = [
    10**30,
    -(10**30),
    10**400,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    -0.0,
    "",
    "\ud800",
    "\0",
    "a" * 10_000,
]


@pytest.mark.parametrize("extreme", EXTREMES, ids=lambda value: str(value)[:12].encode("ascii", "backslashreplace").decode())
def test_extreme_values_get_no_other_error(extreme: Any) -> None:
    """Huge, negative, not finite, empty, unpaired: LearngeneFileError, or read where it is a valid value."""
    for path in PATHS:
        try:
            found = read_description(path[0], replaced(path, extreme))
        except LearngeneFileError as error:
            assert error.source == "x"  # noqa: PT017 (no error is as good where the value is valid)
            assert len(str(error)) < 700  # noqa: PT017
        else:
            assert found.digest == RICH[path[0]].digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(RICH)), data=st.data())
def test_no_description_whatsoever_gets_another_error(kind: str, data: st.DataObject) -> None:
    """Random JSON in random places: LearngeneFileError, or a learngene of the same weights that can be written again."""
    description = json.loads(json.dumps(RICH_JSON[kind]))
    paths = [path[1:] for path in PATHS if path[0] == kind]
    for path, new in data.draw(st.lists(st.tuples(st.sampled_from(paths), JSON), min_size=1, max_size=3)):
        place: Any = description
        try:
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = new
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    try:
        found = read_description(kind, description)
    except LearngeneFileError as error:
        assert error.source == "x"  # noqa: PT017 (no error is as good, below)
    else:
        assert found.digest == RICH[kind].digest
        assert Learngene.create(found.description, found.tensors).digest == RICH[kind].digest


def edited(kind: str, edit: Callable[[Any], object]) -> dict[str, Any]:
    """Return a description after an edit in place."""
    description: dict[str, Any] = json.loads(json.dumps(RICH_JSON[kind]))
    edit(description)
    return description


def measured_on(value: Any, count: int) -> None:
    """Have the first measured member measured on so many data sets, in a description."""
    value["accuracy"] = [value["accuracy"][0] | {"data_set": f"set-{index}"} for index in range(count)]


HOSTILE_POOLS: dict[str, Callable[[Any], object]] = {
    "must be 1 to 64, not 0": lambda pool: pool.update(anchors=[], stitches=[], paths=[]),
    "anchors: must be a list of at most": lambda pool: pool.update(anchors=pool["anchors"] * MAX_ANCHORS),
    "two have the same name": lambda pool: pool["anchors"][1].update(name="a"),
    "lower-case": lambda pool: pool["anchors"][1].update(name="../b"),
    "differ in img_size": lambda pool: pool["anchors"][1]["config"].update(img_size=8),
    "differ in num_classes": lambda pool: pool["anchors"][1]["config"].update(num_classes=2),
    "must be from 1 to 1000": lambda pool: pool["anchors"][1].update(depth=10**9),
    "two different anchors": lambda pool: pool["stitches"][0].update(target=0),
    "anchors of 0 to 1": lambda pool: pool["stitches"][0].update(target=10**30),
    "joins nothing": lambda pool: pool["stitches"][0].update(joins=[]),
    "join block 0 to block 2": lambda pool: pool["stitches"][0].update(joins=[[0, 2]]),
    "join block -1": lambda pool: pool["stitches"][0].update(joins=[[-1, 1]]),
    "list of pairs": lambda pool: pool["stitches"][0].update(joins=[[0, 1, 1]]),
    "join two blocks twice": lambda pool: pool["stitches"].append({"source": 0, "target": 1, "joins": [[0, 1]]}),
    "stitches: must be a list of at most": lambda pool: pool.update(stitches=pool["stitches"] * MAX_STITCHES),
    "paths: must be a list of at most": lambda pool: pool.update(paths=["x"] * (MAX_STITCHES + 1)),
    "one stands twice": lambda pool: pool.update(paths=pool["paths"] * 2),
    "is not stitched": lambda pool: pool.update(paths=["0.0-1"]),
    "begin with an anchor's first block": lambda pool: pool.update(paths=["0.1-1_1.1-1"]),
    "no stitch joins block 1 of anchor 0": lambda pool: pool.update(paths=["0.0-1_1.1-1"]),
    "blocks that the pool does not have": lambda pool: pool.update(paths=["0.0-0_1.1-2"]),
    "must be like": lambda pool: pool.update(paths=["0.0-0/1.1-1"]),
    "must be texts": lambda pool: pool.update(paths=[["0.0-0"]]),
}


@pytest.mark.parametrize("reason", HOSTILE_POOLS)
def test_a_pool_that_does_not_hold_together_is_refused_with_the_reason(reason: str) -> None:
    """Anchors, stitches and paths that contradict each other, or of which there are too many."""
    description = edited("pool", lambda description: HOSTILE_POOLS[reason](description["pool"]))
    with pytest.raises(LearngeneFileError, match=re.escape(reason)):
        read_description("pool", description)


@pytest.mark.parametrize(
    ("kind", "edit", "reason"),
    [
        ("pool", lambda value: value.update(method="tleg"), "tleg does not make a pool"),
        ("pool", lambda value: value.update(method="pretrained"), "pretrained does not make a pool"),
        ("scratch", lambda value: value.update(method="tleg"), "is missing"),
        ("basis", lambda value: value.update(method="scratch"), "is not a known field"),
        ("basis", lambda value: value.update(method="learngene"), "is not one of method learngene"),
        ("pool", lambda value: value["accuracy"][0].update(path="0.0-0_1.0-1"), "not offered"),
        ("pool", lambda value: value["accuracy"][0].update(path=value["accuracy"][1]["path"]), "twice"),
        ("pool", lambda value: measured_on(value, 65), "of 65 data sets, more than 64"),
        ("pool", lambda value: value["accuracy"].append({"depth": 2, "data_set": "x", "top1": 0, "images": 1}), "not offered"),
        ("basis", lambda value: value["accuracy"].append({"path": "0.0-2", "data_set": "x", "top1": 0, "images": 1}), "path"),
        ("inherited", lambda value: value["schedule"].update(of=10**30), "schedule.of"),
        ("inherited", lambda value: value["schedule"].update(layers=[2, 0]), "must ascend"),
        ("inherited", lambda value: value["schedule"].update(layers=[]), "schedule.layers"),
        ("inherited", lambda value: value["selection"].update(chosen=[3]), "selection.chosen"),
        ("inherited", lambda value: value["selection"].update(chosen=[0, 1]), "must be of the schedule's layers 0, 2 of 3"),
        ("inherited", lambda value: value["selection"]["scores"].append(0.5), "must be of the schedule's layers 0, 2 of 3"),
        ("basis", lambda value: value.update(selection=RICH_JSON["inherited"]["selection"]), "is not made by method tleg"),
    ],
)
def test_a_description_of_another_design_is_refused_with_the_reason(
    kind: str, edit: Callable[[Any], object], reason: str
) -> None:
    """A method that does not make the design, members that are not offered, choices that are none."""
    with pytest.raises(LearngeneFileError, match=re.escape(reason)):
        read_description(kind, edited(kind, edit))


@pytest.mark.parametrize("kind", RICH)
def test_a_learngene_of_every_design_survives_its_file(kind: str, tmp_path: Path) -> None:
    """Description, tensors, digest and bytes."""
    path = tmp_path / "learngene.safetensors"
    RICH[kind].write(path)
    found = Learngene.open(path)
    assert (found.description, found.digest, found.content) == (RICH[kind].description, RICH[kind].digest, RICH[kind].content)
    assert {name: array.tolist() for name, array in found.tensors.items()} == {
        name: array.tolist() for name, array in RICH[kind].tensors.items()
    }


def test_a_learngene_may_be_measured_on_64_data_sets() -> None:
    """And no more: each is a line of whatever shows it."""
    found = read_description("pool", edited("pool", lambda value: measured_on(value, 64)))
    assert len(found.description.accuracy) == 64


def test_a_changed_stitch_is_a_digest_error() -> None:
    """The last bytes of a pool's file are a stitch's, and the digest covers them."""
    content = bytearray(RICH["pool"].content)
    content[-2] ^= 1
    with pytest.raises(LearngeneDigestError):
        Learngene.from_bytes("x", bytes(content))


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size_bytes`: a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(learngene: Learngene, tmp_path: Path) -> None:
    """A write that fails half way leaves the old file as it was and no temporary one."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with file_size_limit(10_000), pytest.raises(LearngeneFileError, match="cannot be written") as caught:
        learngene.write(path)
    assert caught.value.source == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_a_clear_error(learngene: Learngene, tmp_path: Path) -> None:
    """Nothing is created on the way."""
    with pytest.raises(LearngeneFileError, match="cannot be written: No such file or directory"):
        learngene.write(tmp_path / "missing" / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_a_folder_leaves_nothing_behind(learngene: Learngene, tmp_path: Path) -> None:
    """Where the last step, the renaming, fails, the temporary file goes."""
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(LearngeneFileError, match="cannot be written"):
        learngene.write(tmp_path / "a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert list((tmp_path / "a.safetensors").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_clear_error(learngene: Learngene, tmp_path: Path) -> None:
    """Permission is named as the reason."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(LearngeneFileError, match="cannot be written: Permission denied"):
            learngene.write(tmp_path / "a.safetensors")
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_whole_and_readable(learngene: Learngene, tmp_path: Path) -> None:
    """The new file stands alone under the name, readable for others."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    learngene.write(path)
    assert path.read_bytes() == bytes(learngene.content)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_cannot_be_read_is_a_clear_error(kind: str, tmp_path: Path) -> None:
    """The path and the system's reason are in the message."""
    path = tmp_path / "missing" if kind == "missing" else tmp_path
    with pytest.raises(LearngeneFileError, match=r"cannot be read: (No such file|Is a directory)") as caught:
        Learngene.open(path)
    assert caught.value.source == str(path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "A"}, "name"),
        ({"name": "a"}, "name"),
        ({"name": "a--b"}, "name"),
        ({"name": "-ab"}, "name"),
        ({"name": "ab-"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "ab\n"}, "name"),
        ({"name": "ä1"}, "name"),
        ({"method": Method.STAGEWISE, "schedule": Polynomial()}, "schedule"),
        ({"schedule": Polynomial(num_components=3)}, "schedule"),
        ({"min_depth": 0}, "depths"),
        ({"min_depth": 5, "max_depth": 4}, "depths"),
        ({"max_depth": 1001}, "depths"),
        ({"method": Method.STAGEWISE, "min_depth": 4}, "depths"),
        ({"trained_depth": 0}, "trained_depth"),
        ({"class_names": ("one",)}, "class_names"),
        ({"accuracy": (Measurement(depth=3, data_set="d", top1=0.5, images=1),) * 2}, "accuracy"),
    ],
)
def test_a_description_outside_its_limits_is_refused_by_name(
    changes: dict[str, Any], field: str, make_learngene: LearngeneFactory
) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError) as caught:
        make_learngene(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["ab", "a1", "tleg-tiny-cifar", "0-0", "a" * 63])
def test_a_hub_name_is_a_name(name: str, make_learngene: LearngeneFactory) -> None:
    """Lower-case letters, digits and single inner hyphens, 2 to 63 of them."""
    assert make_learngene(MICRO, name=name).name == name
