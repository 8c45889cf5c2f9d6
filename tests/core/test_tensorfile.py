"""The safetensors container: packing against torch, headers against the safetensors library, and the strict reader."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from tleg_core.dtype import DType
from tleg_core.errors import LearngeneFileError
from tleg_core.tensorfile import MAX_HEADER_BYTES, encode_header, parse_header

SPECIAL_BITS = [0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000]


def float32_bits() -> np.ndarray:
    """Return a million float32 of all exponents, ties of both half types and their neighbours, infinities; no NaN."""
    generator = np.random.default_rng(0)
    random_bits = generator.integers(0, 2**32, 1_000_000, dtype=np.uint32)
    high = generator.integers(0, 2**16, 20_000, dtype=np.uint32) << 16
    bfloat16_ties = np.concatenate([high | low for low in (0x7FFF, 0x8000, 0x8001)])
    middle = generator.integers(0, 2**19, 20_000, dtype=np.uint32) << 13
    float16_ties = np.concatenate([middle | low for low in (0x0FFF, 0x1000, 0x1001)])
    values = np.concatenate([random_bits, bfloat16_ties, float16_ties, np.array(SPECIAL_BITS, dtype=np.uint32)]).view(
        np.float32
    )
    return values[~np.isnan(values)]


@pytest.mark.parametrize("dtype", DType)
def test_packing_equals_torchs_cast_bit_for_bit(dtype: DType) -> None:
    """Round to nearest, ties to even, overflow to infinity: the bytes are those of torch's `.to(dtype)`."""
    values = float32_bits()
    expected = torch.from_numpy(values).to(getattr(torch, dtype.value)).view(torch.uint8).numpy()
    assert dtype.pack(values) == expected.tobytes()


@pytest.mark.parametrize("dtype", DType)
def test_an_empty_slice_packs_to_nothing(dtype: DType) -> None:
    """No elements, no bytes."""
    assert bytes(dtype.pack(np.empty(0, dtype=np.float32))) == b""


@pytest.mark.parametrize("dtype", DType)
def test_a_header_is_what_safetensors_reads(dtype: DType) -> None:
    """A file of our header and torch's bytes opens in the safetensors library with the same tensors."""
    tensors = {
        name: torch.randn(shape).to(getattr(torch, dtype.value)) for name, shape in (("b", (3, 1, 5)), ("a", (7,)), ("ü", (2,)))
    }
    header = encode_header(((name, tuple(tensor.shape)) for name, tensor in tensors.items()), dtype, {"format": "pt"})
    data = b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors.values())
    assert len(header) % 8 == 0
    loaded = load(header + data)
    assert list(json.loads(header[8:])) == ["__metadata__", "b", "a", "ü"]
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_a_file_of_safetensors_own_writer_is_read() -> None:
    """Every common type is understood, scalars and empty tensors included."""
    tensors = {
        "f32": torch.zeros(2, 3),
        "f64": torch.zeros(4, dtype=torch.float64),
        "bf16": torch.zeros(5, dtype=torch.bfloat16),
        "i64": torch.tensor(3),
        "u8": torch.zeros(3, dtype=torch.uint8),
        "bool": torch.zeros(2, dtype=torch.bool),
        "empty": torch.zeros(0, 4),
    }
    content = save(tensors, {"format": "pt", "x": "y"})
    header = parse_header("file", memoryview(content))
    assert header.metadata == {"format": "pt", "x": "y"}
    assert {name: entry.shape for name, entry in header.entries.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        entry = header.entries[name]
        stored = content[header.data_start + entry.start : header.data_start + entry.stop]
        assert stored == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def raw_file(header: bytes, data: bytes = b"", length: int | None = None) -> memoryview:
    """Return a file of a raw header, whatever stands in it."""
    return memoryview(struct.pack("<Q", len(header) if length is None else length) + header + data)


def file_of(header: Any, data: bytes = b"") -> memoryview:
    """Return a file of a header given as a JSON value."""
    return raw_file(json.dumps(header).encode(), data)


def tensor(start: int = 0, stop: int = 4, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    """Return one tensor's description."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


BROKEN: dict[str, memoryview] = {
    "empty file": memoryview(b""),
    "seven bytes": memoryview(b"\0" * 7),
    "length only, header missing": memoryview(struct.pack("<Q", 2)),
    "header cut short": raw_file(b"{}", length=3),
    "length above the limit": raw_file(b"{}", length=MAX_HEADER_BYTES + 1),
    "length of 2^64 - 1": raw_file(b"{}", length=2**64 - 1),
    "empty header": raw_file(b""),
    "not JSON": raw_file(b"{'a': 1}"),
    "not UTF-8": raw_file(b'{"\xff\xfe": 1}'),
    "UTF-16": raw_file(json.dumps({"a": tensor()}).encode("utf-16-le"), bytes(4)),
    "a byte order mark": raw_file(json.dumps({"a": tensor()}).encode("utf-8-sig"), bytes(4)),
    "two JSON values": raw_file(b"{} {}"),
    "a list": file_of([]),
    "a number": file_of(1),
    "deep nesting": raw_file(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "deep lists": raw_file(b"[" * 1_000_000),
    "an integer of a million digits": raw_file(b'{"a":' + b"9" * 1_000_000 + b"}"),
    "a name that stands twice": raw_file(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2), bytes(4)),
    "a key that stands twice inside": raw_file(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)
    ),
    "metadata that is a list": file_of({"__metadata__": []}),
    "metadata that is null": file_of({"__metadata__": None}),
    "metadata that holds a number": file_of({"__metadata__": {"a": 1}}),
    "a tensor that is null": file_of({"a": None}),
    "a tensor without a shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "a tensor with another key": file_of({"a": tensor() | {"stride": [1]}}, bytes(4)),
    "an unknown type": file_of({"a": tensor(dtype="F31")}, bytes(4)),
    "a type that is a list": file_of({"a": tensor(dtype=["F32"])}, bytes(4)),
    "a negative side": file_of({"a": tensor(shape=(-1,))}, bytes(4)),
    "two negative sides": file_of({"a": tensor(shape=(-1, -1))}, bytes(4)),
    "a side that is a boolean": file_of({"a": tensor(shape=(True,))}, bytes(4)),
    "a side that is a fraction": file_of({"a": tensor(shape=(1.0,))}, bytes(4)),
    "a side of 2^70": file_of({"a": tensor(shape=(2**70,))}, bytes(4)),
    "sides whose product wraps 64 bits": file_of({"a": tensor(shape=(2**32, 2**32, 4), stop=0)}),
    "offsets that do not match the shape": file_of({"a": tensor(stop=8)}, bytes(8)),
    "one offset": file_of({"a": tensor() | {"data_offsets": [0]}}, bytes(4)),
    "three offsets": file_of({"a": tensor() | {"data_offsets": [0, 2, 4]}}, bytes(4)),
    "offsets that are fractions": file_of({"a": tensor() | {"data_offsets": [0.0, 4.0]}}, bytes(4)),
    "offsets that are booleans": file_of({"a": tensor(shape=(1,), dtype="U8") | {"data_offsets": [False, True]}}, bytes(1)),
    "negative offsets": file_of({"a": tensor(-4, 0)}, bytes(4)),
    "offsets turned round": file_of({"a": tensor(4, 0)}, bytes(4)),
    "a hole before": file_of({"a": tensor(4, 8)}, bytes(8)),
    "a hole before a long name": file_of({"a" * 100_000: tensor(4, 8)}, bytes(8)),
    "a long name": file_of({"a" * 100_000: None}),
    "a hole between": file_of({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
    "a hole after": file_of({"a": tensor()}, bytes(8)),
    "an overlap": file_of({"a": tensor(0, 8, (2,)), "b": tensor(4, 12, (2,))}, bytes(12)),
    "the same bytes twice": file_of({"a": tensor(), "b": tensor()}, bytes(4)),
    "data cut short": file_of({"a": tensor()}, bytes(3)),
    "no tensors but data": file_of({}, bytes(4)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_header_is_refused_with_the_files_name(name: str) -> None:
    """Each kind of breakage is one LearngeneFileError that names its source, in a message of readable length."""
    with pytest.raises(LearngeneFileError) as caught:
        parse_header("some.safetensors", BROKEN[name])
    assert caught.value.source == "some.safetensors"
    assert str(caught.value).startswith("some.safetensors: ")
    assert len(str(caught.value)) < 300


def test_a_header_above_the_limit_is_refused_before_it_is_parsed() -> None:
    """The length decides: the header behind it, here broken JSON, is never looked at."""
    content = raw_file(b"{" * (MAX_HEADER_BYTES + 1))
    with pytest.raises(LearngeneFileError, match=r"header of 4,194,305 bytes is above the limit of 4,194,304"):
        parse_header("x", content)
    with pytest.raises(LearngeneFileError, match="not valid JSON"):
        parse_header("x", raw_file(b"{" * MAX_HEADER_BYTES))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F32", "BF16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(
    header=st.dictionaries(
        st.sampled_from(["__metadata__", "a", "b"]),
        JSON
        | st.fixed_dictionaries(
            {"dtype": JSON, "shape": st.lists(JSON, max_size=3), "data_offsets": st.lists(JSON, max_size=3)}
        ),
    )
    | JSON,
    data=st.binary(max_size=16),
)
def test_no_header_whatsoever_gets_another_error(header: Any, data: bytes) -> None:
    """Any JSON is read or refused as a LearngeneFileError, and what is read the safetensors library reads too."""
    content = file_of(header, data)
    try:
        parse_header("x", content)
    except LearngeneFileError:
        return
    try:
        load(bytes(content))
    except SafetensorError as error:
        pytest.fail(f"read by us, refused by safetensors: {error}")


@given(content=st.binary(max_size=64))
def test_no_bytes_whatsoever_get_another_error(content: bytes) -> None:
    """Random bytes are refused as a LearngeneFileError."""
    try:
        parse_header("x", memoryview(content))
    except LearngeneFileError as error:
        assert error.source == "x"  # noqa: PT017 (that no error at all is raised is as good)
